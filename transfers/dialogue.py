"""What is said to an agent about one transfer and heard from it, and how long each is waited for.

A `Dialogue` knows no row and no file. It is fed by the connection (`hear`, `leave`: they only
enqueue) and used by the intake, in the order of the protocol: `ask`, `start`, `next_batch` and
`acknowledge`, `land`; or, to end it earlier, `stop` and `end`.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

from agent.wire.messages import (
    MAX_DETAIL,
    MIN_CHUNK,
    Abort,
    Ack,
    Cancel,
    Chunk,
    End,
    Landed,
    Offer,
    Request,
    Start,
)

from .inbox import FromAgent, Inbox, Reason, Stop
from .models import HEARTBEAT

ANSWER_SECONDS = 40.0
"""For an offer, and for more of what was asked for, from an agent that is alive otherwise."""

ANSWER_SECONDS_AT_MOST = 300.0
"""However many chunks of others go before it: on an uplink that is shared, none is left out for long."""

CONFIRM_SECONDS = 10.0
"""For the confirmation of an end: an agent has nothing to do before it but to stop."""

CONFIRM_SECONDS_AT_MOST = 300.0
"""However many chunks come before it: what a slow uplink has queued may take minutes, and no longer."""

GRACE_SECONDS = 60.0
"""For how long a transfer may bring less than the least rate: an uplink stalls, and comes back."""

END_SECONDS = 0.05
"""For the end of a file, after its last chunk: what comes at once is looked after in one go."""

HASHING_RATE = 4 * 1024**2
"""Bytes a second that the slowest agent can read again before it goes on where it was."""

Outgoing = Request | Start | Ack | Landed | Abort | Cancel
Reply = Callable[[Outgoing], Awaitable[None]]
HangUp = Callable[[Abort], Awaitable[None]]


class Silence(Exception):
    """The agent is alive, and says nothing about this transfer."""


class TooSlow(Exception):
    """The agent has credit, and brings less than the least rate."""


class Pace:
    """Whether a transfer brings bytes at a least rate, in bytes a second; 0 is no rate at all.

    An account in seconds: waiting for the agent costs them, each byte brings its time at that rate. So a
    chunk may take its time, as on an uplink that eight transfers share, and a trickle may not. Time in
    which the server itself is busy is not counted, nor is any before the first chunk.
    """

    def __init__(self, least_rate: float) -> None:
        self._wanted = self._least_rate = least_rate
        self._left: float | None = None

    def limit(self, rate_limit: int | None) -> None:
        """Who was told to be slow may be: half of what it was told is enough."""
        half = self._wanted if rate_limit is None else rate_limit / 2
        self._least_rate = min(self._wanted, half)

    def brought(self, count: int) -> None:
        """So many bytes came."""
        if self._least_rate:
            left = GRACE_SECONDS if self._left is None else self._left
            # A slow agent's chunks have `MIN_CHUNK`; what a fast one brings is not saved for a trickle.
            most = max(GRACE_SECONDS, MIN_CHUNK / self._least_rate)
            self._left = min(left + count / self._least_rate, most)

    def waited(self, seconds: float) -> None:
        """So long nothing came. Raises TooSlow."""
        if self._left is None:
            return
        self._left -= seconds
        if self._left < 0:
            raise TooSlow(
                "The agent sent less than "
                f"{self._least_rate:.0f} bytes/s for {GRACE_SECONDS:.0f} s (SILENTMODE_MIN_RATE)."
            )


class Pulse:
    """When a connection's agent was last heard, and when a chunk of any transfer came last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.heard = self.chunk = clock()

    def beat(self, *, chunk: bool) -> None:
        self.heard = self._clock()
        if chunk:
            self.chunk = self.heard

    @property
    def silence(self) -> float:
        """Seconds since anything came."""
        return self._clock() - self.heard


class Dialogue:
    """`reply` sends to the agent; `hang_up` ends the whole connection, for the reason given."""

    def __init__(
        self,
        transfer: UUID,
        reply: Reply,
        hang_up: HangUp,
        pulse: Pulse,
        clock: Callable[[], float] = time.monotonic,
        *,
        least_rate: float = 0.0,
    ) -> None:
        self._transfer = transfer
        self._reply = reply
        self._hang_up = hang_up
        self._pulse = pulse
        self._clock = clock
        self._pace = Pace(least_rate)
        self._to_come = 0
        self._inbox = Inbox()
        self._asked = False
        self._stopped = False
        self._waiting_since = 0.0

    # Fed by the connection ----------------------------------------------------------------------

    def hear(self, message: FromAgent) -> None:
        """A message of the agent about this transfer, judged already."""
        self._inbox.put(message)

    def leave(self, reason: Reason) -> None:
        """A reason to stop that does not come from the agent."""
        self._inbox.leave(reason)

    @property
    def leaving(self) -> Reason | None:
        """The first reason to stop, as soon as there is one."""
        return self._inbox.leaving

    # Used by the intake -------------------------------------------------------------------------

    async def ask(self, request: Request) -> Offer:
        """Ask for the file; the offer. Raises Silence, and the reason to stop."""
        self._asked = True
        await self._say(request)
        self._waiting_since = self._clock()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience()):
                    event = await self._inbox.take()
                    if not isinstance(event, Offer):
                        raise TypeError(f"{event} instead of an offer passed the table")
                    return event

    async def start(self, start: Start) -> None:
        """Let the agent send; before its first chunk it has to read again what it sent earlier."""
        first = start.ranges[0][0]
        self._to_come = sum(length for _, length in start.ranges)
        self._waiting_since = self._clock() + first / HASHING_RATE
        await self._say(start)

    def limit_rate(self, rate_limit: int | None) -> None:
        """What the agent is told to send at most, in bytes a second."""
        self._pace.limit(rate_limit)

    async def next_batch(self, due: float | None) -> tuple[list[Chunk], End | Stop | None]:
        """As `Inbox.take_batch`. Raises Silence, and TooSlow."""
        wait, waiting = due, self._inbox.is_empty  # else the server itself was what was slow
        if waiting:
            patience = self._patience()
            wait = patience if due is None else min(due, patience)
        since = self._clock()
        chunks, last = await self._inbox.take_batch(wait)
        if waiting and self._to_come:
            self._pace.waited(self._clock() - since)
        self._count(chunks)
        if chunks and last is None and not self._to_come:
            _, last = await self._inbox.take_batch(END_SECONDS)
        return chunks, last

    def _count(self, chunks: list[Chunk]) -> None:
        if chunks:
            self._waiting_since = self._clock()
            count = sum(chunk.length for chunk in chunks)
            self._to_come -= count
            self._pace.brought(count)

    async def acknowledge(self, ack: Ack) -> None:
        self._waiting_since = self._clock()  # its credit may have been used up until now
        await self._say(ack)

    async def land(self, landed: Landed) -> None:
        await self._say(landed)

    async def stop(self, message: Cancel | Abort) -> None:
        """Tell the agent to stop, if it was asked and has not ended the transfer itself.

        May be called at any moment, from outside of the intake too; nothing else is said after it.
        """
        if self._asked and not self._stopped and not self._inbox.is_over:
            self._stopped = True
            await self._reply(message)

    async def break_off(self, detail: str) -> None:
        """What the agent sent is against the rules: that ends the whole conversation."""
        await self._hang_up(Abort(None, "protocol_error", detail[:MAX_DETAIL]))

    async def end(self, message: Cancel | Abort) -> None:
        """Stop, and wait for the confirmation: only then may this transfer begin anew.

        Without one the connection cannot be relied on any more, and is given up.
        """
        await self.stop(message)
        if not self._stopped:
            return
        since = self._clock()
        while (left := self._until_confirmed(since) - self._clock()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._inbox.wait_until_over()
                    return
        await self._hang_up(Abort(None, "timed_out", "no confirmation of an end"))

    def _until_confirmed(self, since: float) -> float:
        """When a confirmation should have come, at the latest, of an end that was told then."""
        patience = max(since, self._pulse.chunk) + CONFIRM_SECONDS
        return min(patience, since + CONFIRM_SECONDS_AT_MOST)

    async def _say(self, message: Outgoing) -> None:
        if not self._stopped:
            await self._reply(message)

    def _patience(self) -> float:
        """Seconds for which to wait on. Raises Silence when that has been long enough.

        On a slow uplink, the chunks of other transfers go before an answer, but not for ever. A connection
        that is silent altogether is no fault of this transfer, and ends by itself.
        """
        since, now = self._waiting_since, self._clock()
        until = max(since, self._pulse.chunk) + ANSWER_SECONDS
        left = min(until, since + ANSWER_SECONDS_AT_MOST) - now
        if left > 0:
            return left
        if self._pulse.silence < 2 * HEARTBEAT:
            raise Silence(f"The agent said nothing about the transfer for {now - since:.0f} s.")
        return float(HEARTBEAT)
