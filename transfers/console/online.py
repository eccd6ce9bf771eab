"""When a client was online lately, as its page shows it: a bar, a share, and the times it was away."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import pairwise

from transfers.models import Client

SHOWN = timedelta(days=7)

WIDTH = 700
"""Of the drawing's own units: a day has a hundred."""

MOST_TIMES = 1000
"""Of times online that are looked at, of a client that comes and goes all day; before those nothing is
known."""

MOST_ABSENCES = 10

Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class Absence:
    """A time for which nothing was heard of it; `ended` is None where that lasts."""

    begun: datetime
    ended: datetime | None

    @property
    def seconds(self) -> float | None:
        return (self.ended - self.begun).total_seconds() if self.ended else None


class Online:
    """Of one client, up to now."""

    def __init__(self, client: Client, now: datetime) -> None:
        self._client = client
        self._moment = now
        # Else the picture would be another one each second, and sent to each browser again.
        self._now = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
        self.begun = self._now - SHOWN

    @cached_property
    def _times(self) -> Sequence[Span]:
        """When it was online, in order: those of what is shown, and one before them if there is any."""
        since, until = self._client.online_since, self._client.online_until
        if since is None or until is None:
            return []
        ended = self._client.presences.order_by("-ended").values_list("begun", "ended")
        times = list(ended.filter(ended__gt=self.begun)[:MOST_TIMES])
        if len(times) < MOST_TIMES:
            times += ended.filter(ended__lte=self.begun)[:1]
        return [*reversed(times), (since, self._now if self._client.online else until)]

    @property
    def is_known(self) -> bool:
        """Whether it was ever online."""
        return bool(self._times)

    @property
    def known_since(self) -> datetime:
        """Whether it was online before that nobody knows, or none of it is shown."""
        return max(self.begun, self._times[0][0])

    @property
    def is_known_throughout(self) -> bool:
        return self.known_since == self.begun

    @property
    def percent(self) -> float:
        """Of the time that is known, of what is shown."""
        online = sum((min(end, self._moment) - begun for begun, end in self._shown), timedelta())
        known = max(self._moment - self.known_since, timedelta(seconds=1))
        return min(max(100 * online / known, 0.0), 100.0)  # clocks of two servers differ

    @property
    def bars(self) -> Sequence[tuple[str, str]]:
        """`x` and `width` of the times that it was online, as SVG takes them; none too thin to be seen.

        Two that touch in the picture are one.
        """
        bars: list[tuple[float, float]] = []
        for begun, ended in self._shown:
            left = self._x(begun)
            right = max(self._x(ended), left + 0.5)
            if bars and left - bars[-1][1] < 0.1:
                left = bars.pop()[0]
            bars.append((left, right))
        return [(f"{left:.1f}", f"{right - left:.1f}") for left, right in bars]

    @property
    def unknown_width(self) -> str:
        """Of the beginning of the bar, of which nothing is known."""
        return f"{self._x(self.known_since):.1f}"

    @property
    def _shown(self) -> Sequence[Span]:
        """The times that it was online, within what is shown."""
        return [
            (max(begun, self.begun), ended) for begun, ended in self._times if ended > self.begun
        ]

    def _x(self, when: datetime) -> float:
        return WIDTH * ((when - self.begun) / SHOWN)

    @property
    def absences(self) -> Sequence[Absence]:
        """The last times that it was away, first the newest."""
        gaps: list[tuple[datetime, datetime | None]] = [
            (ended, begun)
            for (_, ended), (begun, _) in pairwise(self._times)
            if begun > max(ended, self.begun)
        ]
        if self._times and not self._client.online:
            gaps.append((self._times[-1][1], None))
        return [Absence(*gap) for gap in reversed(gaps[-MOST_ABSENCES:])]
