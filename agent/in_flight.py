"""How much of the uplink's queue is ours: what is sent and not yet acknowledged, and how much that may be.

A socket takes megabytes before it says stop, and on a slow uplink that is minutes in which a card payment,
a cancel or a heartbeat waits behind a file. So no more is sent than comes back acknowledged within
`QUEUE_SECONDS` of the fastest acknowledgement: enough to keep the link busy across a pause of the
server's disk, and little for others to wait behind.

One `Uplink` for a connection, since all its transfers leave through one socket, in order. That order tells
much: once a chunk is acknowledged, all that was sent before it has left the uplink, too, also what the
server has not acknowledged yet, as while it reads the beginning of a resumed file again. Each transfer has
a `Lane`; who sent longest ago is told first that there is room.

Bytes are wire bytes: payloads as they are sent. The measuring is that of BBR (Cardwell et al. 2016,
draft-ietf-ccwg-bbr): the delivery rate over a chunk's whole way and the fastest acknowledgement, which is
measured anew with an empty queue from time to time, as it can grow.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from .wire.messages import MIN_CHUNK

QUEUE_SECONDS = 0.4
"""That an acknowledgement may take longer than the fastest one: with what a network's own buffers and a
server's disk do, well below a second."""

LATE_SECONDS = 0.8
"""An acknowledgement that is later than the fastest by so much tells that the link is another one now."""

FIRST_LIMIT = 2 * MIN_CHUNK
"""In flight before the first acknowledgement."""

RATE_SECONDS = 3.0
"""For how long a delivery rate counts; of those that count, the highest does."""

BLOCKED_SECONDS = 0.005
"""A socket that takes longer to take a chunk is full."""

FASTEST_SECONDS = 10.0
"""After so long the fastest acknowledgement is measured anew."""

DRAINED = 0.75
"""Share of what a link of the fastest acknowledgement holds that may be before a chunk that measures it: less
than all, or a queue would pass for the way, and not much less, or a long way would run dry."""


SILENCE_SECONDS = 2.0
"""After so long without news a chunk goes all the same: a server that acknowledges late is slow then, and
does not stand still."""


@dataclass(frozen=True)
class Sent:
    """A chunk on its way, and what was known when it was sent."""

    lane: "Lane"
    moved: int
    """Source bytes of its transfer up to its end."""
    length: int
    """Its wire bytes."""
    position: int
    """Wire bytes of the connection up to its end."""
    at: float
    delivered: int
    """Wire bytes that had been delivered, when that was, and when the last of them had been sent."""
    delivered_at: float
    delivered_sent_at: float
    measures: bool
    """Sent with an empty queue before it, to measure the fastest acknowledgement."""


class Uplink:
    """The measurements of one connection."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lanes: OrderedDict[Lane, None] = OrderedDict()
        self._sent = 0
        self._delivered = 0
        self._delivered_at = self._delivered_sent_at = clock()
        self._full_at = -1
        """What had been sent when somebody had to wait for the link last."""
        self._rates: deque[tuple[float, float]] = deque()
        self._fastest: float | None = None
        self._fastest_at = 0.0
        self._fastest_length = 0
        self._draining = False
        self._measured_by = -1
        """Where the chunk ends that measures the fastest acknowledgement, if one is on its way."""

    @property
    def in_flight(self) -> int:
        """Bytes that may be on their way still."""
        return self._sent - self._delivered

    @property
    def rate(self) -> float | None:
        """Bytes a second that the link has delivered of late; None before the first acknowledgement."""
        return max((rate for _, rate in self._rates), default=None)

    @property
    def is_full(self) -> bool:
        """Whether somebody had to wait for the link of late: else it may well carry more than it shows."""
        return self._full_at >= self._delivered

    @property
    def limit(self) -> float:
        """Bytes in flight at which to stop."""
        if self.rate is None or self._fastest is None:
            return FIRST_LIMIT
        if self._draining:
            return max(DRAINED * (self.rate * self._fastest - self._fastest_length), 1.0)
        return self.rate * (self._fastest + QUEUE_SECONDS)

    def lane(self) -> "Lane":
        """For one more transfer."""
        lane = Lane(self)
        self._lanes[lane] = None
        return lane

    def send(self, lane: "Lane", moved: int, length: int) -> Sent:
        now = self._clock()
        if not self.in_flight:  # nothing was to deliver meanwhile
            self._delivered_at = self._delivered_sent_at = now
        measures = self._draining and self.in_flight < self.limit
        self._sent += length
        if measures:  # what follows it may queue again
            self._draining, self._measured_by = False, self._sent
        self._lanes.move_to_end(lane)
        return Sent(
            lane, moved, length, self._sent, now,
            self._delivered, self._delivered_at, self._delivered_sent_at, measures,
        )  # fmt: skip

    def full(self) -> None:
        """Somebody has to wait: it is the link that is slow, and not who reads or compresses."""
        self._full_at = self._sent

    def deliver(self, sent: Sent) -> None:
        """This chunk has arrived, and so has what was sent before it."""
        if sent.position <= self._delivered:
            return
        now = self._clock()
        self._delivered = sent.position
        self._delivered_at, self._delivered_sent_at = now, sent.at
        self._measure(sent, now)
        self._wake()

    def _measure(self, sent: Sent, now: float) -> None:
        age = now - sent.at
        late = self._fastest is not None and age > self._fastest + LATE_SECONDS
        if late:
            # A longer way, a slower link, or a disk that stood still: what was measured before is void.
            self._rates.clear()
        if self._fastest is None or sent.measures or age <= self._fastest:
            self._fastest, self._fastest_at, self._draining = age, now, False
            self._fastest_length = sent.length
        elif late or now - self._fastest_at > FASTEST_SECONDS:
            self._draining = self._measured_by < self._delivered
        self._count_rate(sent, now)

    def _count_rate(self, sent: Sent, now: float) -> None:
        # Over the longer of the two: acknowledgements that were held up come back all at once.
        seconds = max(now - sent.delivered_at, sent.at - sent.delivered_sent_at, 1e-6)
        rate = (sent.position - sent.delivered) / seconds
        if sent.position > self._full_at and rate < (self.rate or 0.0):
            return  # there was no more to send: that says nothing of the link
        self._rates.append((now, rate))
        while self._rates[0][0] < now - RATE_SECONDS:
            self._rates.popleft()

    def _wake(self) -> None:
        for lane in self._lanes:
            lane.wake()

    def leave(self, lane: "Lane", sent: Sent | None) -> None:
        """The transfer has ended: nothing more is heard of what it has sent last."""
        del self._lanes[lane]
        if sent is not None and sent.position > self._delivered:
            self._delivered = sent.position
        self._wake()


class Lane:
    """One transfer on the uplink."""

    def __init__(self, uplink: Uplink) -> None:
        self.uplink = uplink
        self._sent: deque[Sent] = deque()
        self._news = asyncio.Event()
        self._is_overdue = False

    @property
    def has_room(self) -> bool:
        """Whether a chunk may go; one always may where no other of this transfer is on its way."""
        free = self.uplink.in_flight < self.uplink.limit
        return free or self._is_overdue or not self._sent

    def sends(self, moved: int, length: int) -> None:
        """A chunk goes: `moved` source bytes up to its end, `length` bytes on the wire."""
        self._is_overdue = False
        self._sent.append(self.uplink.send(self, moved, length))

    def acked(self, received: int) -> None:
        """So many source bytes have arrived."""
        newest = None
        while self._sent and self._sent[0].moved <= received:
            newest = self._sent.popleft()
        if newest is not None:
            self.uplink.deliver(newest)
        self.wake()

    def wake(self) -> None:
        """There may be room, or credit."""
        self._news.set()

    async def wait(self) -> None:
        """Until there may be room, or credit."""
        self.uplink.full()
        self._news.clear()
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self._news.wait()
        except TimeoutError:
            self._is_overdue = True

    def close(self) -> None:
        self.uplink.leave(self, self._sent[-1] if self._sent else None)
        self._sent.clear()
