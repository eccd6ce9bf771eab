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

from agent.wire.messages import Abort, Ack, Cancel, Chunk, End, Landed, Offer, Request, Start

from .inbox import FromAgent, Inbox, Reason, Stop
from .models import HEARTBEAT

ANSWER_SECONDS = 40.0
"""For an offer, and for more of what was asked for, from an agent that is alive otherwise."""

CONFIRM_SECONDS = 10.0
"""For the confirmation of an end: an agent has nothing to do before it but to stop."""

HASHING_RATE = 4 * 1024**2
"""Bytes a second that the slowest agent can read again before it goes on where it was."""

Outgoing = Request | Start | Ack | Landed | Abort | Cancel
Reply = Callable[[Outgoing], Awaitable[None]]
HangUp = Callable[[Abort], Awaitable[None]]


class Silence(Exception):
    """The agent is alive, and says nothing about this transfer."""


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
    ) -> None:
        self._transfer = transfer
        self._reply = reply
        self._hang_up = hang_up
        self._pulse = pulse
        self._clock = clock
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
        self._waiting_since = self._clock() + first / HASHING_RATE
        await self._say(start)

    async def next_batch(self, due: float | None) -> tuple[list[Chunk], End | Stop | None]:
        """As `Inbox.take_batch`. Raises Silence."""
        wait = due
        if self._inbox.is_empty:  # else the server itself was what was slow
            patience = self._patience()
            wait = patience if due is None else min(due, patience)
        batch = await self._inbox.take_batch(wait)
        if batch[0]:
            self._waiting_since = self._clock()
        return batch

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

    async def end(self, message: Cancel | Abort) -> None:
        """Stop, and wait for the confirmation: only then may this transfer begin anew.

        Without one the connection cannot be relied on any more, and is given up.
        """
        await self.stop(message)
        if not self._stopped:
            return
        since = self._clock()
        while (left := max(since, self._pulse.chunk) + CONFIRM_SECONDS - self._clock()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._inbox.wait_until_over()
                    return
        await self._hang_up(Abort(None, "timed_out", "no confirmation of an end"))

    async def _say(self, message: Outgoing) -> None:
        if not self._stopped:
            await self._reply(message)

    def _patience(self) -> float:
        """Seconds for which to wait on. Raises Silence when that has been long enough.

        On a slow uplink, the chunks of other transfers go before an answer. A connection that is
        silent altogether is no fault of this transfer, and ends by itself.
        """
        last = max(self._waiting_since, self._pulse.chunk)
        left = last + ANSWER_SECONDS - self._clock()
        if left > 0:
            return left
        if self._pulse.silence < 2 * HEARTBEAT:
            raise Silence(f"The agent said nothing about the transfer for {ANSWER_SECONDS:.0f} s.")
        return float(HEARTBEAT)
