"""How often a peer may do what it does unasked: so many at once, and so many a second on average."""

import time
from collections.abc import Callable


class Allowance:
    """A token bucket; `burst` at once, `rate` a second."""

    def __init__(
        self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._rate = rate
        self._clock = clock
        self._left = burst
        self._at = clock()

    def take(self, count: int = 1) -> bool:
        """So many times more; whether that was allowed, and all of it."""
        if self.left < count:
            return False
        self._left -= count
        return True

    @property
    def left(self) -> float:
        """What is allowed at once now."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return self._left

    def seconds_until(self, count: int = 1) -> float:
        """Until so many times more are allowed."""
        return max(0.0, (count - self.left) / self._rate)
