"""What was measured: one row of the table for each subject, with a value for each round."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Goal:
    """What the median should be at least, or at most. Shown; nothing fails because of it."""

    value: float
    at_least: bool

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {number(self.value)}"

    def met(self, value: float) -> bool:
        return value >= self.value if self.at_least else value <= self.value


def at_least(value: float) -> Goal:
    return Goal(value, at_least=True)


def at_most(value: float) -> Goal:
    return Goal(value, at_least=False)


@dataclass(frozen=True)
class Run:
    """Bytes that were carried once, how long it took, and the CPU seconds of both ends."""

    size: int
    seconds: float
    sender: float
    receiver: float

    @property
    def rate(self) -> float:
        """MiB/s."""
        return self.size / MIB / self.seconds


@dataclass(frozen=True)
class Row:
    """One subject: its values, in `unit`, one of each round."""

    name: str
    unit: str
    values: tuple[float, ...] = ()
    goal: Goal | None = None
    note: str = ""
    sender: tuple[float, ...] = ()
    """CPU seconds per GiB of the end that sends: the agent, or scp."""
    receiver: tuple[float, ...] = ()
    """The same of the other end: the server, or sshd."""
    missing: str = ""
    """Why there are no values."""
    peer: bool = False
    """Whether it is another program than ours."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Findings:
    """What a case has to say."""

    title: str
    rows: tuple[Row, ...]


def rates(name: str, runs: Sequence[Run], *, note: str = "", peer: bool = False) -> Row:
    """A row of MiB/s, with the CPU that it took."""
    values = tuple(run.rate for run in runs)
    return with_cpu(Row(name, "MiB/s", values, note=note, peer=peer), runs)


def with_cpu(row: Row, runs: Sequence[Run]) -> Row:
    """The row, with what its runs took of the CPU, where that was measured."""
    sender = tuple(run.sender * GIB / run.size for run in runs)
    receiver = tuple(run.receiver * GIB / run.size for run in runs)
    return replace(
        row, sender=sender if any(sender) else (), receiver=receiver if any(receiver) else ()
    )


def ratio(name: str, over: Row, under: Row, goal: Goal | None = None) -> Row:
    """One row's values over another's, round by round: what a whole round was slow with cancels out."""
    if missing := over.missing or under.missing:
        return Row(name, "×", goal=goal, missing=missing)
    values = tuple(a / b for a, b in zip(over.values, under.values, strict=True))
    return Row(name, "×", values, goal)


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
