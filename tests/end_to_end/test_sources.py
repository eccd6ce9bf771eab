"""A source that moves while it is sent: one whole version lands, or a failure that says why."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import Server, make_file, sha256
from tests.link import Link

MIB = 1 << 20
SIZE = 24 * MIB


def grow(source: Path) -> None:
    with source.open("ab") as file:
        file.write(b"one sale more")


def shrink(source: Path) -> None:
    with source.open("r+b") as file:
        file.truncate(20 * MIB)


def rewrite(source: Path) -> None:
    """In place: as long as before."""
    with source.open("r+b") as file:
        file.seek(SIZE - 9)
        file.write(b"rewritten")


def replace(source: Path) -> None:
    make_file(source.with_name("new"), 22 * MIB).replace(source)


def rotate(source: Path) -> None:
    source.rename(source.with_name("data.bin.1"))
    make_file(source, MIB)


@pytest.fixture
def token(server: Server) -> str:
    return server.manage("add_client", "client1", "--token")


@pytest.mark.parametrize("move", [grow, shrink, rewrite, replace, rotate])
def test_a_source_that_moves_lands_as_what_it_is_in_the_end(
    server: Server,
    start_agent: StartAgent,
    tmp_path: Path,
    token: str,
    move: Callable[[Path], None],
) -> None:
    source = make_file(tmp_path / "data.bin", SIZE)
    with Link(server.port) as link:
        link.stall_after(12 * MIB)
        agent = start_agent("client1", token, link.port, file=source)
        transfer = server.ask("client1")
        link.wait_stalled()
        move(source)
        link.flow()
        landed = server.wait_landed(transfer, source)
    assert "source_changed" in agent.output
    assert server.downloads == [landed]


def test_a_source_that_is_removed_is_not_found(
    server: Server, start_agent: StartAgent, tmp_path: Path, token: str
) -> None:
    source = make_file(tmp_path / "data.bin", SIZE)
    with Link(server.port) as link:
        link.stall_after(12 * MIB)
        start_agent("client1", token, link.port, file=source)
        transfer = server.ask("client1")
        link.wait_stalled()
        source.unlink()
        link.flow()
        failed = server.wait_status(transfer, "failed")
    assert failed["error"]["code"] == "not_found"
    assert server.downloads == []


def test_a_source_that_never_stands_still_fails_after_three_fresh_starts(
    server: Server, start_agent: StartAgent, tmp_path: Path, token: str
) -> None:
    source = make_file(tmp_path / "data.bin", SIZE)
    with Link(server.port) as link:
        link.every(6 * MIB, lambda: grow(source))
        start_agent("client1", token, link.port, file=source)
        failed = server.wait_status(server.ask("client1"), "failed")
    assert failed["error"]["code"] == "source_changed"
    assert failed["attempts"] == 4
    assert (server.partials, server.downloads) == ([], [])


def test_a_change_between_two_attempts_is_never_mixed_with_what_came_before(
    server: Server, start_agent: StartAgent, tmp_path: Path, token: str
) -> None:
    source = make_file(tmp_path / "data.bin", SIZE)
    old = sha256(source)
    with Link(server.port) as link:
        link.stall_after(12 * MIB)
        start_agent("client1", token, link.port, file=source)
        transfer = server.ask("client1")
        link.wait_stalled()
        link.cut()
        server.wait_status(transfer, "interrupted")
        rewrite(source)
        link.flow()
        landed = server.wait_landed(transfer, source)
    assert sha256(landed) != old
