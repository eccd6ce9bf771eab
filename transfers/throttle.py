"""Who does too much of something is not listened to for a while, in bounded memory.

One for each process: several allow so many times as much.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from .allowance import Allowance
from .peer import neighbourhood

REMEMBERED = 10_000
"""Parties; beyond that, the one that was counted least lately is forgotten."""


class Allowances:
    """An `Allowance` for each party: `burst` at once, and `rate` a second.

    Used from several threads: the event loop's, and that of the views and the database.
    """

    def __init__(
        self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._left: OrderedDict[Hashable, Allowance] = OrderedDict()

    def __len__(self) -> int:
        """Parties that are remembered."""
        return len(self._left)

    def take(self, party: Hashable, count: int = 1) -> tuple[bool, float]:
        """So many times more: whether that was allowed, and the seconds for which no more is.

        `(True, 3.0)` comes once for each pause: it is what began it. `(False, 3.0)`: nothing was taken, and
        as many are allowed then.
        """
        with self._lock:
            left = self._left.pop(party, None)
            if left is None:
                left = Allowance(self._burst, self._rate, self._clock)
            allowed = left.take(count)
            self._left[party] = left
            if len(self._left) > REMEMBERED:
                self._left.popitem(last=False)
            return allowed, left.seconds_until(1 if allowed else count)

    def wait(self, party: Hashable) -> float:
        """Seconds for which no more is allowed; 0.0: it is."""
        with self._lock:
            left = self._left.get(party)
            return 0.0 if left is None else left.seconds_until()


class Failures:
    """The failures of each address: `most` at once, and so many more in every `seconds`."""

    def __init__(
        self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._left = Allowances(most, most / seconds, clock)

    def __len__(self) -> int:
        """Addresses that are remembered."""
        return len(self._left)

    def add(self, address: str) -> float:
        """It failed, just now: the seconds of the pause that begins with that; 0.0: none does."""
        counted, pause = self._left.take(neighbourhood(address))
        return pause if counted else 0.0

    def pause(self, address: str) -> float:
        """Seconds for which it is not listened to; 0.0: it is."""
        return self._left.wait(neighbourhood(address))
