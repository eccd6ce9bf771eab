"""Files on the server's disk: grown, resumed, landed, and what happens when the disk fails."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.page_cache import in_memory, needs_fincore
from tests.partials import create
from transfers import storage
from transfers.storage import (
    IOV_MAX,
    MAX_LABEL,
    PartialBusy,
    PartialFile,
    PartialLost,
    StorageError,
    landed_name,
)

MIB = 1024 * 1024
STAMP = "20261123T063200Z"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def path(data_dir: Path) -> Path:
    return data_dir / "partial" / "x.part"


@pytest.fixture
def partial(path: Path) -> Iterator[PartialFile]:
    """A new partial file."""
    partial = create(path)
    yield partial
    partial.close()


def left_behind(path: Path, data: bytes) -> None:
    """What an earlier attempt left on disk."""
    path.write_bytes(data)
    path.chmod(0o600)


# Writing -----------------------------------------------------------------------------------------


def test_a_new_partial_file_is_empty_and_private(partial: PartialFile, path: Path) -> None:
    assert (partial.offset, partial.checkpointed, path.read_bytes()) == (0, 0, b"")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert partial.hashed


def test_a_partial_file_that_is_there_already_is_begun_anew(path: Path) -> None:
    left_behind(path, b"old")
    partial = create(path)
    assert path.read_bytes() == b""
    partial.close()


def test_bytes_are_written_and_hashed_in_order(partial: PartialFile, path: Path) -> None:
    partial.write([b"one", memoryview(b"two"), b""])
    partial.write([])
    partial.write([b"three"])
    assert path.read_bytes() == b"onetwothree"
    assert partial.offset == 11
    assert partial.hexdigest() == sha256(b"onetwothree")


def test_an_empty_file_has_a_digest(partial: PartialFile) -> None:
    assert partial.hexdigest() == sha256(b"")


def test_more_buffers_than_one_call_takes_are_written(partial: PartialFile, path: Path) -> None:
    buffers = [bytes([n % 256]) for n in range(2 * IOV_MAX + 5)]
    partial.write(buffers)
    assert path.read_bytes() == b"".join(buffers)
    assert partial.hexdigest() == sha256(b"".join(buffers))


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7])
def test_a_short_write_is_completed(
    partial: PartialFile, path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    pwritev = os.pwritev

    def short(descriptor: int, buffers: list[Any], offset: int) -> int:
        return pwritev(descriptor, [b"".join(map(bytes, buffers))[:most]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    buffers: list[bytes | memoryview] = [b"abc", memoryview(b"defg"), b"", b"h"]
    partial.write(buffers)
    assert path.read_bytes() == b"abcdefgh"
    assert (partial.offset, partial.hexdigest()) == (8, sha256(b"abcdefgh"))
    assert buffers[0] == b"abc", "the caller's list is its own"


def test_a_checkpoint_is_what_was_written_before_it(partial: PartialFile) -> None:
    partial.write([b"abc"])
    assert partial.checkpoint() == 3
    partial.write([b"de"])
    assert (partial.checkpointed, partial.offset) == (3, 5)


def test_a_rewound_file_keeps_what_it_can_and_makes_room(
    partial: PartialFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "ROOM", 4)
    partial.write([b"abc"])
    partial.checkpoint()
    partial.write([b"defghij"])
    partial.rewind()
    assert (partial.checkpointed, partial.offset) == (6, 6)
    partial.rewind()
    partial.close()
    assert path.read_bytes() == b"abcdef"
    again = resumed(path, 6)
    assert again.hexdigest() == sha256(b"abcdef")
    again.close()


@pytest.mark.parametrize("sync", ["checkpoint", "land"])
def test_after_a_failed_sync_only_the_checkpoint_before_it_is_kept(
    partial: PartialFile, path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, sync: str
) -> None:
    """The kernel may have dropped the pages together with the failure, and says it only once."""
    monkeypatch.setattr(storage, "ROOM", 0)
    partial.write([b"abc"])
    partial.checkpoint()
    partial.write([b"def"])

    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_fdatasync", fails)
        patch.setattr(os, "fsync", fails)
        with pytest.raises(StorageError):
            partial.checkpoint() if sync == "checkpoint" else partial.land(data_dir / "final")
    partial.rewind()
    partial.close()
    assert path.read_bytes() == b"abc"


def test_a_discarded_file_is_gone_and_free(partial: PartialFile, path: Path) -> None:
    partial.discard()
    assert not path.exists()
    partial.discard()
    partial.close()


def test_a_partial_file_that_is_removed_behind_our_back_can_be_discarded(
    partial: PartialFile, path: Path
) -> None:
    path.unlink()
    partial.discard()


# Resuming ----------------------------------------------------------------------------------------


def resumed(path: Path, checkpoint: int) -> PartialFile:
    partial = PartialFile.resume(path, checkpoint)
    while not partial.hashed:
        partial.rehash(most=4)
    return partial


def test_a_resume_goes_on_at_the_checkpoint_and_never_trusts_the_size(path: Path) -> None:
    left_behind(path, b"good bytes" + bytes(1000))
    partial = resumed(path, 10)
    assert (partial.offset, partial.checkpointed) == (10, 10)
    assert path.read_bytes() == b"good bytes"
    partial.write([b" and more"])
    assert path.read_bytes() == b"good bytes and more"
    assert partial.hexdigest() == sha256(b"good bytes and more")
    partial.close()


def test_a_resumed_file_is_hashed_in_pieces(path: Path) -> None:
    left_behind(path, b"x" * 10)
    partial = PartialFile.resume(path, 10)
    assert not partial.hashed
    partial.rehash(most=9)
    assert not partial.hashed
    partial.rehash()
    assert partial.hashed
    partial.close()


def test_a_partial_file_that_is_shorter_than_its_checkpoint_is_lost(path: Path) -> None:
    left_behind(path, b"short")
    with pytest.raises(PartialLost):
        PartialFile.resume(path, 6)
    assert not storage.is_busy(path)


def test_a_partial_file_that_is_gone_is_lost(path: Path) -> None:
    with pytest.raises(PartialLost):
        PartialFile.resume(path, 6)


def test_a_file_that_gets_shorter_while_it_is_hashed_is_a_storage_error(path: Path) -> None:
    left_behind(path, b"x" * 10)
    partial = PartialFile.resume(path, 10)
    os.truncate(path, 5)
    with pytest.raises(StorageError, match="shorter"):
        partial.rehash()
    partial.close()


# One writer --------------------------------------------------------------------------------------


def test_a_second_writer_is_refused(partial: PartialFile, path: Path) -> None:
    assert storage.is_busy(path)
    with pytest.raises(PartialBusy):
        create(path)
    with pytest.raises(PartialBusy):
        PartialFile.resume(path, 0)
    with pytest.raises(PartialBusy):
        storage.discard(path)
    assert path.exists()


def test_a_writer_that_ends_makes_way(partial: PartialFile, path: Path) -> None:
    partial.write([b"abc"])
    partial.close()
    assert not storage.is_busy(path)
    PartialFile.resume(path, 3).close()
    assert storage.discard(path) is True
    assert storage.discard(path) is False


HOLDER = """
import sys
from pathlib import Path
from transfers.storage import PartialFile
partial = PartialFile.resume(Path(sys.argv[1]), 3)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_writer_in_another_process_is_refused_until_the_first_is_gone(path: Path) -> None:
    left_behind(path, b"abc")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(PartialBusy):
            PartialFile.resume(path, 3)
        with pytest.raises(PartialBusy):
            create(path)
        assert storage.is_busy(path)
        holder.kill()  # as hard as it gets: the kernel frees the lock
        holder.wait()
        PartialFile.resume(path, 3).close()


def replace_before_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch, by: bytes | None = b"another's"
) -> None:
    """Have the file at `path` replaced, or removed, between the next open and its lock."""
    left_behind(path, b"abc")
    lock = storage._lock

    def replaced_first(descriptor: int, locked: Path, how: int = fcntl.LOCK_EX) -> None:
        monkeypatch.setattr(storage, "_lock", lock)
        path.unlink()
        if by is not None:
            left_behind(path, by)
        lock(descriptor, locked, how)

    monkeypatch.setattr(storage, "_lock", replaced_first)


def test_a_file_that_is_replaced_before_it_is_locked_is_not_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two writers hold a lock each, and one lands the other's bytes."""
    replace_before_the_lock(path, monkeypatch)
    with pytest.raises(PartialBusy):
        PartialFile.resume(path, 3)
    assert path.read_bytes() == b"another's"


def test_a_file_that_is_replaced_before_it_is_locked_is_not_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_before_the_lock(path, monkeypatch)
    with pytest.raises(PartialBusy):
        storage.discard(path)
    assert path.read_bytes() == b"another's"


def test_a_file_that_is_replaced_before_it_is_locked_is_busy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_before_the_lock(path, monkeypatch)
    assert storage.is_busy(path)


def test_a_file_that_is_removed_before_it_is_locked_is_not_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_before_the_lock(path, monkeypatch, by=None)
    with pytest.raises(PartialBusy):
        PartialFile.resume(path, 3)
    assert not path.exists()


def test_what_is_removed_is_locked_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(path, b"abc")
    unlink, busy = Path.unlink, []

    def looking_first(self: Path) -> None:
        busy.append(storage.is_busy(self))
        unlink(self)

    monkeypatch.setattr(Path, "unlink", looking_first)
    assert storage.discard(path) is True
    assert busy == [True]


def test_a_link_in_place_of_a_partial_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path.symlink_to(victim)
    with pytest.raises(StorageError, match="ELOOP"):
        PartialFile.resume(path, 3)
    with pytest.raises(StorageError, match="ELOOP"):
        create(path)
    with pytest.raises(StorageError, match="ELOOP"):
        storage.discard(path)
    assert storage.is_busy(path), "who knows"
    assert victim.read_bytes() == b"precious"
    assert path.is_symlink()


def test_a_directory_in_place_of_a_partial_file_is_left_alone(path: Path) -> None:
    path.mkdir()
    assert storage.is_busy(path), "who knows"
    with pytest.raises(StorageError, match="EISDIR"):
        storage.discard(path)
    assert path.is_dir()


# The disk fails ----------------------------------------------------------------------------------

VERBS: dict[str, Callable[[PartialFile, Path], object]] = {
    "os.pwritev": lambda partial, final: partial.write([b"abc"]),
    "transfers.storage._fdatasync": lambda partial, final: partial.checkpoint(),
    "os.fsync": lambda partial, final: partial.land(final),
    "os.rename": lambda partial, final: partial.land(final),
    "os.ftruncate": lambda partial, final: partial.rewind(),
    "transfers.storage.sync_directory": lambda partial, final: partial.land(final),
}


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "storage_full"),
        (errno.EDQUOT, "storage_full"),
        (errno.EIO, "storage_error"),
        (errno.EROFS, "storage_error"),
    ],
)
@pytest.mark.parametrize(("call", "verb"), VERBS.items(), ids=VERBS)
def test_a_failing_disk_says_whether_it_is_full(
    partial: PartialFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    verb: Callable[[PartialFile, Path], object],
    number: int,
    code: str,
) -> None:
    calls = []

    def failing(*args: object) -> None:
        calls.append(args)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, failing)
    with pytest.raises(StorageError, match=errno.errorcode[number]) as failure:
        verb(partial, tmp_path / "final")
    assert failure.value.code == code
    assert len(calls) == 1, "never tried again on the same file"


def test_a_failed_sync_is_no_checkpoint(
    partial: PartialFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    partial.write([b"abc"])
    monkeypatch.setattr(storage, "_fdatasync", failing)
    with pytest.raises(StorageError):
        partial.checkpoint()
    assert partial.checkpointed == 0


def test_a_failed_sync_lands_nothing(
    partial: PartialFile, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError):
        partial.land(tmp_path / "final")
    assert path.exists()
    assert not (tmp_path / "final").exists()


@pytest.mark.parametrize("give_up", [PartialFile.discard, PartialFile.rewind])
def test_a_landing_that_fails_after_the_rename_leaves_nothing_in_the_downloads(
    partial: PartialFile,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    give_up: Callable[[PartialFile], None],
) -> None:
    """Else a failed transfer leaves its file, or with `rewind` a file that was cut short."""

    def failing(directory: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    partial.write([b"abc"])
    monkeypatch.setattr(storage, "sync_directory", failing)
    with pytest.raises(StorageError):
        partial.land(data_dir / "downloads/final")
    give_up(partial)
    assert not list((data_dir / "downloads").iterdir())


def test_a_file_that_cannot_be_created_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="ENOENT"):
        create(tmp_path / "nowhere" / "x.part")


@pytest.mark.parametrize("verb", [storage.discard, storage.is_busy])
def test_a_file_system_without_locks_is_a_storage_error(
    path: Path, monkeypatch: pytest.MonkeyPatch, verb: Callable[[Path], bool]
) -> None:
    """As some network file systems are; `is_busy` says then that it may be."""

    def failing(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    left_behind(path, b"abc")
    monkeypatch.setattr(fcntl, "flock", failing)
    if verb is storage.is_busy:
        assert storage.is_busy(path)
    else:
        with pytest.raises(StorageError, match="ENOLCK"):
            storage.discard(path)
    assert path.exists()


def test_a_partial_file_that_cannot_be_removed_is_a_storage_error_and_free(
    partial: PartialFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", failing)
    with pytest.raises(StorageError, match="EROFS"):
        partial.discard()
    assert not storage.is_busy(path)


def test_a_failed_creation_leaves_no_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", failing)
        with pytest.raises(StorageError):
            create(path)
    create(path).close()


def test_who_did_not_get_the_lock_removes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its lock, somebody else may have put another file in its place."""

    def taken(descriptor: int, how: int) -> None:
        raise BlockingIOError

    late = PartialFile(path)
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", taken)
        with pytest.raises(PartialBusy):
            late.write([b"late"])
    path.write_bytes(b"somebody's")
    late.rewind()
    late.discard()
    assert path.read_bytes() == b"somebody's"


def test_an_error_without_a_number_is_told_too() -> None:
    assert str(StorageError(OSError("odd"))) == "odd (?)"


@needs_fincore
def test_what_is_on_disk_leaves_the_page_cache_and_a_small_file_stays(
    partial: PartialFile, path: Path
) -> None:
    """A file of gigabytes would push out what the machine works from."""
    partial.write([secrets.token_bytes(4 * MIB)])
    if in_memory(path) < 4 * MIB:
        pytest.skip("a file system that is in memory")
    partial.checkpoint()
    assert in_memory(path) == 0
    partial.write([bytes(MIB)])
    landed = path.with_name("landed")
    partial.land(landed)
    assert in_memory(landed) == 0
    small = create(path)
    small.write([bytes(MIB)])
    small.land(landed)
    assert in_memory(landed) == MIB
    small.close()


# Landing -----------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Syncs and renames, in the order in which they were made."""
    made: list[str] = []
    fsync, rename = os.fsync, os.rename

    def recording_fsync(descriptor: int) -> None:
        directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        made.append("fsync directory" if directory else "fsync file")
        fsync(descriptor)

    def recording_rename(old: Path, new: Path) -> None:
        made.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "rename", recording_rename)
    return made


def test_landing_syncs_the_file_then_renames_then_syncs_the_directory(
    partial: PartialFile, path: Path, data_dir: Path, calls: list[str]
) -> None:
    partial.write([b"abc"])
    final = data_dir / "downloads/final"
    partial.land(final)
    assert calls == ["fsync file", "rename", "fsync directory"]
    assert final.read_bytes() == b"abc"
    assert stat.S_IMODE(final.stat().st_mode) == 0o600
    assert not path.exists()


@pytest.mark.parametrize("give_up", [PartialFile.discard, PartialFile.rewind])
def test_a_landed_file_is_held_and_given_up_under_its_final_name(
    partial: PartialFile, path: Path, data_dir: Path, give_up: Callable[[PartialFile], None]
) -> None:
    final = data_dir / "downloads/final"
    partial.land(final)
    left_behind(path, b"another attempt's")
    assert partial.path == final
    assert storage.is_busy(final)
    assert not storage.is_busy(path)
    give_up(partial)
    assert not final.exists()
    assert path.exists()


def test_with_its_first_checkpoint_a_new_partial_file_has_its_name_on_disk(
    path: Path, calls: list[str]
) -> None:
    """Not before: without a checkpoint nothing of it is gone on with."""
    with closing(create(path)) as partial:
        assert calls == []
        for _ in range(2):
            partial.write([b"abc"])
            partial.checkpoint()
    assert calls == ["fsync directory"]
    with closing(PartialFile.resume(path, 6)) as partial:
        partial.checkpoint()
    assert calls == ["fsync directory"]


# Names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("data.bin", "data.bin"),
        ("last night's sales.db", "last_night_s_sales.db"),
        ('say "hi".txt', "say_hi_.txt"),
        ("two\nlines\r.log", "two_lines_.log"),
        ("", "file"),
        (".", "file"),
        ("..", "file"),
        ("...", "file"),
        ("/", "file"),
        ("../../etc/passwd", "passwd"),
        ("/var/log/syslog", "syslog"),
        (r"C:\till\sales.mdb", "sales.mdb"),
        (r"..\..\boot.ini", "boot.ini"),
        ("a/", "file"),
        (".bashrc", "bashrc"),
        ("..hidden.gz", "hidden.gz"),
        ("archive.tar.gz", "archive.tar.gz"),
        ("no_suffix", "no_suffix"),
        ("😀.png", "_.png"),
        ("gpj.\u202eexe", "gpj._exe"),
        ("\0", "_"),
        ("\ud800", "_"),
        ("-rf", "-rf"),
        ("$(reboot)", "_reboot_"),
        ("a" * 255, "a" * 100),
        ("ä" * 127, "_"),
        ("a" * 200 + ".sqlite3", "a" * 92 + ".sqlite3"),
        ("a." + "b" * 200, "a." + "b" * 98),
    ],
)
def test_a_name_is_reduced_to_a_safe_label(name: str, label: str) -> None:
    assert landed_name("client1", STAMP, name) == f"client1_{STAMP}_{label}"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("a.db", "a-2.db"),
        ("a", "a-2"),
        ("archive.tar.gz", "archive.tar-2.gz"),
        ("a" * 255, "a" * 98 + "-2"),
        ("a" * 200 + ".db", "a" * 95 + "-2.db"),
    ],
)
def test_a_name_that_is_taken_gets_a_number_before_its_suffix(name: str, label: str) -> None:
    assert landed_name("client1", STAMP, name, 2) == f"client1_{STAMP}_{label}"


client_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


@given(client=client_ids, name=st.text(max_size=300), number=st.integers(1, 9999))
@example(client="x" * 64, name="a" * 255, number=9999)
@example(client="c", name="a..b", number=1)
def test_no_name_leaves_the_folder(client: str, name: str, number: int) -> None:
    file = landed_name(client, STAMP, name, number)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", file), "one component, of safe characters"
    assert len(file.encode()) < 255
    assert file.startswith(f"{client}_{STAMP}_")
    label = file.removeprefix(f"{client}_{STAMP}_")
    assert 1 <= len(label) <= MAX_LABEL
    assert not label.startswith(".")
    folder = Path("/downloads")
    assert Path(os.path.normpath(folder / file)) == folder / file


@given(name=st.text(max_size=300), first=st.integers(1, 9999), second=st.integers(1, 9999))
def test_different_numbers_are_different_names(name: str, first: int, second: int) -> None:
    same = landed_name("c", STAMP, name, first) == landed_name("c", STAMP, name, second)
    assert same == (first == second)


def test_no_two_dots_are_left_in_a_label() -> None:
    assert ".." not in landed_name("c", STAMP, "a..b")


def test_a_partial_file_whose_directory_cannot_be_synced_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock would keep every further attempt away (found with strace)."""

    def fails(path: Path) -> None:
        raise OSError(errno.EIO, "I/O error")

    path = tmp_path / "a.part"
    partial = create(path)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "sync_directory", fails)
        with pytest.raises(StorageError):
            partial.checkpoint()
    assert partial.checkpointed == 0
    partial.discard()
    assert not storage.is_busy(path)
    create(path).close()


def test_two_that_look_do_not_take_each_other_for_a_writer(
    partial: PartialFile, path: Path
) -> None:
    """Two workers that start together both sweep: a landed file must not seem to be in work."""
    partial.close()
    with storage._held(path, fcntl.LOCK_SH):
        assert not storage.is_busy(path)
    with storage._held(path):
        assert storage.is_busy(path)


def test_a_descriptor_is_closed_once_even_when_that_fails(
    partial: PartialFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be another file's by the second time."""
    closed: list[int] = []
    close = os.close

    def fails(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)
        raise OSError(errno.EDQUOT, "quota")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fails)
        partial.close()
        partial.close()
    assert len(closed) == 1
