"""An open file of the client: its bytes, its digest, noticing changes. And why a file is not sent.

Everything here blocks: call it from a thread.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ..wire.errors import ERRORS
from ..wire.session import SourceDigest
from .reading import Block, read_at

BLOCK = 1024 * 1024
"""Read at once: half the CPU time of reading 64 KiB for each thread hop (measured)."""


TICK = 0.05
COARSE_TICK = 2.0
"""Seconds within which two writes may leave the same mtime: on Linux a timer tick (10 ms at most), on
FAT, whose times have no fraction, two seconds."""


class SourceError(Exception):
    """The file cannot be had. `code` is from the table of error codes."""

    def __init__(self, code: str, detail: str, reason: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        """For the server: nothing of the policy, and nothing of files that it does not allow."""
        self.reason = reason or detail
        """For who runs the agent: all of it."""


def forbidden(reason: str) -> SourceError:
    """One and the same answer to the server, whether there is such a file or not."""
    return SourceError("forbidden", ERRORS["forbidden"].sentence, reason)


def through_a_link() -> SourceError:
    return forbidden("there is a link in its path, and links below a root are not followed")


def must_be_regular(status: os.stat_result) -> None:
    """Raises SourceError."""
    if stat.S_ISLNK(status.st_mode):
        raise through_a_link()
    if not stat.S_ISREG(status.st_mode):
        raise SourceError("not_a_file", "It is not a regular file.")


Check = Callable[[int, os.stat_result], None]
"""Looks at the descriptor of a file before it is read; raises SourceError or OSError."""


def os_error(error: OSError) -> SourceError:
    """What the system says about a file, as an answer to the server."""
    if error.errno == errno.ELOOP:
        return through_a_link()
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return SourceError("not_found", ERRORS["not_found"].sentence)
    return SourceError(
        "unreadable", f"The agent could not read it: {error.strerror or 'an error'}."
    )


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

    def __init__(self, descriptor: int, path: Path, look: Callable[[], os.stat_result]) -> None:
        """`look` finds what is now to be had for what was asked; raises SourceError or OSError."""
        self._descriptor = descriptor
        self._look = look
        status = os.fstat(descriptor)
        self.path = path
        self.size = status.st_size
        self.mtime_ns = status.st_mtime_ns
        self.fingerprint = fingerprint(status)
        self.digest = SourceDigest()

    @property
    def name(self) -> str:
        """The file's name as it can go over the wire: bytes that are no UTF-8 are replaced."""
        return os.fsencode(self.path.name).decode("utf-8", "replace")

    def read(self, offset: int, length: int) -> Block:
        """Up to one block at `offset`, hashed when it is next in line. Raises SourceError."""
        length = min(length, BLOCK)
        try:
            data = read_at(self._descriptor, offset, length)
        except OSError as error:
            raise os_error(error) from None
        if len(data) != length:
            raise SourceError("source_changed", "It became shorter while it was read.")
        if offset == self.digest.position:
            self.digest.update(data)
        return data

    def hash_up_to(self, end: int) -> None:
        """Feed the digest with one more block before `end`. Raises SourceError."""
        self.read(self.digest.position, end - self.digest.position)

    def check_unchanged(self) -> None:
        """Raises SourceError when the file is not what it was at the opening, or its name not its own.

        A file that was renamed, removed or replaced can be read to its end, unchanged; but what was
        asked for is what has the name now.
        """
        try:
            status = os.fstat(self._descriptor)
        except OSError as error:  # a network file system may have lost it
            raise os_error(error) from None
        if fingerprint(status) != self.fingerprint:
            raise SourceError("source_changed", "It changed while it was read.")
        if not self._is_still_named(status):
            raise SourceError("source_changed", "It was replaced while it was read.")

    def _is_still_named(self, opened: os.stat_result) -> bool:
        try:
            return os.path.samestat(opened, self._look())
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
