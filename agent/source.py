"""Files on the client: which may be read, opening them safely, reading ahead, noticing changes.

The agent's own configuration decides; nothing that the server says can widen it. A file is opened
without following links and without opening what is no regular file (opening a FIFO blocks, opening
a device may rewind a tape), and what was opened is checked again on the descriptor.

Everything here blocks: call it from a thread.
"""

import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .wire.session import SourceDigest

BLOCK = 1024 * 1024
"""Read at once: half the CPU time of reading 64 KiB for each thread hop (measured)."""


TICK = 0.05
COARSE_TICK = 2.0
"""Seconds within which two writes may leave the same mtime: on Linux a timer tick (10 ms at most), on
FAT, whose times have no fraction, two seconds."""


class SourceError(Exception):
    """The file cannot be had. `code` is from the table of error codes."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def _os_error(path: str, error: OSError) -> SourceError:
    reason = error.strerror or str(error)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SourceError("not_found", f"{path}: {reason}")
    return SourceError("unreadable", f"{path}: {reason}")


@dataclass(frozen=True)
class Policy:
    """What may be read: one file, and everything below the roots. Default: nothing."""

    file: Path | None = None
    roots: Sequence[Path] = ()

    def locate(self, path: str | None) -> tuple[Path, Path | None]:
        """The file that is asked for, links resolved, and the root that it is below.

        A relative path is looked for below each root in turn. Raises SourceError.
        """
        if path is None:
            if self.file is None:
                raise SourceError("forbidden", "The agent has no --file; ask for a path.")
            return self._resolved(self.file), None
        if self.file is not None and Path(path) in (self.file, self.file.absolute()):
            return self._resolved(self.file), None
        return self._below_a_root(path)

    def _below_a_root(self, path: str) -> tuple[Path, Path]:
        inside = escaped = False
        for root in self.roots:
            real_root = self._resolved(root)
            named = real_root / path  # an absolute path replaces the root
            candidate = self._resolved(named)
            if not candidate.is_relative_to(real_root):
                # It is there, and a link or `..` leads out; said so, even if another root lacks it.
                escaped = escaped or (named.is_relative_to(real_root) and os.path.lexists(named))
            elif os.path.lexists(candidate):
                return candidate, real_root
            else:
                inside = True
        if inside and not escaped:
            raise SourceError("not_found", f"{path}: there is no such file")
        if not self.roots:
            raise SourceError(
                "forbidden", f"{path}: the agent has no --root, and sends its --file only"
            )
        raise SourceError("forbidden", f"{path} is not below a --root of the agent")

    @staticmethod
    def _resolved(path: Path) -> Path:
        try:
            return Path(os.path.realpath(path))
        except (OSError, ValueError) as error:  # a loop of links; on Windows, a malformed name
            raise SourceError("unreadable", f"{path}: {error}") from None


def _open_regular(path: str, directory: int | None = None) -> int:
    """A descriptor of a regular file, opened without following a link. Raises SourceError, OSError."""
    before = os.stat(path, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISREG(before.st_mode):
        raise SourceError("not_a_file", f"{path} is not a regular file")
    if sys.platform == "win32":
        flags = os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT
    else:
        # O_NONBLOCK: should a FIFO have taken the file's place since, opening it must not wait.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, dir_fd=directory)
    after = os.fstat(descriptor)
    if not (os.path.samestat(before, after) and stat.S_ISREG(after.st_mode)):
        os.close(descriptor)
        raise SourceError("source_changed", f"{path} was replaced while it was opened")
    return descriptor


def _open_below(root: Path, path: Path) -> int:
    """Open by directory descriptors from the root down, so that no link can be slipped in between."""
    *parents, name = path.relative_to(root).parts
    flags = os.O_RDONLY
    if sys.platform == "win32":  # no descriptors of directories there: `locate` has resolved links
        return _open_regular(str(path))
    flags |= os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    directory = os.open(root, flags)
    try:
        for parent in parents:
            inner = os.open(parent, flags, dir_fd=directory)
            os.close(directory)
            directory = inner
        return _open_regular(name, directory)
    finally:
        os.close(directory)


def fingerprint(status: os.stat_result) -> str:
    """What tells one version of a file from another: device, inode, size, mtime in ns."""
    return f"{status.st_dev:x}:{status.st_ino:x}:{status.st_size:x}:{status.st_mtime_ns:x}"


def let_mtime_settle(
    descriptor: int,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """After a write in this very moment, wait until a further one must change the mtime."""
    mtime_ns = os.fstat(descriptor).st_mtime_ns
    tick = TICK if mtime_ns % 10**9 else COARSE_TICK
    age = now() - mtime_ns / 10**9
    if age < tick:  # below 0 where the clock of a file server is ahead of ours
        sleep(min(tick, tick - age))


class Source:
    """An open file of the client: its facts at the opening, its bytes, its digest."""

    def __init__(self, descriptor: int, path: Path, policy: Policy, asked: str | None) -> None:
        self._descriptor = descriptor
        self._policy = policy
        self._asked = asked
        status = os.fstat(descriptor)
        self.path = path
        self.size = status.st_size
        self.mtime_ns = status.st_mtime_ns
        self.fingerprint = fingerprint(status)
        self.digest = SourceDigest()

    @classmethod
    def open(cls, policy: Policy, path: str | None) -> Self:
        """Open what is asked for, if the policy allows it. Raises SourceError."""
        located, root = policy.locate(path)
        try:
            if root is None:
                descriptor = _open_regular(str(located))
            elif located == root:
                raise SourceError("not_a_file", f"{located} is not a regular file")
            else:
                descriptor = _open_below(root, located)
        except OSError as error:
            raise _os_error(str(located), error) from None
        let_mtime_settle(descriptor)
        return cls(descriptor, located, policy, path)

    @property
    def name(self) -> str:
        """The file's name as it can go over the wire: bytes that are no UTF-8 are replaced."""
        return os.fsencode(self.path.name).decode("utf-8", "replace")

    def read(self, offset: int, length: int) -> bytes:
        """Up to one block at `offset`, hashed when it is next in line. Raises SourceError."""
        length = min(length, BLOCK)
        try:
            data = self._read(offset, length)
        except OSError as error:
            raise _os_error(str(self.path), error) from None
        if len(data) != length:
            raise SourceError("source_changed", f"{self.path} became shorter while it was read")
        if offset == self.digest.position:
            self.digest.update(data)
        return data

    def _read(self, offset: int, length: int) -> bytes:
        if sys.platform == "win32":
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, length)
        return os.pread(self._descriptor, length, offset)

    def hash_up_to(self, end: int) -> bool:
        """Feed the digest with one more block before `end`; whether it has arrived there."""
        if self.digest.position < end:
            self.read(self.digest.position, end - self.digest.position)
        return self.digest.position >= end

    def check_unchanged(self) -> None:
        """Raises SourceError when the file is not what it was at the opening, or its name not its own.

        A file that was renamed, removed or replaced can be read to its end, unchanged; but what was
        asked for is what has the name now.
        """
        try:
            status = os.fstat(self._descriptor)
        except OSError as error:  # a network file system may have lost it
            raise _os_error(str(self.path), error) from None
        if fingerprint(status) != self.fingerprint:
            raise SourceError("source_changed", f"{self.path} changed while it was read")
        if not self._is_still_named(status):
            raise SourceError("source_changed", f"{self.path} was replaced while it was read")

    def _is_still_named(self, opened: os.stat_result) -> bool:
        try:
            located, _ = self._policy.locate(self._asked)
            return os.path.samestat(opened, os.stat(located, follow_symlinks=False))
        except (OSError, SourceError):
            return False

    def close(self) -> None:
        """Release the file. Closing twice is allowed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def blocks(ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """The ranges cut into (offset, length) pieces of at most one block."""
    for offset, length in ranges:
        for start in range(offset, offset + length, BLOCK):
            yield start, min(BLOCK, offset + length - start)
