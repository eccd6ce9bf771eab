"""Disks that fail, on the server and on the client: nothing wrong lands, others go on, and it passes."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end import faults
from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import Server, make_file
from tests.link import Link

MIB = 1 << 20

Strace = Callable[..., list[str]]


def in_data(server: Server, folder: str) -> Path:
    return server.directory / "data" / folder


CALLS = {
    "write": ("pwritev,pwritev2", "part"),
    "checkpoint": ("fdatasync", "part"),
    "sync before the rename": ("fsync", "part"),
    "rename": ("rename", "part"),
    "sync of the partial directory": ("fsync", "partial"),
    "sync of the downloads directory": ("fsync", "downloads"),
}


@pytest.mark.parametrize(("error", "code"), [("ENOSPC", "storage_full"), ("EIO", "storage_error")])
@pytest.mark.parametrize(("call", "where"), CALLS.values(), ids=CALLS)
def test_a_call_that_fails_once_delays_its_own_transfer_only(
    start_agent: StartAgent,
    strace: Strace,
    tmp_path: Path,
    call: str,
    where: str,
    error: str,
    code: str,
) -> None:
    server = Server(tmp_path / "server", SILENTMODE_RETRY_PAUSE="0.3")
    server.start()
    with_checkpoint = call == "fdatasync" or where == "partial"
    source = make_file(tmp_path / "data.bin", (70 if with_checkpoint else 3) * MIB)
    tokens = {name: server.manage("add_client", name, "--token") for name in ("unlucky", "other")}
    transfer = server.ask("unlucky")
    server.program.terminate()
    part = in_data(server, "partial") / f"{transfer}.part"
    path = part if where == "part" else in_data(server, where)
    server.start(strace(f"{call}:error={error}:when=1", path=path))
    start_agent("unlucky", tokens["unlucky"], server.port, file=source)
    server.wait_landed(transfer, source)
    assert server.transfer(transfer)["attempts"] >= 2
    assert f"{code}: " in server.program.output
    start_agent("other", tokens["other"], server.port, file=source)
    server.wait_landed(server.ask("other"), source)
    assert server.partials == []
    assert len(server.downloads) == 2
    assert server.program.terminate() == 0


def test_a_disk_that_fails_for_good_fails_its_transfer_and_leaves_nothing(
    start_agent: StartAgent, strace: Strace, tmp_path: Path
) -> None:
    server = Server(tmp_path / "server", SILENTMODE_RETRY_PAUSE="0.1", SILENTMODE_RETRIES="2")
    server.start(strace("pwritev,pwritev2:error=EIO"))
    source = make_file(tmp_path / "data.bin", MIB)
    start_agent(
        "client1", server.manage("add_client", "client1", "--token"), server.port, file=source
    )
    transfer = server.wait_status(server.ask("client1"), "failed")
    assert transfer["error"] == {"code": "storage_error", "detail": "Input/output error (EIO)"}
    assert transfer["attempts"] == 3
    assert (server.partials, server.downloads) == ([], [])
    server.program.terminate()


def fill(disk: Path, but: int) -> Path:
    """A file that leaves so many bytes free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(MIB // 4)):
                pass
        file.truncate(file.tell() - but)
    return filler


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    with faults.small_disk(tmp_path / "disk", mib=64) as disk:
        yield disk


def test_a_disk_that_fills_up_in_the_middle_costs_time_and_a_window(
    small_disk: Path, start_agent: StartAgent, tmp_path: Path
) -> None:
    server = Server(small_disk, SILENTMODE_RETRY_PAUSE="1", SILENTMODE_MIN_FREE_SPACE="0")
    server.start()
    source = make_file(tmp_path / "data.bin", 40 * MIB)
    token = server.manage("add_client", "client1", "--token")
    with Link(server.port) as link:
        link.stall_after(20 * MIB)
        start_agent("client1", token, link.port, file=source)
        transfer = server.ask("client1")
        link.wait_stalled()
        filler = fill(small_disk, but=MIB)
        link.flow()
        kept = server.wait_status(transfer, "interrupted")
        assert kept["error"]["code"] == "storage_full"
        filler.unlink()
        server.wait_landed(transfer, source)
        assert link.sent - 40 * MIB <= 10 * MIB
    server.program.terminate()


def test_room_that_is_not_there_is_noticed_before_a_byte_is_sent(
    small_disk: Path, start_agent: StartAgent, tmp_path: Path
) -> None:
    server = Server(small_disk, SILENTMODE_RETRIES="0", SILENTMODE_MIN_FREE_SPACE=str(30 * MIB))
    server.start()
    make_file(tmp_path / "large", 40 * MIB)
    make_file(tmp_path / "small", MIB)
    token = server.manage("add_client", "client1", "--token")
    with Link(server.port) as link:
        start_agent("client1", token, link.port, roots=[tmp_path])
        transfer = server.wait_status(server.ask("client1", "large"), "failed")
        assert transfer["error"]["code"] == "storage_full"
        assert "SILENTMODE_MIN_FREE_SPACE" in transfer["error"]["detail"]
        assert link.sent < MIB
        server.wait_landed(server.ask("client1", "small"), tmp_path / "small")
    server.program.terminate()


def test_a_clients_disk_that_fails_in_the_middle_costs_another_attempt(
    server: Server, start_agent: StartAgent, strace: Strace, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 30 * MIB)
    token = server.manage("add_client", "client1", "--token")
    failing = strace("pread64,preadv2:error=EIO:when=20", path=source)
    with Link(server.port) as link:
        agent = start_agent("client1", token, link.port, file=source, wrapper=failing)
        transfer = server.ask("client1")
        kept = server.wait_status(transfer, "interrupted")
        assert kept["error"]["code"] == "unreadable"
        assert "Input/output error" in kept["error"]["detail"]
        assert kept["checkpoint"] > 0
        agent.terminate()
        agent = start_agent("client1", token, link.port, file=source)
        server.wait_landed(transfer, source)
        assert "[client] Resuming at byte" in agent.output
        assert link.sent - 30 * MIB <= 4 * MIB


def test_a_clients_disk_that_fails_for_good_is_a_failure_that_says_so(
    start_agent: StartAgent, strace: Strace, tmp_path: Path
) -> None:
    server = Server(tmp_path / "server", SILENTMODE_RETRY_PAUSE="0.1", SILENTMODE_RETRIES="2")
    server.start()
    source = make_file(tmp_path / "data.bin", 30 * MIB)
    token = server.manage("add_client", "client1", "--token")
    failing = strace("pread64,preadv2:error=EIO:when=10+", path=source)
    start_agent("client1", token, server.port, file=source, wrapper=failing)
    transfer = server.wait_status(server.ask("client1"), "failed")
    assert transfer["error"]["code"] == "unreadable"
    assert "Input/output error" in transfer["error"]["detail"]
    assert server.downloads == []
    server.program.terminate()
