"""Files on the server's disk: a partial file that grows, survives crashes and lands whole. No Django.

What makes a landed file trustworthy:

* Bytes are hashed in the same pass that writes them, and only ever written at the expected offset.
* `checkpoint` says what is on disk for certain (fdatasync); a resume truncates to the recorded
  checkpoint and never trusts the file's size, which after a power loss can be all zeros.
* `land` syncs the file before the rename and the directory after it.
* Every sync has its proof in `tests/power`: a power loss that breaks a promise without it.
* An exclusive lock on the partial file fences two writers off, across connections and processes.

A failing write or sync raises `StorageError` once; a sync is never tried again on the same file,
because the kernel forgets the failure together with the pages (LWN 752063, "fsyncgate").

Everything here blocks: call it from a thread.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from agent.wire.session import SourceDigest

READ_SIZE = 1024 * 1024
MAX_LABEL = 100
"""Characters of the agent's file name that are kept in the name of a landed file."""

MAX_SUFFIX = 15
"""Longest `.suffix` that is told from the rest of a name, and kept when the name is cut."""

ROOM = 1024 * 1024
"""Bytes that are given back on a full disk: the database beside may need some to say what happened."""

IOV_MAX = 1024
"""Buffers in one writev at most (POSIX IOV_MAX on Linux and macOS)."""

Buffer = bytes | memoryview

log = logging.getLogger(__name__)


class StorageError(Exception):
    """The disk failed us. `code` is from the table of error codes."""

    def __init__(self, error: OSError) -> None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        self.code = "storage_full" if full else "storage_error"
        super().__init__(
            f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, '?')})"
        )


class PartialBusy(Exception):
    """Another writer holds this partial file."""


class PartialLost(Exception):
    """The partial file is shorter than its checkpoint, or gone: start from 0."""


@contextlib.contextmanager
def _disk_errors(*, except_missing: bool = False) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if except_missing and isinstance(error, FileNotFoundError):
            raise
        raise StorageError(error) from error


def sync_directory(path: Path) -> None:
    """Make creations and renames in a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class PartialFile:
    """A file that is arriving. `offset` is where the next byte goes; close it in the end.

    A new one is there from its first bytes on, or from `replace`: a small file comes with them, and is
    opened, written and hashed in one go.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.checkpointed = offset
        self._descriptor = -1
        self._digest = SourceDigest()
        self.is_there = False
        """Whether it was begun, or resumed: before that, what has its name is not ours."""
        self._is_new = False
        """Whether a power loss may take its name."""
        self._renamed = False
        self._sync_failed = False

    @classmethod
    def resume(cls, path: Path, checkpoint: int) -> Self:
        """The partial file of an earlier attempt, cut back to `checkpoint`.

        Feed the digest with `rehash` before the first `write`. Raises PartialBusy, PartialLost,
        StorageError.
        """
        partial = cls(path, checkpoint)
        with _disk_errors():
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                raise PartialLost(path) from None
            partial._hold(descriptor)
        return partial

    def replace(self) -> None:
        """Begin, and discard what is there. Raises PartialBusy, StorageError."""
        discard(self.path)
        with _disk_errors():
            self._begin()

    def _begin(self) -> None:
        """Raises PartialBusy where there is a file: somebody's, or left behind by somebody."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags, 0o600)
        except FileExistsError:
            raise PartialBusy(self.path) from None
        self._is_new = True
        self._hold(descriptor)

    def _hold(self, descriptor: int) -> None:
        self._descriptor = descriptor
        try:
            size = _lock(descriptor, self.path)
            if size < self.offset:
                raise PartialLost(self.path)
            if size > self.offset:
                os.ftruncate(descriptor, self.offset)
        except BaseException:
            self.close()
            raise
        self.is_there = True

    @property
    def hashed(self) -> bool:
        """Whether the digest has caught up with the bytes in the file."""
        return self._digest.position == self.offset

    def rehash(self, most: int = 16 * READ_SIZE) -> None:
        """Feed the digest with up to `most` bytes that an earlier attempt left. Raises StorageError."""
        end = min(self.offset, self._digest.position + most)
        with _disk_errors():
            while self._digest.position < end:
                size = min(READ_SIZE, end - self._digest.position)
                data = os.pread(self._descriptor, size, self._digest.position)
                if not data:
                    raise OSError(errno.EIO, "the partial file became shorter while it was read")
                self._digest.update(data)

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Append and hash the buffers, in order, at `offset`.

        Raises StorageError; PartialBusy, with nothing done, where a new file finds that there is one.
        """
        with _disk_errors():
            if not self.is_there:
                self._begin()
            for first in range(0, len(buffers), IOV_MAX):
                self._write_all(list(buffers[first : first + IOV_MAX]))
        for buffer in buffers:
            self._digest.update(buffer)

    def _write_all(self, buffers: list[Buffer]) -> None:
        while buffers:
            written = os.pwritev(self._descriptor, buffers, self.offset)
            self.offset += written
            while buffers and written >= len(buffers[0]):
                written -= len(buffers.pop(0))
            if buffers:  # a short write: the disk is nearly full, or a signal came
                buffers[0] = memoryview(buffers[0])[written:]

    def checkpoint(self) -> int:
        """Sync what is written; the offset up to which bytes are on disk. Raises StorageError."""
        offset = self.offset  # another thread may write on meanwhile
        with _disk_errors(), self._for_the_last_time_if_it_fails():
            _fdatasync(self._descriptor)
            if self._is_new:
                sync_directory(self.path.parent)
                self._is_new = False
            _forget(self._descriptor, self.checkpointed, offset)
        self.checkpointed = offset
        return offset

    @contextlib.contextmanager
    def _for_the_last_time_if_it_fails(self) -> Iterator[None]:
        self._sync_failed = True
        yield
        self._sync_failed = False

    def rewind(self) -> None:
        """Make some room on a full disk, and have the rest on disk for certain. Raises StorageError.

        After a sync that failed, that is no more than what the one before it covered. The digest does
        not follow: only `close` or `discard` may come after it. A file whose landing failed after the
        rename is given up whole: it must not stay in the downloads.
        """
        if not self.is_there:
            return
        if self._renamed:
            self.discard()
            return
        if not self._sync_failed:
            self.offset = max(self.checkpointed, self._digest.position - ROOM)
        else:
            self.offset = self.checkpointed
        with _disk_errors():
            os.ftruncate(self._descriptor, self.offset)
        if self.offset > self.checkpointed:
            self.checkpoint()

    def hexdigest(self) -> str:
        """SHA-256 of all bytes in the file."""
        return self._digest.hexdigest(self.offset)

    def land(self, final: Path) -> None:
        """Sync, rename to `final`, sync the directory: durable when it returns. Raises StorageError.

        The caller has reserved the name: nobody else lands under it.
        """
        with _disk_errors():
            with self._for_the_last_time_if_it_fails():
                os.fsync(self._descriptor)
            if self.checkpointed:  # else a small file, which may well be read at once
                _forget(self._descriptor, self.checkpointed, self.offset)
            os.rename(self.path, final)
            self.path, self._renamed = final, True
            sync_directory(final.parent)

    def discard(self) -> None:
        """Close, and remove the file. Raises StorageError, closed all the same."""
        if not self.is_there:
            return
        try:
            with _disk_errors(), contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        finally:
            self.close()

    def close(self) -> None:
        """Release the file and its lock. Closing twice is allowed."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            try:
                os.close(descriptor)
            except OSError as error:  # it is closed all the same; what counts was synced before
                log.warning("closing %s: %s", self.path, error)


def _lock(descriptor: int, path: Path, how: int = fcntl.LOCK_EX) -> int:
    """Take the writer's lock; the size of the file.

    Raises PartialBusy, also when the name is another file's by now.
    """
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        ours, there = os.fstat(descriptor), os.stat(path, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        raise PartialBusy(path) from None
    if not os.path.samestat(ours, there):
        raise PartialBusy(path)
    return ours.st_size


# macOS has no fdatasync; fsync promises at least as much.
_fdatasync = getattr(os, "fdatasync", os.fsync)


def _forget(descriptor: int, begin: int, end: int) -> None:
    """Have the page cache let go of bytes that are on disk: nobody reads them soon.

    Else each file would fill the machine's memory once more, and new memory is dear: with a virtual
    machine's kernel and host, 1.9 of the 5.3 CPU seconds that a GiB cost the server.
    """
    if sys.platform == "linux":
        os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _held(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold the writer's lock of a file. Raises FileNotFoundError, PartialBusy, StorageError."""
    with _disk_errors(except_missing=True):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with _disk_errors():
            _lock(descriptor, path, how)
        yield
    finally:
        os.close(descriptor)


def is_busy(path: Path) -> bool:
    """Whether somebody writes to this file right now, in any process; or who knows."""
    try:
        with _held(
            path, fcntl.LOCK_SH
        ):  # shared: two that look do not take each other for a writer
            return False
    except FileNotFoundError:
        return False
    except (PartialBusy, StorageError):
        return True


def discard(path: Path) -> bool:
    """Remove a file that nobody writes to. Whether there was one. Raises PartialBusy, StorageError."""
    try:
        with _held(path), _disk_errors():
            path.unlink()
    except FileNotFoundError:
        return False
    return True


def free_space(directory: Path) -> int:
    """Bytes that a process without privileges can still write there. Raises StorageError."""
    with _disk_errors():
        disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def landed_name(client: str, stamp: str, name: str, number: int = 1) -> str:
    """A safe file name `<client>_<stamp>_<label>` for what the agent calls `name`.

    The agent's name is only ever a label: of its last component, letters, digits, dot, dash and
    underscore of ASCII are kept (any other run becomes one underscore), at most 100 characters.
    Leading dots go, so that nothing hides and no `..` is left. A `number` above 1 is for a name
    that is taken: `till-2.db`.
    """
    base = re.split(r"[/\\]", name)[-1]
    label = re.sub(r"[^A-Za-z0-9._-]+", "_", base)
    label = re.sub(r"\.{2,}", ".", label).lstrip(".") or "file"
    stem, dot, suffix = label.rpartition(".")
    if not stem or len(suffix) > MAX_SUFFIX:
        stem, dot, suffix = label, "", ""
    tail = (f"-{number}" if number > 1 else "") + dot + suffix
    return f"{client}_{stamp}_{stem[: MAX_LABEL - len(tail)]}{tail}"
