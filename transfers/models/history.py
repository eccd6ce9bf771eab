"""What became of a transfer on its way: attempts that ended without the file, and how fast it came.

Whatever goes well leaves no row here: a small file is asked for and lands with what its own row has.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from django.db import models

if TYPE_CHECKING:
    from .transfer import Transfer

LINK_LOST = "link_lost"
"""The code of an attempt whose connection ended; all others are of `agent.wire.errors`."""

MOST_POINTS = 120
"""Of a course: more than a small chart shows. Beyond, every other one is dropped."""

RATE_SECONDS = 8.0
"""A rate is that of so long at least, where the attempt is that old: what a person reads must not jump."""

MOST_SETBACKS = 500
"""Of a transfer, the newest: an agent that is busy, or an uplink that drops, makes thousands a day."""

Point = tuple[float, int]
"""Seconds since 1970, and the bytes that had been received."""


class Setback(models.Model):
    """An attempt that ended without the file, and why."""

    transfer = models.ForeignKey("Transfer", on_delete=models.CASCADE, related_name="setback_rows")
    at = models.DateTimeField()
    attempt = models.PositiveIntegerField()
    code = models.CharField(max_length=32)
    detail = models.TextField(blank=True)
    received = models.BigIntegerField()
    """Bytes that had come when it ended."""

    class Meta:
        ordering = ("at", "id")

    def __str__(self) -> str:
        return f"attempt {self.attempt} of {self.transfer_id}: {self.code}"


class Course(models.Model):
    """How a transfer came along: the points of its chart."""

    transfer = models.OneToOneField(
        "Transfer", primary_key=True, on_delete=models.CASCADE, related_name="course"
    )
    points = models.JSONField(default=list)

    def __str__(self) -> str:
        return f"{len(self.points)} points of {self.transfer_id}"


class Measured:
    """What the holder of a transfer knows of its course, in memory, between two records of it."""

    def __init__(self, begun: datetime, received: int, earlier: Sequence[Point] = ()) -> None:
        self._begun: Point = (begun.timestamp(), received)
        self._lately: list[Point] = [self._begun]
        self.points: list[Point] = [*earlier, self._begun]

    def add(self, now: datetime, received: int) -> int:
        """So much has come by now; the rate, in bytes a second."""
        point = (round(now.timestamp(), 1), received)
        self.points.append(point)
        if len(self.points) > MOST_POINTS:
            self.points = [*self.points[:-1:2], point]
        self._lately.append(point)
        while len(self._lately) > 2 and point[0] - self._lately[1][0] >= RATE_SECONDS:
            del self._lately[0]
        since, before = self._lately[0]
        return int((received - before) / max(point[0] - since, 0.001))


def keep_course(transfer: "Transfer", points: Sequence[Point]) -> None:
    """In one query: each transfer under way keeps its own every two seconds."""
    Course.objects.bulk_create(
        [Course(transfer=transfer, points=points)],
        update_conflicts=True,
        unique_fields=["transfer"],
        update_fields=["points"],
    )


def earlier_points(transfer: "Transfer") -> list[Point]:
    """What attempts before this one have recorded."""
    course = Course.objects.filter(pk=transfer.pk).first()
    return [(at, received) for at, received in course.points] if course else []
