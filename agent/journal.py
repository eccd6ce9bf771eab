"""The agent's own record of what it was asked for: a line of JSON for each step, for its owner.

`allowed` before anything of a file leaves, then `landed` or `stopped`; or `refused`. Whatever the server
sends is escaped, so that a line is a line and shows what it says. A hostile server would push the line of
its theft out with others. So refusals, of which there can be any number, have files of their own; and
of what was sent nothing is let go for a day: rather no more is sent.
"""

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from .state_folder import StateFolder

SENT = "requests.jsonl"
"""What was sent, or would have been; a pair of lines for each."""
REFUSED = "refusals.jsonl"

MAX_BYTES = 10 * 2**20
KEPT = 9
"""Older files beside the one that is written: 100 MiB in all."""
KEPT_REFUSED = 4

KEPT_SECONDS = 24 * 3600
"""What was sent is on record at least so long, however much there is of it."""

FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT
if sys.platform == "win32":
    FLAGS |= os.O_BINARY | os.O_NOINHERIT
else:
    FLAGS |= os.O_NOFOLLOW | os.O_CLOEXEC

MAX_TEXT = 1024
"""Bytes of a line that a text of the server may have: it must not push old lines out with long ones."""


class Full(OSError):
    """What would have to make room for a line is kept for a while yet."""


class Journal:
    """Safe to write to from several threads."""

    def __init__(
        self,
        folder: StateFolder,
        server: str,
        *,
        max_bytes: int = MAX_BYTES,
        kept: int = KEPT,
        kept_refused: int = KEPT_REFUSED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sent = _Files(folder.path / SENT, max_bytes, kept)
        self._refused = _Files(folder.path / REFUSED, max_bytes, kept_refused)
        self._server = server
        self._clock = clock
        self._writing = threading.Lock()

    @property
    def path(self) -> Path:
        """What has to be written before anything is sent."""
        return self._sent.path

    def write(self, event: str, transfer: str, asked: str | None, **facts: object) -> None:
        """Add a line; what is None is left out. Raises OSError, and then there is no part of it.

        The end of what was allowed finds room in any case: there are no more of those than transfers.
        """
        line = self._line(event, transfer, asked, facts)
        files = self._refused if event == "refused" else self._sent
        with self._writing:
            if not files.has_room(len(line)):
                if files is self._refused or not self._is_kept(files.oldest):
                    files.rotate()
                elif event == "allowed":
                    raise Full(
                        f"it is full of what it keeps for {KEPT_SECONDS // 3600} hours; wait, or move "
                        "its older files to where they are kept"
                    )
            files.append(line)

    def _is_kept(self, oldest: Path) -> bool:
        """Whether the last line of a file is too young to go; of a time to come, the clock was wrong."""
        try:
            age = self._clock() - oldest.lstat().st_mtime
        except FileNotFoundError:
            return False
        return 0 <= age < KEPT_SECONDS

    def _line(
        self, event: str, transfer: str, asked: str | None, facts: dict[str, object]
    ) -> bytes:
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": now, "event": event, "transfer": transfer}
        line |= {"server": self._server, **facts, "asked": asked}
        for name in ("asked", "reason"):
            if isinstance(text := line.get(name), str):
                line[name] = _cut(text)
        known = {name: fact for name, fact in line.items() if fact is not None}
        return f"{_escaped(known)}\n".encode("ascii")


class _Files:
    """One that is written, and older ones with a number."""

    def __init__(self, path: Path, max_bytes: int, kept: int) -> None:
        self.path = path
        self._kept = kept
        self._max_bytes = max_bytes

    @property
    def oldest(self) -> Path:
        """What the next rotation removes."""
        return self._numbered(self._kept)

    def has_room(self, length: int) -> bool:
        """Whether so many bytes are not too many for the file that is written. Raises OSError."""
        try:
            return self.path.lstat().st_size + length <= self._max_bytes
        except FileNotFoundError:
            return True

    def rotate(self) -> None:
        """Begin another file. Raises OSError."""
        for number in range(self._kept, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))

    def append(self, line: bytes) -> None:
        descriptor = os.open(self.path, FLAGS, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if os.write(descriptor, line) < len(line):
                # A full disk takes a part; the next line must not be glued to it.
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(descriptor)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path


def _escaped(value: object) -> str:
    """ASCII only: control, bidi and odd characters as in JSON; DEL, which JSON leaves, too."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def _cut(text: str) -> str:
    """As much of a text as has the bytes that it may, escaped: of an emoji there are twelve."""
    room = MAX_TEXT
    for position, letter in enumerate(text):
        room -= len(_escaped(letter)) - len('""')
        if room < 0:
            return text[:position]
    return text
