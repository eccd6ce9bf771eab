"""What every request of the server must pass, and what is recorded of it.

One gate for the agent's whole life; connections come and go. By name `policy` decides, on the open file
what is here: regular, not too large, and nothing that is never sent.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..journal import Journal
from ..pace import Pace
from ..progress import say
from ..wire.display import shown
from ..wire.errors import ERRORS
from ..wire.messages import Request
from . import never
from .allowance import Allowance
from .own_files import OwnFiles
from .policy import Place, Policy, below_anchor
from .reading import read_at
from .source import Source, SourceError, forbidden, let_mtime_settle, os_error

if sys.platform == "win32":
    from .windows import file_system_type, final_path, look_at, open_place
else:
    from .opening import file_system_type, final_path, look_at, open_place

PLACE_SECONDS = 2.0
"""For a place to become free: the last transfer's end and the next one's request may cross."""

REFUSALS = 10_000
REFUSALS_A_SECOND = 10.0
"""In a row, and from then on: a server that asks in vain for ever must not wear out the disk that the
journal is on. What is sent is bounded by the journal itself, and waits for none of this."""

SYSTEM_MOUNTS = ("/proc", "/sys", "/dev", "/dev/shm", "/run/secrets", "/run/credentials")  # noqa: S108
"""Mounts of the built-in list. What is on one of them has its device number, wherever else it is
mounted."""

T = TypeVar("T")


class Gate:
    """The only way of a file out of this machine."""

    def __init__(
        self, policy: Policy, own: OwnFiles, journal: Journal, pace: Pace | None = None
    ) -> None:
        self.policy = policy
        self.journal = journal
        self.pace = pace or Pace(policy.rate_limit)
        self._own = own
        self._places = asyncio.Semaphore(policy.transfers_at_once)
        self.refusals = Allowance(REFUSALS, REFUSALS_A_SECOND)

    async def enter(self) -> None:
        """Take one of the places for transfers; `leave` gives it back. Raises SourceError."""
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise SourceError("busy", ERRORS["busy"].sentence) from None

    def leave(self) -> None:
        self._places.release()

    def open(self, asked: str | None) -> tuple[Source, Place]:
        """The file that is asked for, and where the policy allows it. Blocks. Raises SourceError."""
        place, descriptor = self._first(asked, self._open)
        try:
            let_mtime_settle(descriptor)
            return Source(descriptor, place.path, lambda: self._look(asked)), place
        except OSError as error:
            os.close(descriptor)
            raise os_error(error) from None

    def _open(self, place: Place) -> int:
        descriptor = open_place(place, self._check)
        try:
            if reason := never.by_content(bytes(read_at(descriptor, 0, never.HEAD))):
                raise forbidden(reason)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _look(self, asked: str | None) -> os.stat_result:
        return self._first(asked, look_at)[1]

    def _first(self, asked: str | None, way: Callable[[Place], T]) -> tuple[Place, T]:
        """The first place where there is something, and what the way gives there.

        Whether a place may be looked at is settled for all before the disk is asked about one.
        """
        places = self.policy.places(asked)
        for place in places:
            self._own.check_path(place.path)
        failures: list[SourceError] = []
        for place in places:
            try:
                return place, way(place)
            except OSError as error:
                failures.append(os_error(error))
            except SourceError as error:
                failures.append(error)
        raise next((each for each in failures if each.code != "not_found"), failures[0])

    def _check(self, descriptor: int, status: os.stat_result) -> None:
        """On what was found, before it is opened to be read where the system can do so."""
        self._own.check_file(status)
        reason = never.by_file_system(file_system_type(descriptor)) or _by_mount(status)
        path = final_path(descriptor)
        if path is not None:
            reason = reason or never.by_path(below_anchor(path))
        if reason:
            raise forbidden(reason)
        most = self.policy.max_file_size
        if most is not None and status.st_size > most:
            raise SourceError(
                "too_large",
                ERRORS["too_large"].sentence,
                f"it has {status.st_size} bytes; max_file_size of the policy is {most}",
            )


def _by_mount(status: os.stat_result) -> str | None:
    for mount in SYSTEM_MOUNTS:
        if os.path.ismount(mount) and status.st_dev == Path(mount).stat().st_dev:
            return f"built-in list: the system's own (it is on what is mounted at {mount})"
    return None


class Visit:
    """One request, from its coming to its end: what it asked for, what left, how it ended."""

    def __init__(self, gate: Gate, request: Request) -> None:
        self._gate = gate
        self._transfer = str(request.transfer)
        self._asked = request.path
        self._began = time.monotonic()
        self._source: Source | None = None
        self._refused = False
        self.sent = 0
        """Bytes of the file that have been handed to the socket."""
        self.sha256: str | None = None
        """Of the file, once the server has said that it has landed there."""
        self.ended_by = "link_lost"
        """A code from the table of errors, as soon as one is known."""

    def open(self) -> Source:
        """Blocks. What cannot be recorded is not sent. Raises SourceError."""
        source, place = self._gate.open(self._asked)
        try:
            self._gate.journal.write(
                "allowed", self._transfer, self._asked,
                file=str(place.path), rule=place.rule, size=source.size,
            )  # fmt: skip
        except OSError as error:
            source.close()
            raise SourceError(
                "unreadable",
                "The agent cannot keep its journal.",
                f"the journal {self._gate.journal.path} cannot be written: {error}",
            ) from None
        self._source = source
        return source

    def fail(self, error: SourceError) -> None:
        """It ends with this; a request that came to nothing is recorded now. Blocks."""
        self.ended_by = error.code
        if self._source is None:
            self._refused = True
            self._record("refused", code=error.code, reason=error.reason)

    def close(self) -> None:
        """Release the file, and record how it went. Blocks."""
        if self._source is None:
            if not self._refused:  # it was given up before anything was opened
                self._record("refused", code=self.ended_by)
            return
        self._source.close()
        event, code = ("landed", None) if self.sha256 else ("stopped", self.ended_by)
        self._record(
            event, code=code, file=str(self._source.path), size=self._source.size,
            sha256=self.sha256, sent=self.sent, seconds=round(time.monotonic() - self._began, 3),
        )  # fmt: skip

    def _record(self, event: str, **facts: object) -> None:
        try:
            self._gate.journal.write(event, self._transfer, self._asked, **facts)
        except OSError as error:  # nothing leaves by this line; the person at the machine is told
            say(f"[client] The journal cannot be written: {shown(str(error))}")
