"""What a hostile client cannot keep from the others: the room on the disk, the day's bytes, the turns."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self
from uuid import UUID

import pytest

from agent.wire.codec import decode
from agent.wire.messages import Abort, Chunk, Message, Offer, Request, Start
from tests.end_to_end import faults
from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import Server, eventually, make_file
from tests.end_to_end.scripted import ScriptedAgent
from tests.link import Link

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    with faults.small_disk(tmp_path / "disk", mib=64) as disk:
        yield disk


@contextmanager
def running(directory: Path, **settings: str) -> Iterator[Server]:
    server = Server(directory, SILENTMODE_WINDOW=str(MIB), **settings)
    server.start()
    try:
        yield server
    finally:
        code = server.program.terminate()
    assert code == 0
    assert "Traceback" not in server.program.output


def promise(server: Server, agent: ScriptedAgent, client: str, size: int) -> str:
    """Have this client offer so many bytes, and bring the first few; its transfer."""
    transfer = server.ask(client)
    start = agent.offer("huge", size)
    agent.say(Chunk(start.transfer, 0, bytes(4096)))
    server.wait_status(transfer, "receiving")
    return transfer


def test_who_promises_much_and_brings_little_keeps_no_room_from_the_others(
    small_disk: Path, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 40 * MIB)
    with running(small_disk, SILENTMODE_MIN_FREE_SPACE="0", SILENTMODE_RETRIES="0") as server:
        hostile, honest = (server.manage("add_client", name, "--token") for name in ("a", "b"))
        with ScriptedAgent(server.port, "a", hostile) as agent:
            agent.greet()
            promise(server, agent, "a", 50 * MIB)
            start_agent("b", honest, server.port, file=source)
            server.wait_landed(server.ask("b"), source)


def test_of_two_that_have_no_room_together_one_lands(
    small_disk: Path, start_agent: StartAgent, tmp_path: Path
) -> None:
    """They began at once, and neither had shown yet what it brings."""
    source = make_file(tmp_path / "data.bin", 40 * MIB)
    settings = {"SILENTMODE_MIN_FREE_SPACE": "0", "SILENTMODE_RETRIES": "0"}
    with running(small_disk, **settings) as server, ExitStack() as links:
        for name in ("a", "b"):
            link = links.enter_context(Link(server.port))
            link.slow_down(2 * MIB)
            token = server.manage("add_client", name, "--token")
            start_agent(name, token, link.port, file=source).wait_for("registered")
        asked = [server.ask(name) for name in ("a", "b")]
        ends = [server.wait_status(each, "completed", "failed") for each in asked]
        assert sorted(end["status"] for end in ends) == ["completed", "failed"]
        (failed,) = [end for end in ends if end["status"] == "failed"]
        assert failed["error"]["code"] == "storage_full"
        assert failed["checkpoint"] > 0, "a retry goes on from there"


def test_who_promises_much_and_brings_little_uses_up_nobodys_day(
    start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 5 * MIB)
    with running(tmp_path / "server", SILENTMODE_BYTES_PER_DAY=str(10 * MIB)) as server:
        hostile, honest = (server.manage("add_client", name, "--token") for name in ("a", "b"))
        with ScriptedAgent(server.port, "a", hostile) as agent:
            agent.greet()
            promise(server, agent, "a", 9 * MIB)
            start_agent("b", honest, server.port, file=source)
            server.wait_landed(server.ask("b"), source)


class Trickle(threading.Thread):
    """An agent that brings whatever it is asked for, 4 KiB at a time, and never gets done."""

    SIZE = 1 << 30
    PAUSE = 0.1

    def __init__(self, agent: ScriptedAgent) -> None:
        super().__init__()
        self._agent = agent
        self._over = threading.Event()
        self._sends: UUID | None = None
        self._offset = 0
        self.starts: list[int] = []
        """Where it was to begin, each time."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                self._obey(decode(self._agent.socket.recv(timeout=self.PAUSE)))
            except TimeoutError:
                self._send()

    def _obey(self, message: Message) -> None:
        match message:
            case Request():
                self._agent.say(Offer(message.transfer, "huge", self.SIZE, 0, "1", message.path))
            case Start():
                self._sends, self._offset = message.transfer, message.ranges[0][0]
                self.starts.append(self._offset)
                self._send()
            case Abort():
                self._sends = None
                self._agent.say(Abort(message.transfer, message.code))

    def _send(self) -> None:
        if self._sends is not None:
            self._agent.say(Chunk(self._sends, self._offset, bytes(4096)))
            self._offset += 4096


def test_who_is_slow_holds_no_turn_for_ever_while_others_wait(
    start_agent: StartAgent, tmp_path: Path
) -> None:
    """All go round, and nobody loses what was brought, nor a retry."""
    source = make_file(tmp_path / "data.bin", 3 * MIB)
    settings = {
        "SILENTMODE_MAX_ACTIVE_TRANSFERS": "2",
        "SILENTMODE_TURN_SECONDS": "1",
        "SILENTMODE_RETRIES": "0",
        "SILENTMODE_RETRY_PAUSE": "0.1",
    }
    with running(tmp_path / "server", **settings) as server, ExitStack() as agents:
        trickles, held = [], []
        for name in ("a", "b"):
            token = server.manage("add_client", name, "--token")
            agent = agents.enter_context(ScriptedAgent(server.port, name, token)).greet()
            trickles.append(agents.enter_context(Trickle(agent)))
            held.append(server.ask(name))
            server.wait_status(held[-1], "receiving")
        honest = server.manage("add_client", "c", "--token")
        start_agent("c", honest, server.port, file=source)
        server.wait_landed(server.ask("c"), source)
        eventually("one goes on where it was", lambda: any(len(t.starts) > 1 for t in trickles))
        assert max(start for trickle in trickles for start in trickle.starts) > 0
        for transfer in held:
            server.wait_status(transfer, "receiving")


def test_slow_uplinks_that_share_a_turn_land_in_the_end(
    start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 2 * MIB)
    settings = {
        "SILENTMODE_MAX_ACTIVE_TRANSFERS": "1",
        "SILENTMODE_TURN_SECONDS": "1",
        "SILENTMODE_RETRIES": "0",
        "SILENTMODE_RETRY_PAUSE": "0.1",
    }
    with running(tmp_path / "server", **settings) as server, ExitStack() as links:
        for name in ("a", "b"):
            link = links.enter_context(Link(server.port))
            link.slow_down(MIB // 2)
            token = server.manage("add_client", name, "--token")
            start_agent(name, token, link.port, file=source).wait_for("registered")
        asked = [server.ask(name) for name in ("a", "b")]
        for transfer in asked:
            server.wait_landed(transfer, source)
        attempts = [server.transfer(each)["attempts"] for each in asked]
        assert max(attempts) > 1, "they took turns"
