"""An open source: its bytes and digest, and that a change while reading is noticed."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.gate.policy import Policy, Root
from agent.gate.source import BLOCK, Source, SourceError, blocks, fingerprint, let_mtime_settle

from .servers import gate

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX"),
    pytest.mark.timeout(30),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "data.bin").write_bytes(b"data")
    return root


def opened(policy: Policy, path: str | None = None) -> Source:
    return gate(policy).open(path)[0]


def descriptors(path: Path) -> int:
    """How often this process has a file open."""
    here = Path("/proc/self/fd")
    if not here.is_dir():
        pytest.skip("no /proc to count descriptors in")
    return sum(fd.exists() and fd.samefile(path) for fd in list(here.iterdir()))


def test_an_error_of_the_disk_is_unreadable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> int:
        raise OSError(5, "Input/output error")

    source = opened(Policy(root / "data.bin"))
    for call in ("pread", "preadv"):
        monkeypatch.setattr(os, call, broken, raising=False)
    with pytest.raises(SourceError, match="Input/output error") as error:
        source.read(0, 4)
    assert error.value.code == "unreadable"
    source.close()


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are always UTF-8")
def test_a_name_that_is_not_utf_8_is_offered_with_replacements(root: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.txt"))
    path.write_bytes(b"latin 1")
    source = opened(Policy(path))
    assert source.name == "caf\N{REPLACEMENT CHARACTER}.txt"
    assert source.read(0, source.size) == b"latin 1"
    source.close()


def test_reading_beyond_the_end_of_a_file_that_shrank_is_noticed(root: Path) -> None:
    source = opened(Policy(root / "data.bin"))
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
    source = opened(Policy(root / "data.bin"))
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

    source = opened(Policy(root / "data.bin"))
    with contextlib.closing(source), monkeypatch.context() as patch:
        patch.setattr("agent.gate.source.os.fstat", stale)
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
    source = opened(Policy(root / "data.bin", [Root.whole(root)]), asked)
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
    source = opened(Policy(roots=[Root.whole(root)]), "data.bin")
    assert (source.name, source.size, source.mtime_ns) == ("data.bin", 4, status.st_mtime_ns)
    assert source.fingerprint == fingerprint(status)
    source.close()


def test_the_digest_covers_the_whole_source_even_when_only_its_end_is_sent(root: Path) -> None:
    whole = os.urandom(2 * BLOCK + 100)
    (root / "data.bin").write_bytes(whole)
    source = opened(Policy(roots=[Root.whole(root)]), "data.bin")
    tail = source.read(2 * BLOCK, 100)
    assert source.digest.position == 0, "read out of turn, it is not hashed"
    while source.digest.position < source.size:
        source.hash_up_to(source.size)
    assert tail == whole[2 * BLOCK :]
    assert source.digest.hexdigest(source.size) == hashlib.sha256(whole).hexdigest()
    source.close()


def test_reading_in_order_hashes_in_the_same_pass(root: Path) -> None:
    source = opened(Policy(roots=[Root.whole(root)]), "data.bin")
    assert source.read(0, 2) + source.read(2, 2) == b"data"
    assert source.digest.hexdigest(4) == hashlib.sha256(b"data").hexdigest()
    source.close()


def test_one_read_is_at_most_one_block(root: Path) -> None:
    (root / "data.bin").write_bytes(bytes(BLOCK + 1))
    source = opened(Policy(roots=[Root.whole(root)]), "data.bin")
    assert len(source.read(0, source.size)) == BLOCK
    source.close()


def test_closing_twice_is_allowed_and_leaves_nothing_open(root: Path) -> None:
    source = opened(Policy(roots=[Root.whole(root)]), "data.bin")
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
