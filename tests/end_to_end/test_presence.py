"""Who is online is true, and requests arrive, whatever the link and the doorbell lose."""

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from agent.wire.messages import Abort, Chunk
from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import Server, eventually, make_file
from tests.end_to_end.scripted import ScriptedAgent
from tests.link import Link

MIB = 1 << 20


@pytest.fixture
def link(server: Server) -> Iterator[Link]:
    with Link(server.port) as link:
        yield link


def is_online(server: Server, client: str) -> bool:
    return bool(server.call("GET", f"/api/v1/clients/{client}/")[1]["online"])


def test_a_black_holed_client_is_offline_within_a_minute_and_goes_on_when_it_is_back(
    server: Server, link: Link, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Nobody says a word: no RST, no FIN, no answer to a ping; and the agent's side heals first."""
    source = make_file(tmp_path / "data.bin", 60 * MIB)
    token = server.manage("add_client", "client1", "--token")
    link.stall_after(30 * MIB)
    agent = start_agent("client1", token, link.port, file=source)
    transfer = server.ask("client1")
    link.wait_stalled()
    link.black_hole()
    link.flow()
    began = time.monotonic()
    gone = "a client that is shown offline"
    eventually(gone, lambda: not is_online(server, "client1"), seconds=60)
    seen = server.call("GET", "/api/v1/clients/client1/")[1]["last_seen"]
    assert (datetime.now().astimezone() - datetime.fromisoformat(seen)).total_seconds() <= 60
    server.wait_status(transfer, "interrupted", seconds=60 - (time.monotonic() - began))
    link.heal()
    server.wait_landed(transfer, source)
    assert "offline: nothing heard for 45 s" in agent.output
    assert link.sent - 60 * MIB <= 9 * MIB
    assert server.transfer(transfer)["error"] is None


def test_a_predecessor_is_closed_and_writes_nothing_more(server: Server) -> None:
    token = server.manage("add_client", "client1", "--token")
    with ScriptedAgent(server.port, "client1", token) as old:
        old.greet()
        asked = server.ask("client1")
        start = old.offer("data.bin", 10 * MIB)
        old.say(Chunk(start.transfer, 0, bytes(MIB // 2)))
        with ScriptedAgent(server.port, "client1", token) as new:
            new.greet()
            with contextlib.suppress(ConnectionClosed):
                for offset in range(MIB // 2, 8 * MIB, MIB // 2):
                    old.say(Chunk(start.transfer, offset, b"x" * (MIB // 2)))
            heard, code = old.last_words()
            again = new.offer("data.bin", 10 * MIB)
            assert code == 4001
            assert isinstance(heard[-1], Abort)
            begin = again.ranges[0][0]
            new.say(Chunk(start.transfer, begin, bytes(MIB // 2)))
            held = server.wait_status(asked, "receiving")
            assert held["attempts"] == 2


def test_every_transfer_ends_although_every_fifth_ring_is_lost(
    start_agent: StartAgent, tmp_path: Path
) -> None:
    """What no ring said, the roll call finds."""
    server = Server(tmp_path / "server", DJANGO_SETTINGS_MODULE="tests.end_to_end.lossy")
    server.start()
    names = [f"till{number}" for number in range(4)]
    source = make_file(tmp_path / "data.bin", MIB)
    for name in names:
        start_agent(name, server.manage("add_client", name, "--token"), server.port, file=source)
    landing = [server.ask(name, duplicate=True) for name in names for _ in range(5)]
    for transfer in landing:
        server.wait_landed(transfer, source)
    assert server.program.output.count("a ring is lost") >= 4
    assert server.program.terminate() == 0
