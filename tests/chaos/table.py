"""The table at the end: by fault, what came of it and what it cost."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .plan import MIB
from .world import Result

HEADER = (
    "fault", "runs", "struck", "completed", "other ends",
    "MiB sent again", "(most)", "recovery", "(slowest)",
)  # fmt: skip


@dataclass
class Line:
    """One kind of fault. Bytes and seconds are of the runs that had no other one."""

    runs: int = 0
    struck: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    again: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    spoiled: int = 0
    noticed: int = 0

    def add(self, result: Result, struck: int) -> None:
        outcome = result.outcome
        self.runs += 1
        self.struck += struck
        self.ends[outcome.end] += 1
        if struck and len(result.struck) == 1:
            if outcome.end == "completed":
                self.again.append(outcome.again / MIB / struck)
            if outcome.seconds is not None:
                self.seconds.append(outcome.seconds)
            self.spoiled += result.spoiled
            self.noticed += min(result.spoiled, result.noticed)

    def cells(self, name: str) -> tuple[str, ...]:
        others = ", ".join(
            f"{count} {end}" for end, count in self.ends.items() if end != "completed"
        )
        return (
            name, str(self.runs), str(self.struck), str(self.ends["completed"]), others or "–",
            *_middle_and_most(self.again, "{:.2f}"), *_middle_and_most(self.seconds, "{:.1f} s"),
        )  # fmt: skip


def _middle_and_most(values: Sequence[float], form: str) -> tuple[str, str]:
    if not values:
        return "–", "–"
    return form.format(statistics.median(values)), form.format(max(values))


@dataclass
class Table:
    """Grows with every result."""

    names: Sequence[str]
    runs: int = 0
    kept: int = 0
    """Runs that ended as promised."""
    lines: dict[str, Line] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        self.runs += 1
        self.kept += not result.broken
        for name, struck in zip(result.plan.names, result.struck, strict=True):
            self.lines.setdefault(name, Line()).add(result, struck)

    def __str__(self) -> str:
        rows = [
            HEADER,
            *(self.lines[name].cells(name) for name in self.names if name in self.lines),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
        spoiled = sum(line.spoiled for line in self.lines.values())
        if spoiled:
            noticed = sum(line.noticed for line in self.lines.values())
            lines.append(
                f"{spoiled} times bytes were spoiled: {noticed} times the conversation broke off or began "
                f"anew, {spoiled - noticed} times in bytes that change nothing"
            )
        return "\n".join([*lines, f"{self.kept} of {self.runs} transfers ended as promised"])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    """Words to the left, numbers to the right."""
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if column in (0, 4) else cell.rjust(width)
