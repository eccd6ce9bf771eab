"""What may be read, how it is opened, and that a change while reading is noticed."""

import contextlib
import hashlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.source import (
    BLOCK,
    Policy,
    Source,
    SourceError,
    blocks,
    fingerprint,
    let_mtime_settle,
)

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="links, FIFOs and devices of POSIX"),
    pytest.mark.timeout(30),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory that may be pulled from, with one file directly in it and one below."""
    root = tmp_path / "root"
    (root / "logs").mkdir(parents=True)
    (root / "data.bin").write_bytes(b"data")
    (root / "logs" / "today.log").write_bytes(b"log")
    return root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that may not be pulled from."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    return outside


def content(policy: Policy, path: str | None) -> bytes:
    source = Source.open(policy, path)
    try:
        return source.read(0, source.size)
    finally:
        source.close()


def refusal(policy: Policy, path: str | None) -> str:
    """The code with which opening fails; what the server is told fits on the wire."""
    with pytest.raises(SourceError) as refused:
        Source.open(policy, path)
    assert refused.value.detail == str(refused.value)
    return refused.value.code


def descriptors(path: Path) -> int:
    """How often this process has a file open."""
    here = Path("/proc/self/fd")
    if not here.is_dir():
        pytest.skip("no /proc to count descriptors in")
    return sum(fd.exists() and fd.samefile(path) for fd in list(here.iterdir()))


# What may be read


def test_nothing_may_be_read_by_default(root: Path) -> None:
    assert refusal(Policy(), None) == "forbidden"
    assert refusal(Policy(), str(root / "data.bin")) == "forbidden"
    assert refusal(Policy(), "data.bin") == "forbidden"


def test_without_roots_only_the_file_may_be_read(root: Path) -> None:
    policy = Policy(root / "data.bin")
    assert content(policy, None) == b"data"
    assert content(policy, str(root / "data.bin")) == b"data"
    assert refusal(policy, str(root / "logs" / "today.log")) == "forbidden"
    assert refusal(policy, "logs/today.log") == "forbidden"


def test_the_file_may_be_asked_for_as_it_was_given_or_by_its_absolute_path(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    policy = Policy(Path("data.bin"))
    assert content(policy, "data.bin") == content(policy, str(root / "data.bin")) == b"data"


def test_the_file_may_be_asked_for_with_the_dot_that_it_was_given_with(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--file ./data.bin`, as in the README, and `manage.py pull client1 ./data.bin`."""
    monkeypatch.chdir(root)
    assert content(Policy(Path("./data.bin")), "./data.bin") == b"data"


def test_the_file_may_be_a_link(root: Path, outside: Path) -> None:
    """The person who configured the agent named it, wherever it leads."""
    (outside / "link").symlink_to(root / "data.bin")
    assert content(Policy(outside / "link"), None) == b"data"


def test_with_only_roots_a_path_must_be_named(root: Path) -> None:
    assert refusal(Policy(roots=[root]), None) == "forbidden"


@pytest.mark.parametrize("path", ["data.bin", "logs/today.log", "logs/../data.bin", "./data.bin"])
def test_relative_paths_below_a_root(root: Path, path: str) -> None:
    assert content(Policy(roots=[root]), path) in (b"data", b"log")


def test_absolute_paths_below_a_root(root: Path) -> None:
    assert content(Policy(roots=[root]), str(root / "logs" / "today.log")) == b"log"


def test_each_of_several_roots_is_looked_into_in_turn(root: Path, outside: Path) -> None:
    policy = Policy(roots=[root, outside])
    assert content(policy, "data.bin") == b"data"
    assert content(policy, "secret") == b"secret"
    assert content(policy, str(outside / "secret")) == b"secret"
    assert refusal(policy, "neither") == "not_found"


def test_a_root_may_itself_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    policy = Policy(roots=[tmp_path / "link"])
    assert content(policy, "data.bin") == b"data"
    assert content(policy, str(tmp_path / "link" / "data.bin")) == b"data"


def test_the_root_directory_as_a_root_allows_everything(root: Path) -> None:
    assert content(Policy(roots=[Path("/")]), str(root / "data.bin")) == b"data"


@pytest.mark.parametrize(
    "path",
    ["../outside/secret", "logs/../../outside/secret", "/etc/passwd", "..", "../root-2/data.bin"],
)
def test_nothing_above_or_beside_a_root_may_be_read(root: Path, outside: Path, path: str) -> None:
    assert refusal(Policy(roots=[root]), path) == "forbidden"


def test_whether_a_forbidden_file_exists_is_not_told(root: Path, outside: Path) -> None:
    policy = Policy(roots=[root])
    assert refusal(policy, str(outside / "secret")) == "forbidden"
    assert refusal(policy, str(outside / "no such file")) == "forbidden"


# Links


def test_a_link_to_a_file_outside_is_not_followed(root: Path, outside: Path) -> None:
    (root / "link").symlink_to(outside / "secret")
    assert refusal(Policy(roots=[root]), "link") == "forbidden"


def test_a_link_to_a_directory_outside_is_not_followed(root: Path, outside: Path) -> None:
    (root / "link").symlink_to(outside)
    assert refusal(Policy(roots=[root]), "link/secret") == "forbidden"


def test_a_link_that_stays_inside_works(root: Path) -> None:
    (root / "file").symlink_to("logs/today.log")
    (root / "directory").symlink_to(root / "logs")
    policy = Policy(roots=[root])
    assert content(policy, "file") == content(policy, "directory/today.log") == b"log"


def test_a_link_from_one_root_to_another_works(root: Path, outside: Path) -> None:
    (root / "link").symlink_to(outside / "secret")
    assert content(Policy(roots=[root, outside]), str(outside / "secret")) == b"secret"


def test_a_directory_that_becomes_a_link_after_the_check_is_not_followed(
    root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (outside / "today.log").write_bytes(b"secret")
    located = Policy(roots=[root]).locate("logs/today.log")
    (root / "logs").rename(root / "old")
    (root / "logs").symlink_to(outside)
    monkeypatch.setattr(Policy, "locate", lambda self, path: located)
    assert refusal(Policy(roots=[root]), "logs/today.log") in ("not_found", "unreadable")


def test_a_file_that_becomes_a_link_after_the_check_is_not_followed(
    root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    located = Policy(roots=[root]).locate("data.bin")
    (root / "data.bin").unlink()
    (root / "data.bin").symlink_to(outside / "secret")
    monkeypatch.setattr(Policy, "locate", lambda self, path: located)
    assert refusal(Policy(roots=[root]), "data.bin") == "not_a_file"


def test_a_loop_of_links_ends_in_a_refusal(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    policy = Policy(root / "a", [root])
    assert refusal(policy, None) == "not_a_file"
    assert refusal(policy, "b") == "not_a_file"
    assert refusal(policy, "b/data.bin") == "not_found"


# What is no regular file, or cannot be had


def directory(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)  # no one writes to it: opening it without O_NONBLOCK would wait for ever


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)  # relative: a socket's path has at most 107 bytes


@pytest.mark.parametrize("make", [directory, fifo, unix_socket])
def test_what_is_no_regular_file_is_refused_without_being_opened(
    root: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    make(root / "special")
    opened = watch_opening(monkeypatch)
    assert refusal(Policy(root / "special"), None) == "not_a_file"
    assert refusal(Policy(roots=[root]), "special") == "not_a_file"
    assert "special" not in {Path(path).name for path in opened}


def test_devices_are_refused_without_being_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a device can rewind a tape; reading /dev/zero never ends."""
    opened = watch_opening(monkeypatch)
    assert refusal(Policy(roots=[Path("/dev")]), "zero") == "not_a_file"
    assert refusal(Policy(Path("/dev/zero")), None) == "not_a_file"
    assert "zero" not in {Path(path).name for path in opened}


def watch_opening(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []
    really_open = os.open

    def watched(path: Any, *args: Any, **kwargs: Any) -> int:
        opened.append(os.fspath(path))
        return really_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", watched)
    return opened


def test_a_root_itself_is_no_file(root: Path) -> None:
    policy = Policy(roots=[root])
    assert refusal(policy, ".") == "not_a_file"
    assert refusal(policy, str(root)) == "not_a_file"


def test_a_missing_file_is_not_found(root: Path) -> None:
    policy = Policy(root / "gone", [root])
    assert refusal(policy, None) == "not_found"
    assert refusal(policy, "nowhere/gone") == "not_found"
    assert refusal(policy, "data.bin/gone") == "not_found"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_unreadable(root: Path) -> None:
    (root / "data.bin").chmod(0)
    assert refusal(Policy(roots=[root]), "data.bin") == "unreadable"


def test_an_error_of_the_disk_is_unreadable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> bytes:
        raise OSError(5, "Input/output error")

    source = Source.open(Policy(root / "data.bin"), None)
    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(SourceError, match="Input/output error") as error:
        source.read(0, 4)
    assert error.value.code == "unreadable"
    source.close()


def test_a_nul_in_a_path_is_refused(root: Path) -> None:
    assert refusal(Policy(roots=[root]), "data.bin\0.txt") in ("unreadable", "forbidden")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are always UTF-8")
def test_a_name_that_is_not_utf_8_is_offered_with_replacements(root: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.txt"))
    path.write_bytes(b"latin 1")
    source = Source.open(Policy(path), None)
    assert source.name == "caf\N{REPLACEMENT CHARACTER}.txt"
    assert source.read(0, source.size) == b"latin 1"
    source.close()


# Changes while opening and reading


def swap_before_opening(monkeypatch: pytest.MonkeyPatch, swap: Callable[[], None]) -> None:
    """Have `swap` happen between the look at the file and its opening."""
    really_stat = os.stat

    def swapping(path: Any, *, dir_fd: Any = None, follow_symlinks: bool = True) -> Any:
        status = really_stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if not follow_symlinks:
            monkeypatch.setattr(os, "stat", really_stat)
            swap()
        return status

    monkeypatch.setattr(os, "stat", swapping)


def test_a_file_swapped_while_it_is_opened_is_noticed(
    root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap_before_opening(monkeypatch, lambda: os.replace(outside / "secret", root / "data.bin"))
    assert refusal(Policy(roots=[root]), "data.bin") == "source_changed"
    assert descriptors(root / "data.bin") == 0


def test_a_fifo_swapped_in_does_not_block(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "fifo")
    swap_before_opening(monkeypatch, lambda: os.replace(root / "fifo", root / "data.bin"))
    assert refusal(Policy(roots=[root]), "data.bin") == "source_changed"


def test_a_fifo_that_got_the_inode_number_of_the_file_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ext4 gives the number of a removed file to the next one; the empty FIFO would be sent as a file."""
    os.mkfifo(root / "fifo")
    swap_before_opening(monkeypatch, lambda: os.replace(root / "fifo", root / "data.bin"))
    monkeypatch.setattr(os.path, "samestat", lambda one, other: True)
    assert refusal(Policy(roots=[root]), "data.bin") in ("not_a_file", "source_changed")


def test_reading_beyond_the_end_of_a_file_that_shrank_is_noticed(root: Path) -> None:
    source = Source.open(Policy(root / "data.bin"), None)
    os.truncate(root / "data.bin", 2)
    with pytest.raises(SourceError) as changed:
        source.read(0, 4)
    assert changed.value.code == "source_changed"
    source.close()


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    path.write_bytes(b"DATA")
    touch(path)  # two writes within one tick of the clock may leave the same time


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [append, rewrite, touch])
def test_a_change_while_reading_is_noticed(root: Path, change: Callable[[Path], None]) -> None:
    source = Source.open(Policy(root / "data.bin"), None)
    source.check_unchanged()
    change(root / "data.bin")
    with pytest.raises(SourceError) as changed:
        source.check_unchanged()
    assert changed.value.code == "source_changed"
    source.close()


def test_a_file_that_can_no_longer_be_looked_at_is_unreadable(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system that went away (ESTALE): an answer to the server, not a lost link."""

    def stale(descriptor: int) -> os.stat_result:
        raise OSError(116, "Stale file handle")

    source = Source.open(Policy(root / "data.bin"), None)
    with contextlib.closing(source), monkeypatch.context() as patch:
        patch.setattr("agent.source.os.fstat", stale)
        with pytest.raises(SourceError, match="Stale file handle"):
            source.check_unchanged()


def replaced(file: Path) -> None:
    file.with_name("new").write_bytes(b"data")
    file.with_name("new").replace(file)


def renamed_away(file: Path) -> None:
    """A log that is rotated: the name is free, or another's, and ours is open and unchanged."""
    file.rename(file.with_name("data.bin.1"))


def led_elsewhere(file: Path) -> None:
    renamed_away(file)
    file.symlink_to(file.with_name("data.bin.1"))
    other = file.with_name("other")
    other.write_bytes(b"data")
    file.unlink()
    file.symlink_to(other)


@pytest.mark.parametrize("move", [replaced, renamed_away, Path.unlink, led_elsewhere])
@pytest.mark.parametrize("asked", [None, "data.bin"])
def test_a_file_that_loses_its_name_while_it_is_read_has_changed(
    root: Path, move: Callable[[Path], None], asked: str | None
) -> None:
    """What was asked for is what has the name now, be the bytes of the old one as whole as can be."""
    source = Source.open(Policy(root / "data.bin", [root]), asked)
    move(root / "data.bin")
    assert source.read(0, 4) == b"data"
    with pytest.raises(SourceError) as changed:
        source.check_unchanged()
    assert changed.value.code == "source_changed"
    source.close()


@pytest.mark.parametrize(
    ("mtime_ns", "waits"),
    [
        (1_000_000_000_123_000_000, [0.03]),
        (999_999_999_123_000_000, []),
        (1_000_000_000_000_000_000, [1.857]),  # no fraction: FAT
        (1_000_000_009_123_000_000, [0.05]),  # from the future: clocks differ
    ],
)
def test_a_file_written_this_moment_is_read_once_another_write_would_show(
    root: Path, mtime_ns: int, waits: list[float]
) -> None:
    """Two writes in one tick of the file system's clock leave the same mtime."""
    os.utime(root / "data.bin", ns=(mtime_ns, mtime_ns))
    slept: list[float] = []
    with (root / "data.bin").open("rb") as file:
        let_mtime_settle(file.fileno(), now=lambda: 1_000_000_000.143, sleep=slept.append)
    assert slept == pytest.approx(waits, abs=0.001)


# Facts, digest, blocks


def test_the_facts_of_a_source(root: Path) -> None:
    status = (root / "data.bin").stat()
    source = Source.open(Policy(roots=[root]), "data.bin")
    assert (source.name, source.size, source.mtime_ns) == ("data.bin", 4, status.st_mtime_ns)
    assert source.fingerprint == fingerprint(status)
    source.close()


def test_the_digest_covers_the_whole_source_even_when_only_its_end_is_sent(root: Path) -> None:
    whole = os.urandom(2 * BLOCK + 100)
    (root / "data.bin").write_bytes(whole)
    source = Source.open(Policy(roots=[root]), "data.bin")
    tail = source.read(2 * BLOCK, 100)
    assert source.digest.position == 0, "read out of turn, it is not hashed"
    while not source.hash_up_to(source.size):
        pass
    assert tail == whole[2 * BLOCK :]
    assert source.digest.hexdigest(source.size) == hashlib.sha256(whole).hexdigest()
    source.close()


def test_reading_in_order_hashes_in_the_same_pass(root: Path) -> None:
    source = Source.open(Policy(roots=[root]), "data.bin")
    assert source.read(0, 2) + source.read(2, 2) == b"data"
    assert source.digest.hexdigest(4) == hashlib.sha256(b"data").hexdigest()
    source.close()


def test_one_read_is_at_most_one_block(root: Path) -> None:
    (root / "data.bin").write_bytes(bytes(BLOCK + 1))
    source = Source.open(Policy(roots=[root]), "data.bin")
    assert len(source.read(0, source.size)) == BLOCK
    source.close()


def test_closing_twice_is_allowed_and_leaves_nothing_open(root: Path) -> None:
    source = Source.open(Policy(roots=[root]), "data.bin")
    assert descriptors(root / "data.bin") == 1
    source.close()
    source.close()
    assert descriptors(root / "data.bin") == 0


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([], []),
        ([(0, 0)], []),
        ([(5, 1)], [(5, 1)]),
        ([(0, BLOCK)], [(0, BLOCK)]),
        ([(7, BLOCK + 1)], [(7, BLOCK), (7 + BLOCK, 1)]),
        ([(0, 1), (10, 2)], [(0, 1), (10, 2)]),
    ],
)
def test_ranges_are_cut_into_blocks(
    ranges: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    assert list(blocks(ranges)) == expected
