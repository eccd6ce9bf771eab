"""So many in a row, and then so many a second: a token bucket that is waited for."""

import asyncio
import time
from collections.abc import Awaitable, Callable


class Allowance:
    """Who comes first goes first."""

    def __init__(
        self,
        burst: int,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._burst_seconds = burst / rate
        self._clock = clock
        self._sleep = sleep
        self._used_until = clock() - self._burst_seconds
        """The time whose share is used up, seconds of the clock."""

    async def take(self) -> None:
        """One, as soon as there is one."""
        now = self._clock()
        self._used_until = max(self._used_until, now - self._burst_seconds) + 1 / self._rate
        if self._used_until > now:
            await self._sleep(self._used_until - now)
