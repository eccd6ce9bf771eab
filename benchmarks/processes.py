"""What a running program takes, from /proc (Linux only), and what it says."""

import os
import threading
import time
from pathlib import Path

from tests.end_to_end.harness import PATIENCE, Program

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
POLL = 0.005  # seconds: how exactly the time is known at which a program said something


def cpu_seconds(pid: int, *, children: bool = False) -> float:
    """User and system time of all of its threads; `children`: instead of those that it has waited for."""
    # The name in brackets may have spaces and brackets itself. Columns: proc_pid_stat(5), from the 3rd.
    columns = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    first = 13 if children else 11
    return (int(columns[first]) + int(columns[first + 1])) / TICKS


def after_a_rest(rests: int = 5, seconds: float = 2.0) -> float:
    """How many times as long the same work takes after a rest as it takes without one.

    What is idle rests between two deeds, and a machine, or the host below a virtual one, that sleeps deeply
    makes each of them dear: from 1.4 to 5.3 times on one machine, within two hours.
    """
    steady = sorted(_work() for _ in range(50))
    rested = []
    for _ in range(rests):
        time.sleep(seconds)
        rested.append(_work())
    return sorted(rested)[rests // 2] / steady[len(steady) // 2]


def _work() -> float:
    """Seconds of something that takes about a millisecond."""
    began = time.perf_counter()
    sum(number * number for number in range(20_000))
    return time.perf_counter() - began


class Peak(threading.Thread):
    """The highest resident memory of a program until it is stopped, and the one at the start."""

    def __init__(self, program: Program) -> None:
        super().__init__(daemon=True)
        self.program = program
        self.first = self.highest = program.resident
        self._stop_asked = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stop_asked.wait(0.05):
            self.highest = max(self.highest, self.program.resident)

    @property
    def grown(self) -> float:
        """MiB."""
        return (self.highest - self.first) / MIB

    def finish(self) -> str:
        self._stop_asked.set()
        self.join()
        return (
            f"{self.first / MIB:.1f} MiB before, {self.highest / MIB:.1f} at most: "
            f"+{self.grown:.1f} MiB"
        )


class Tail:
    """Counts the lines with a text that a program says from now on, reading each only once."""

    def __init__(self, program: Program, text: str) -> None:
        self._program = program
        self._text = text.encode()
        self._file = program.log.open("rb")
        self._file.seek(0, os.SEEK_END)
        self._rest = b""
        self.count = 0

    def look(self) -> int:
        """How often it has been said."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        self.count += sum(self._text in line for line in lines)
        return self.count

    def wait(self, count: int = 1, seconds: float = PATIENCE) -> None:
        """Until it was said so often. Raises AssertionError when it is not in time."""
        end = time.monotonic() + seconds
        while self.look() < count:
            assert self._program.process.poll() is None, self._program.output[-3000:]
            assert time.monotonic() < end, (
                f"{self._text!r}: {self.count} of {count} times in {seconds} s\n"
                f"{self._program.output[-3000:]}"
            )
            time.sleep(POLL)

    def close(self) -> None:
        self._file.close()
