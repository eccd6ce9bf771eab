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

    def take(self) -> bool:
        """Once more; whether that was allowed."""
        if self.left < 1:
            return False
        self._left -= 1
        return True

    @property
    def left(self) -> float:
        """What is allowed at once now."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return self._left

    @property
    def seconds_until_next(self) -> float:
        """Until once more is allowed."""
        return max(0.0, (1 - self.left) / self._rate)
