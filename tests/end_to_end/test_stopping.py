"""Stopping and starting a server: nothing that arrived is lost, and its agents find it again."""

import contextlib
import http.client
import json
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.wire.messages import Abort, Ack, Chunk
from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import Server, eventually, make_file
from tests.end_to_end.scripted import ScriptedAgent
from tests.link import Link

MIB = 1 << 20
STOP_SECONDS = 10.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_stopped_keeps_what_arrived_and_goes_on_later(
    server: Server, start_agent: StartAgent, tmp_path: Path, number: signal.Signals
) -> None:
    source = make_file(tmp_path / "data.bin", 100 * MIB)
    token = server.manage("add_client", "client1", "--token")
    with Link(server.port) as link:
        link.stall_after(50 * MIB)
        agent = start_agent("client1", token, link.port, file=source)
        transfer = server.ask("client1")
        link.wait_stalled()
        server.program.process.send_signal(number)
        assert server.program.process.wait(STOP_SECONDS) == 0
        assert "[server] Stopping" in server.program.output
        assert "Traceback" not in server.program.output
        link.flow()
        server.start()
        server.wait_landed(transfer, source)
        assert "[client] Resuming at byte" in agent.output
        assert link.sent - 100 * MIB <= 9 * MIB
    assert server.transfer(transfer)["attempts"] == 2


def test_a_request_under_way_is_answered_and_who_comes_later_is_told_when_to_come_back(
    server: Server,
) -> None:
    """Or an operator whose file has been asked for would hear of no transfer, and ask again."""
    server.manage("add_client", "client1", "--token")
    database = sqlite3.connect(server.directory / "data" / "db.sqlite3", isolation_level=None)
    asking = http.client.HTTPConnection("127.0.0.1", server.port)
    with contextlib.closing(database), contextlib.closing(asking):
        database.execute("BEGIN IMMEDIATE")  # what is asked for cannot be written down now
        asking.request(
            "POST", "/download/client1", headers={"Authorization": f"Token {server.token}"}
        )
        assert server.call("GET", "/healthz")[0] == 200  # so what was sent before has been read
        server.program.process.send_signal(signal.SIGTERM)
        server.program.wait_for("[server] Stopping")
        for path in ("/healthz", "/api/v1/transfers/"):
            status, told = server.call("GET", path)
            assert (status, told["code"]) == (503, "stopping")
        database.execute("ROLLBACK")
        answer = asking.getresponse()
        transfer = json.load(answer)
    assert (answer.status, transfer["status"]) == (202, "queued")
    assert server.program.process.wait(STOP_SECONDS) == 0
    assert "Traceback" not in server.program.output
    server.start()
    assert server.transfer(transfer["id"])["status"] == "queued"


def test_an_agent_of_a_server_that_is_stopped_is_told_so(
    server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    token = server.manage("add_client", "client1", "--token")
    with ScriptedAgent(server.port, "client1", token) as agent:
        agent.greet()
        asked = server.ask("client1")
        start = agent.offer("data.bin", 10 * MIB)
        for offset in range(0, 4 * MIB, MIB // 2):
            agent.say(Chunk(start.transfer, offset, bytes(MIB // 2)))
        agent.hear(Ack)
        server.program.process.terminate()
        heard, code = agent.last_words()
    assert code == 4012
    assert heard[-1] == Abort(None, "cancelled", "The server is being stopped.")
    assert server.program.process.wait(STOP_SECONDS) == 0
    server.start()
    kept = server.transfer(asked)
    assert (kept["status"], kept["checkpoint"] > 0) == ("interrupted", True)


def test_a_cancel_reaches_the_agent_while_the_servers_disk_hangs(
    start_agent: StartAgent, tmp_path: Path, strace: Callable[..., list[str]]
) -> None:
    """The agent stops at once; what has arrived goes when the disk lets it."""
    server = Server(tmp_path / "server")
    server.start(strace("pwritev,pwritev2:delay_enter=20s:when=2"))
    token = server.manage("add_client", "client1", "--token")
    source = make_file(tmp_path / "data.bin", 100 * MIB)
    agent = start_agent("client1", token, server.port, file=source)
    agent.wait_for("registered")
    transfer = server.ask("client1")
    agent.wait_for("Sending file")
    assert server.call("POST", f"/api/v1/transfers/{transfer}/cancel/")[0] == 200
    agent.wait_for("[client] Stopped by the server")
    assert len(server.partials) == 1, "the disk still hangs, and nobody has waited for it"
    eventually("no partial file", lambda: server.partials == [])
    server.wait_status(transfer, "cancelled")
    server.program.terminate()
