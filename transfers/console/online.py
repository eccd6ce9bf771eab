"""When a client was online lately, as its page shows it: a bar, a share, and the times it was away."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from transfers.models import Client

SHOWN = timedelta(days=7)

WIDTH = 700
"""Of the drawing's own units: a day has a hundred."""

MOST_ABSENCES = 10

Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class Absence:
    """A time for which nothing was heard of it; `ended` is None where that lasts."""

    begun: datetime
    ended: datetime | None
    seconds: float


class Online:
    """Of one client, up to now."""

    def __init__(self, client: Client, now: datetime) -> None:
        self._client = client
        self._now = now
        self.begun = now - SHOWN

    @cached_property
    def _spans(self) -> Sequence[Span]:
        """When it was online, in order, within what is shown."""
        rows = self._client.presences.filter(ended__gt=self.begun).order_by("ended")
        spans = list(rows.values_list("begun", "ended"))
        since, until = self._client.online_since, self._client.online_until
        if since is not None and until is not None and until > self.begun:
            spans.append((since, min(until, self._now)))
        return [(max(begun, self.begun), ended) for begun, ended in spans]

    @property
    def known_since(self) -> datetime:
        """Before it was added nothing could be heard of it."""
        return max(self.begun, self._client.created_at)

    @property
    def is_known(self) -> bool:
        """Whether it was ever online."""
        return self._client.online_since is not None

    @property
    def percent(self) -> float:
        """Of the time that it is known, or that is shown."""
        online = sum((ended - begun for begun, ended in self._spans), timedelta())
        return min(100.0, 100 * online / max(self._now - self.known_since, timedelta(seconds=1)))

    @property
    def bars(self) -> Sequence[tuple[str, str]]:
        """`x` and `width` of each time that it was online, as SVG takes them; none too thin to be seen."""
        return [
            (f"{self._x(begun):.1f}", f"{max(self._x(ended) - self._x(begun), 0.5):.1f}")
            for begun, ended in self._spans
        ]

    def _x(self, when: datetime) -> float:
        return WIDTH * ((when - self.begun) / SHOWN)

    @property
    def absences(self) -> Sequence[Absence]:
        """The last times that it was away, first the newest."""
        ends = [ended for _, ended in self._spans]
        gaps: list[tuple[datetime, datetime | None]] = [
            (ended, begun)
            for ended, (begun, _) in zip(ends, self._spans[1:], strict=False)
            if begun > ended
        ]
        if ends and not self._client.online:
            gaps.append((ends[-1], None))
        return [
            Absence(begun, ended, ((ended or self._now) - begun).total_seconds())
            for begun, ended in reversed(gaps[-MOST_ABSENCES:])
        ]
