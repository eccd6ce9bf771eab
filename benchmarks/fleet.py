"""Many agents, each with a real connection, in one process."""

import collections
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.harness import Program, Server

from .processes import Tail

REGISTERED = "registered as till"
PATIENCE = 120.0

REGISTER = """
from transfers.tokens import digest, new_token
from transfers.models import Client
tokens = {{f"till{{number}}": new_token() for number in range({count})}}
Client.objects.bulk_create(
    Client(id=name, token_sha256=digest(token)) for name, token in tokens.items()
)
for name, token in tokens.items():
    print(name, token)
"""


@dataclass(frozen=True)
class Return:
    """How long it took until all were there, and how many came in the busiest second."""

    count: int
    seconds: float
    busiest: int

    def __str__(self) -> str:
        return f"all {self.count} after {self.seconds:.1f} s, {self.busiest} in the busiest second"


class TooMany(AssertionError):
    """Not all of them came in time."""


class Fleet:
    """Agents that dial when they are told to."""

    def __init__(self, server: Server, count: int, folder: Path) -> None:
        self.count = count
        registered = server.manage("shell", "-v", "0", "-c", REGISTER.format(count=count))
        self._waiting = [f"{line}\n".encode() for line in registered.splitlines()]
        command = ["-m", "tests.end_to_end.fleet", f"ws://127.0.0.1:{server.port}"]
        self.program = Program(command, folder / "fleet.log", {}, stdin=subprocess.PIPE)
        self.program.wait_for("ready to dial")
        self._registered = Tail(self.program, REGISTERED)
        self._times = 0

    def dial(self, at_once: int | None = None) -> Return:
        """Let all dial: at once, or so many at a time, each lot when the one before is there."""
        began = time.monotonic()
        came: collections.Counter[int] = collections.Counter()
        lot = at_once or self.count
        for first in range(0, self.count, lot):
            self._dial(self._waiting[first : first + lot])
            came += self._arrivals(min(first + lot, self.count), began)
        self._times = 1
        return self._return(came, began)

    def all_back(self) -> Return:
        """Wait until all are registered once more, from now on."""
        began = time.monotonic()
        self._times += 1
        return self._return(self._arrivals(self.count * self._times, began), began)

    def _dial(self, lines: list[bytes]) -> None:
        assert self.program.process.stdin
        self.program.process.stdin.write(b"".join(lines))
        self.program.process.stdin.flush()

    def _arrivals(self, wanted: int, began: float) -> collections.Counter[int]:
        """How many came in which second, until so many were registered in all. Raises TooMany."""
        came: collections.Counter[int] = collections.Counter()
        until = time.monotonic() + PATIENCE
        seen = self._registered.count
        while seen < wanted:
            assert self.program.process.poll() is None, self.program.output[-3000:]
            if time.monotonic() > until:
                raise TooMany(f"{seen} of {wanted} were there after {PATIENCE:.0f} s")
            before, seen = seen, self._registered.look()
            came[int(time.monotonic() - began)] += seen - before
            time.sleep(0.02)
        return came

    def _return(self, came: collections.Counter[int], began: float) -> Return:
        return Return(self.count, time.monotonic() - began, max(came.values()))
