"""How fast files leave: a token bucket for all transfers of the agent, one for each, and fair turns.

Chunks leave one at a time. Whose turn it is follows start-time fair queueing (Goyal, Vin and Cheng, 1996):
every transfer is on a clock of bytes, and who is behind the others goes first. So transfers have equal
parts of the rate, or of the uplink where there is no limit, whatever the lengths of their chunks; and a
small file goes past a large one.
"""

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable

from .wire.messages import LEAST_CHUNK

BURST_SECONDS = 0.1
"""Of the rate: what a timer that rings late may catch up with."""

TURNS = 16
"""Chunks in a second, about, where there is a limit: with the burst, no second has more than 1.17 of the
rate, each transfer gets its turn, and an acknowledgement does not wait for long."""

LEAST = 2 * LEAST_CHUNK
"""Bytes of a chunk that every rate allows: so much can be cut so that neither part is too short a chunk."""


async def _pause(woken: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await woken.wait()


Clock = Callable[[], float]
Pause = Callable[[asyncio.Event, float], Awaitable[None]]
"""Waits so many seconds, or until the event is set."""


class Bucket:
    """Bytes a second, or None for as fast as it goes; it can be changed in the middle of a wait."""

    def __init__(
        self, rate: int | None, clock: Clock = time.monotonic, pause: Pause = _pause
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._pause = pause
        self._changed = asyncio.Event()
        self._free_at = clock()
        """When all that was promised has gone out."""

    @property
    def rate(self) -> int | None:
        return self._rate

    def change(self, rate: int | None) -> None:
        """From now on. Bytes that went out faster are not waited for longer than they were to be."""
        if rate == self._rate:
            return
        now = self._clock()
        left = max(0.0, self._free_at - now)
        self._free_at = now + (min(left, left * (self._rate or 0) / rate) if rate else 0.0)
        self._rate = rate
        self._changed.set()

    def most(self, length: int) -> int:
        """How much of so many bytes should go as one chunk."""
        return length if self._rate is None else min(length, max(self._rate // TURNS, LEAST))

    async def wait(self) -> None:
        """Until a chunk may go. One at a time."""
        while self._rate is not None and (left := self._free_at - self._clock()) > 0:
            self._changed.clear()
            await self._pause(self._changed, left)

    def pay(self, length: int) -> None:
        """So many bytes go now."""
        if self._rate is not None:
            begins = max(self._free_at, self._clock() - BURST_SECONDS)
            self._free_at = begins + length / self._rate


class Pace:
    """All transfers of the agent: their rate together, and whose turn it is."""

    def __init__(
        self, rate: int | None = None, clock: Clock = time.monotonic, pause: Pause = _pause
    ) -> None:
        self.bucket = Bucket(rate, clock, pause)
        self._clock = clock
        self._pause = pause
        self._busy = False
        self._served = 0
        """Where the one whose turn it is, or was last, is on the clock of bytes."""
        self._line: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def share(self) -> "Share":
        """The part of one transfer."""
        return Share(self, Bucket(None, self._clock, self._pause))

    async def enter(self, served: int) -> int:
        """Wait for the turn of who was served up to here; where that is on the clock of bytes now.

        Nobody else sends until `leave`.
        """
        place = max(served, self._served)
        await self._take(place)
        try:
            await self.bucket.wait()
        except BaseException:
            self.leave()
            raise
        return place

    async def _take(self, place: int) -> None:
        if not self._busy:
            self._busy = True
            self._served = place
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._line, (place, next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had just become our turn
                self.leave()
            raise

    def leave(self) -> None:
        """Whoever has sent may stand in line again before the next one is chosen."""
        if self._line:
            asyncio.get_running_loop().call_soon(self._choose)
        else:
            self._busy = False

    def _choose(self) -> None:
        while self._line:
            place, _, turn = heapq.heappop(self._line)
            if not turn.done():
                self._served = place
                turn.set_result(None)
                return
        self._busy = False


class Share:
    """One transfer's part: its own rate, and its place among the others. A context manager: its turn."""

    def __init__(self, pace: Pace, bucket: Bucket) -> None:
        self._pace = pace
        self._bucket = bucket
        self._served = 0

    def limit(self, rate: int | None) -> None:
        """What the server wants it to have at most, in bytes a second, from now on."""
        self._bucket.change(rate)

    @property
    def rate(self) -> int | None:
        """Bytes a second that it may have at most; None: as fast as it goes."""
        return min(filter(None, (self._bucket.rate, self._pace.bucket.rate)), default=None)

    def most(self, length: int) -> int:
        """How much of so many bytes should go as one chunk."""
        return self._pace.bucket.most(self._bucket.most(length))

    async def __aenter__(self) -> None:
        """When a chunk may be sent, which is to be paid for in here; nobody else sends meanwhile."""
        await self._bucket.wait()
        self._served = await self._pace.enter(self._served)

    async def __aexit__(self, *why: object) -> None:
        self._pace.leave()

    def pay(self, length: int) -> None:
        """So many bytes go now."""
        self._bucket.pay(length)
        self._pace.bucket.pay(length)
        self._served += length
