"""Looking at one client's rows for one connection: what to ask for, what to leave, when to go.

The row is the truth and the doorbell only says "look": an `Attendant` looks when it is rung, when a
pause or a deadline is over, and in any case once a heartbeat, so that a lost ring costs seconds and
never a transfer.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from channels.db import database_sync_to_async
from django.utils import timezone

from agent.wire.errors import CloseCode
from agent.wire.messages import Abort, Chunk, End, Offer
from agent.wire.session import Session
from agent.wire.state import Link

from . import dispatch, lifecycle
from .dialogue import Pulse, Reply
from .inbox import Broken, LinkLost, Reason, Withdrawn
from .intake import Intake
from .models import ACTIVE, FINAL, HEARTBEAT, LEASE, Client, Status, StatusConflict, Transfer

AT_ONCE = 8
"""Transfers of one connection at once; the others wait their turn. Each may hold one window."""

LEAVE_SECONDS = 8.0
"""For the intakes to keep what has arrived when the connection is gone, or the server stops."""

ELSEWHERE = "another agent connected with this client's token"

log = logging.getLogger(__name__)

_tasks: set[asyncio.Task[None]] = set()
"""Intakes at work, also those that outlive their connection: an event loop holds no tasks itself."""

Close = Callable[[CloseCode, Abort], Awaitable[None]]


@dataclass(frozen=True)
class Rows:
    """What the database says to a connection that looks."""

    revoked: bool = False
    superseded: bool = False
    claimed: tuple[Transfer, ...] = ()
    lost: frozenset[UUID] = frozenset()
    """Transfers that this connection works on, and does not hold any more."""
    unwanted: frozenset[UUID] = frozenset()
    """Those of the lost that somebody has ended."""
    next_event: float = HEARTBEAT
    """Seconds until a pause or a deadline is over, at most a heartbeat."""


class Attendant:
    """The transfers of one connection.

    `reply` sends to its agent, `close` ends the connection, `channel_name` is where its doorbell rings.
    """

    def __init__(
        self,
        client: Client,
        epoch: int,
        session: Session,
        reply: Reply,
        close: Close,
        *,
        channel_name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.epoch = epoch
        self._session = session
        self._channel_name = channel_name
        self._clock = clock
        self._pulse = Pulse(clock)
        self._noted = 0.0
        """The last sign of life that the lease counts from."""
        self._joined: float | None = None
        self._next_event = float(HEARTBEAT)
        self._reply = reply
        self._close = close
        self._intakes: dict[UUID, Intake] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._bell = asyncio.Event()
        self._looking = asyncio.create_task(self._run())
        self.ring()

    def ring(self) -> None:
        """Look soon."""
        self._bell.set()

    def sign_of_life(self, *, chunk: bool = False) -> None:
        """Something came from the agent; the next look renews its lease."""
        self._pulse.beat(chunk=chunk)

    def receive(self, message: Offer | Chunk | End | Abort) -> None:
        """A message of the agent about one transfer, judged already."""
        # None: it has just ended here, and the agent does not know yet.
        intake = self._intakes.get(message.transfer) if message.transfer else None
        if intake is not None:
            intake.receive(message)

    def broken(self, detail: str) -> None:
        """One side broke the protocol: an error of every transfer that is under way here."""
        self._leave_intakes(Broken(detail))

    def _leave_intakes(self, reason: Reason) -> None:
        for intake in self._intakes.values():
            intake.leave(reason)

    async def leave(self) -> None:
        """The connection is gone: give up the lease, and keep what has arrived."""
        self._looking.cancel()
        self._leave_intakes(LinkLost())
        if self._working or not lifecycle.is_stopping():
            # A stopping server leaves idle leases to end by themselves: thousands of them would hold up
            # those who have bytes to keep, in the one thread of the database.
            await self._let_go()
            await dispatch.leave(self.client.pk, self._channel_name)
        if self._working:
            # Those that take longer, or a cancellation of this wait, stay at work.
            await asyncio.wait(self._working, timeout=LEAVE_SECONDS)

    async def _run(self) -> None:
        # An older connection of this client is to see that it is old.
        await dispatch.ring(self.client.pk)
        while True:
            silence_ends = LEASE.total_seconds() - self._pulse.silence
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(silence_ends, self._next_event))):
                    await self._bell.wait()
            self._bell.clear()
            if self._session.link is Link.CLOSED:
                return  # it was said good-bye to meanwhile
            if self._pulse.silence >= LEASE.total_seconds():
                await self._give_up()
                return
            try:
                await self._join()
                await self._look()
            except Exception:  # say, the database restarts: look again at the next heartbeat
                log.exception("%s: could not look at its transfers", self.client)
                self._next_event = float(HEARTBEAT)

    async def _give_up(self) -> None:
        """The link is a black hole: neither side would ever hear of its end."""
        seconds = LEASE.total_seconds()
        log.info("Client %s has not been heard for %.0f s; closing", self.client, seconds)
        detail = f"nothing heard for {seconds:.0f} s"
        await self._close(CloseCode.POLICY_VIOLATION, Abort(None, "timed_out", detail))
        self._leave_intakes(LinkLost())

    async def _join(self) -> None:
        """Again once a heartbeat: membership of a group ends by itself."""
        now = self._clock()
        if self._joined is None or now - self._joined >= HEARTBEAT:
            await dispatch.join(self.client.pk, self._channel_name)
            self._joined = now

    async def _look(self) -> None:
        """Do what the rows say: leave what is not ours, ask for what waits, go when not wanted."""
        rows = await self._read_rows()
        self._next_event = rows.next_event
        if rows.revoked:
            await self._close(CloseCode.REVOKED, Abort(None, "revoked"))
        elif rows.superseded:
            log.info("Client %s connected anew; closing its older connection", self.client)
            await self._close(CloseCode.SUPERSEDED, Abort(None, "cancelled", ELSEWHERE))
        else:
            for pk in rows.lost & self._intakes.keys():
                if pk in rows.unwanted:
                    await self._intakes[pk].call_off()
                else:
                    self._intakes[pk].leave(Withdrawn())
            for transfer in rows.claimed:
                self._begin(transfer)

    async def _hang_up(self, farewell: Abort) -> None:
        """An intake cannot go on with this agent on this connection."""
        log.warning("Client %s: %s; closing its connection", self.client, farewell.detail)
        await self._close(CloseCode.POLICY_VIOLATION, farewell)

    @database_sync_to_async
    def _let_go(self) -> None:
        """Give up the lease, and what a look that was cut short has claimed for nobody."""
        self.client.went_offline(self.epoch)
        claimed = Transfer.objects.filter(
            client=self.client, epoch=self.epoch, status=Status.REQUESTED
        )
        for transfer in claimed.exclude(pk__in=list(self._intakes)):
            with contextlib.suppress(StatusConflict):
                transfer.link_lost(self.epoch)

    @database_sync_to_async
    def _read_rows(self) -> Rows:
        self.client.refresh_from_db()
        revoked = self.client.revoked_at is not None
        superseded = self.client.epoch != self.epoch
        if revoked or superseded:
            return Rows(revoked, superseded)
        self._renew()
        mine = Transfer.objects.filter(client=self.client)
        mine.expire_due()
        claimed = self._claim()
        lost, unwanted = self._lost()
        event = Transfer.objects.next_event(self.client.pk)
        seconds = (event - timezone.now()).total_seconds() if event else HEARTBEAT
        return Rows(
            claimed=claimed,
            lost=lost,
            unwanted=unwanted,
            next_event=max(0.0, min(seconds, HEARTBEAT)),
        )

    def _renew(self) -> None:
        """Only a sign of life renews the lease, from when it came; a doorbell is none."""
        if self._pulse.heard > self._noted:
            heard = self._pulse.heard
            ago = timedelta(seconds=self._clock() - heard)
            self.client.seen(self.epoch, timezone.now() - ago)
            self._noted = heard

    def _claim(self) -> tuple[Transfer, ...]:
        busy = self._session.open_transfers | self._intakes.keys()
        waiting = Transfer.objects.waiting_for(self.client.pk, self.epoch).exclude(pk__in=busy)
        claimed = []
        for transfer in waiting[: max(0, AT_ONCE - len(self._intakes))]:
            try:
                transfer.claim(self.epoch)
            except StatusConflict as conflict:
                log.debug("not claimed: %s", conflict)
            else:
                claimed.append(transfer)
        return tuple(claimed)

    def _lost(self) -> tuple[frozenset[UUID], frozenset[UUID]]:
        """Which transfers at work are not ours any more, and which of them nobody wants."""
        working = frozenset(self._intakes)
        lost = Transfer.objects.filter(pk__in=working).exclude(epoch=self.epoch, status__in=ACTIVE)
        ended = FINAL - {Status.COMPLETED}
        return (
            frozenset(transfer.pk for transfer in lost),
            frozenset(transfer.pk for transfer in lost if transfer.status in ended),
        )

    def _begin(self, transfer: Transfer) -> None:
        intake = self._intakes[transfer.pk] = Intake(
            transfer, self.epoch, self._reply, self._hang_up, self._pulse, clock=self._clock
        )
        task = asyncio.create_task(self._see_through(intake))
        self._working.add(task)
        _tasks.add(task)
        task.add_done_callback(lambda done: self._ended(transfer.pk, done))

    @staticmethod
    async def _see_through(intake: Intake) -> None:
        with lifecycle.staying(cancelled=False):
            await intake.run()

    def _ended(self, pk: UUID, task: asyncio.Task[None]) -> None:
        del self._intakes[pk]
        self._working.discard(task)
        _tasks.discard(task)
        self.ring()  # there may be another attempt to make, or another transfer whose turn it is
