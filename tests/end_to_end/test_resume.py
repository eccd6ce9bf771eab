"""Whatever breaks on the way, the transfer goes on by itself where it was, and lands with the right hash."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import AgentProgram, Server, eventually, make_file
from tests.link import Link

MIB = 1 << 20


@pytest.fixture
def link(server: Server) -> Iterator[Link]:
    with Link(server.port) as link:
        yield link


@pytest.fixture
def token(server: Server) -> str:
    return server.manage("add_client", "client1", "--token")


def begin(
    server: Server, link: Link, start_agent: StartAgent, token: str, source: Path, stall: int
) -> tuple[AgentProgram, str]:
    """A transfer that stands still after `stall` bytes on the link."""
    link.stall_after(stall)
    agent = start_agent("client1", token, link.port, file=source)
    transfer = server.ask("client1")
    link.wait_stalled()
    return agent, transfer


def test_a_cut_link_costs_at_most_a_window(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 60 * MIB)
    agent, transfer = begin(server, link, start_agent, token, source, 40 * MIB)
    link.cut()
    link.flow()
    server.wait_landed(transfer, source)
    assert "[client] Resuming at byte" in agent.output
    assert link.sent - 60 * MIB <= 9 * MIB
    assert server.transfer(transfer)["attempts"] == 2


def test_a_killed_agent_costs_at_most_16_mib(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 100 * MIB)
    agent, transfer = begin(server, link, start_agent, token, source, 60 * MIB)
    agent.kill()
    link.flow()
    server.wait_status(transfer, "interrupted")
    again = start_agent("client1", token, link.port, file=source)
    server.wait_landed(transfer, source)
    assert "[client] Resuming at byte" in again.output
    assert link.sent - 100 * MIB <= 16 * MIB


def test_a_killed_server_costs_at_most_80_mib_and_the_transfer_goes_on_by_itself(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 200 * MIB)
    agent, transfer = begin(server, link, start_agent, token, source, 150 * MIB)
    server.program.kill()
    link.flow()
    server.start()
    server.wait_landed(transfer, source)
    assert "[client] Resuming at byte" in agent.output
    assert link.sent - 200 * MIB <= 80 * MIB


def test_a_source_that_changes_while_the_link_is_down_is_sent_anew(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 30 * MIB)
    _, transfer = begin(server, link, start_agent, token, source, 20 * MIB)
    link.cut()
    make_file(source, 25 * MIB)
    link.flow()
    server.wait_landed(transfer, source)


def test_a_source_that_changes_while_it_is_read_is_sent_anew(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 30 * MIB)
    agent, transfer = begin(server, link, start_agent, token, source, 20 * MIB)
    with source.open("r+b") as file:
        file.seek(29 * MIB)
        file.write(b"changed")
    link.flow()
    server.wait_landed(transfer, source)
    assert "source_changed" in agent.output


def test_a_cancelled_transfer_stops_and_leaves_nothing(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 100 * MIB)
    link.slow_down(10 * MIB)
    agent = start_agent("client1", token, link.port, file=source)
    transfer = server.ask("client1")
    server.wait_status(transfer, "receiving")
    assert server.call("POST", f"/api/v1/transfers/{transfer}/cancel/")[0] == 200
    agent.wait_for("Stopped by the server")
    link.slow_down(None)
    eventually("no partial file", lambda: server.partials == [])
    assert server.downloads == []
    assert server.transfer(transfer)["status"] == "cancelled"
    server.wait_landed(server.ask("client1"), source)


def test_a_new_connection_of_the_same_client_takes_over_at_once(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 60 * MIB)
    old, transfer = begin(server, link, start_agent, token, source, 30 * MIB)
    start_agent("client1", token, server.port, file=source)
    server.wait_landed(transfer, source)
    link.flow()
    old.wait_for("another agent connected")


def test_a_stopped_server_finds_its_agents_again(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", MIB)
    agent = start_agent("client1", token, link.port, file=source)
    agent.wait_for("registered as client1")
    assert server.program.terminate() == 0
    server.start()
    agent.wait_for("registered as client1", times=2)
    server.wait_landed(server.ask("client1"), source)


def test_a_client_is_shown_offline_once_its_agent_has_gone(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    agent = start_agent("client1", token, link.port, roots=[tmp_path])
    online = "a client that is online"
    eventually(online, lambda: server.call("GET", "/api/v1/clients/client1/")[1]["online"])
    agent.terminate()
    gone = "a client that is offline"
    eventually(gone, lambda: not server.call("GET", "/api/v1/clients/client1/")[1]["online"])
