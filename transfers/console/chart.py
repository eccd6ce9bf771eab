"""A transfer's rate over time, as the points of a line: drawn by the page as SVG, without a script."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from transfers.models.history import Point

WIDTH, HEIGHT = 600, 100
"""Of the drawing's own units; the page scales it."""

LEAST_SECONDS = 0.5
"""Two points that are nearer than that give no rate worth drawing."""


@dataclass(frozen=True)
class Chart:
    """The line, and what its edges mean."""

    line: str
    """`x,y x,y …`, as an SVG polyline takes it."""
    most: int
    """Bytes a second at the upper edge."""
    begun: datetime
    ended: datetime

    @classmethod
    def of(cls, points: Sequence[Point]) -> Self | None:
        """None where there is too little to draw. A pause, or a new start, is a rate of nothing."""
        steps = _rates(points)
        if len(steps) < 2:
            return None
        first, last = points[0][0], points[-1][0]
        most = max(rate for _, _, rate in steps) or 1.0
        corners = []
        for begin, end, rate in steps:
            y = HEIGHT * (1 - rate / most)
            corners += [(_x(begin, first, last), y), (_x(end, first, last), y)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        return cls(line, int(most), _moment(first), _moment(last))


def _rates(points: Sequence[Point]) -> list[tuple[float, float, float]]:
    """From when to when, and bytes a second."""
    steps: list[tuple[float, float, float]] = []
    if not points:
        return steps
    at, received = points[0]
    for now, total in points[1:]:
        if now - at < LEAST_SECONDS:
            continue
        steps.append((at, now, max(0.0, (total - received) / (now - at))))
        at, received = now, total
    return steps


def _x(at: float, first: float, last: float) -> float:
    return WIDTH * (at - first) / (last - first)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
