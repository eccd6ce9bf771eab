"""Looking at one client's rows for one connection: what to ask for, what to leave, when to go.

The row is the truth and the doorbell only says "look": an `Attendant` looks when it is rung, when a
pause or a deadline is over, and once a heartbeat while there is something to do. One that is idle asks
nothing: the roll call (`rollcall`) notes that its agent was heard, and rings where a ring was lost, so that
this costs seconds and never a transfer.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from channels.db import database_sync_to_async
from django.conf import settings
from django.utils import timezone

from agent.wire.errors import CloseCode
from agent.wire.messages import CODEC_RAW, CODEC_ZSTD, Abort, Chunk, End, Offer, Renew
from agent.wire.session import Session
from agent.wire.state import Link

from . import dispatch, lifecycle, rollcall, turns
from .claim import Claim
from .dialogue import Outgoing, Pulse
from .inbox import Broken, LinkLost, Reason, Withdrawn
from .intake import Intake
from .models import (
    ACTIVE,
    FINAL,
    HEARTBEAT,
    LEASE,
    Client,
    Outlook,
    Status,
    StatusConflict,
    Transfer,
)
from .rotation import Rotation

LEAVE_SECONDS = 8.0
"""For the intakes to keep what has arrived when the connection is gone, or the server stops."""

AHEAD = 64
"""Transfers that a look brings along, beside those whose turn it is: they begin as others land, without a
look for each."""

ELSEWHERE = "another agent connected with this client's token"
REPLACED = "This client was enrolled anew, and its earlier token is not valid any more."

log = logging.getLogger(__name__)

_tasks: set[asyncio.Task[None]] = set()
"""Intakes at work, also those that outlive their connection: an event loop holds no tasks itself."""

Say = Callable[[Outgoing | Renew], Awaitable[None]]
Close = Callable[[CloseCode, Abort], Awaitable[None]]


@dataclass(frozen=True)
class Rows:
    """What the database says to a connection that looks."""

    revoked: bool = False
    replaced: bool = False
    """The token that the connection was made with was replaced by an enrolment."""
    superseded: bool = False
    waiting: tuple[Transfer, ...] = ()
    """To ask for, in this order."""
    lost: frozenset[UUID] = frozenset()
    """Transfers that this connection works on, and does not hold any more."""
    unwanted: frozenset[UUID] = frozenset()
    """Those of the lost that somebody has ended."""
    rate_limits: Mapping[UUID, int | None] = field(default_factory=dict)
    """What those of this connection may have at most, in bytes a second."""
    next_event: float | None = None
    """Seconds until a pause or a deadline is over, at most a heartbeat; None: there is nothing to do."""


class Attendant:
    """The transfers of one connection.

    `reply` sends to its agent, `close` ends the connection; `renewable`: the agent can keep a new token.
    """

    def __init__(
        self,
        client: Client,
        epoch: int,
        session: Session,
        reply: Say,
        close: Close,
        *,
        renewable: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.epoch = epoch
        self._session = session
        self._clock = clock
        self._pulse = Pulse(clock)
        self._noted = 0.0
        """The last sign of life that the lease counts from."""
        self._look_at: float | None = None
        """When to look by itself, by the event loop's clock; None: there is nothing to do."""
        self._reply = reply
        self._close = close
        self._rotation = Rotation(client, epoch, renewable=renewable)
        self._intakes: dict[UUID, Intake] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._bell = asyncio.Event()
        self._is_rung = False
        """Whether there may be something new, and not only a turn for what is known."""
        self._ahead: tuple[Transfer, ...] = ()
        """Of the last look, those whose turn has not come. What has become of one since, its claim shows."""
        self._seat = turns.of_this_process().seat(client.pk, self._bell.set)
        self._roll_call = rollcall.of_this_process()
        self._looking: asyncio.Task[None] | None = asyncio.create_task(self._run())

    def ring(self) -> None:
        """Look soon."""
        self._is_rung = True
        self._bell.set()

    def sign_of_life(self, *, chunk: bool = False) -> None:
        """Something came from the agent; the next look, or the next roll call, renews its lease."""
        self._pulse.beat(chunk=chunk)
        self._roll_call.heard(self)

    @property
    def is_silent(self) -> bool:
        """Whether the agent should have been heard by now."""
        return self._pulse.silence >= LEASE.total_seconds()

    @property
    def is_idle(self) -> bool:
        """Whether no transfer is under way."""
        return not self._intakes

    @property
    def unnoted(self) -> float | None:
        """When the agent was heard last, if its lease does not count from then yet."""
        return self._pulse.heard if self._pulse.heard > self._noted else None

    def noted(self, heard: float) -> None:
        """The lease counts from then."""
        self._noted = heard

    def receive(self, message: Offer | Chunk | End | Abort) -> None:
        """A message of the agent about one transfer, judged already."""
        # None: it has just ended here, and the agent does not know yet.
        intake = self._intakes.get(message.transfer) if message.transfer else None
        if intake is not None:
            intake.receive(message)

    def renewed(self, token_sha256: str) -> None:
        """The agent has kept the new token that it was sent."""
        self._rotation.confirm(token_sha256)
        self.ring()

    def broken(self, detail: str) -> None:
        """One side broke the protocol: an error of every transfer that is under way here."""
        self._leave_intakes(Broken(detail))

    def _leave_intakes(self, reason: Reason) -> None:
        for intake in self._intakes.values():
            intake.leave(reason)

    async def leave(self) -> None:
        """The connection is gone: give up the lease, and keep what has arrived."""
        if self._looking is not None:
            self._looking.cancel()
        self._looking = (
            None  # what a task was cancelled in holds this, and this would hold the task
        )
        dispatch.here.leave(self.client.pk, self.ring)
        self._roll_call.leave(self)
        self._seat.leave()
        self._leave_intakes(LinkLost())
        if self._working or not lifecycle.is_stopping():
            # A stopping server leaves idle leases to end by themselves: thousands of them would hold up
            # those who have bytes to keep, in the one thread of the database.
            await self._let_go()
        if self._working:
            # Those that take longer, or a cancellation of this wait, stay at work.
            await asyncio.wait(self._working, timeout=LEAVE_SECONDS)

    async def _run(self) -> None:
        # An older connection of this client is to see that it is old.
        await dispatch.ring(self.client.pk)
        dispatch.here.enter(self.client.pk, self.ring)
        await self._roll_call.enter(self)  # it looks whether there is something to do already
        while True:
            await self._rest()
            if self._session.link is Link.CLOSED:
                return  # it was said good-bye to meanwhile
            if self.is_silent:
                await self._give_up()
                return
            try:
                if self._is_rung or not self._ahead:
                    await self._look()
                else:
                    await self._take_on()
            except Exception:  # say, the database restarts: look again at the next heartbeat
                log.exception("%s: could not look at its transfers", self.client)
                self._is_rung = True
                self._look_in(HEARTBEAT)

    def _look_in(self, seconds: float | None) -> None:
        now = asyncio.get_running_loop().time()
        self._look_at = None if seconds is None else now + seconds

    async def _rest(self) -> None:
        """Until there is a reason to look; the roll call rings, too, for an agent that is silent."""
        try:
            async with asyncio.timeout_at(self._look_at):
                await self._bell.wait()
        except TimeoutError:
            self._is_rung = True
        self._bell.clear()

    async def _give_up(self) -> None:
        """The link is a black hole: neither side would ever hear of its end."""
        seconds = LEASE.total_seconds()
        log.info("Client %s has not been heard for %.0f s; closing", self.client, seconds)
        detail = f"nothing heard for {seconds:.0f} s"
        await self._close(CloseCode.POLICY_VIOLATION, Abort(None, "timed_out", detail))
        self._leave_intakes(LinkLost())

    async def _look(self) -> None:
        """Do what the rows say: leave what is not ours, ask for what waits, go when not wanted."""
        self._is_rung = False
        rows = await self._read_rows()
        self._ahead = rows.waiting
        self._look_in(rows.next_event)
        if rows.revoked:
            await self._close(CloseCode.REVOKED, Abort(None, "revoked"))
        elif rows.replaced:
            log.info("Client %s was enrolled anew; closing its older connection", self.client)
            await self._close(CloseCode.REVOKED, Abort(None, "revoked", REPLACED))
        elif rows.superseded:
            log.info("Client %s connected anew; closing its older connection", self.client)
            await self._close(CloseCode.SUPERSEDED, Abort(None, "cancelled", ELSEWHERE))
        else:
            for pk in rows.lost & self._intakes.keys():
                if pk in rows.unwanted:
                    await self._intakes[pk].call_off()
                else:
                    self._intakes[pk].leave(Withdrawn())
            for pk in (rows.rate_limits.keys() & self._intakes.keys()) - rows.lost:
                await self._intakes[pk].limit_rate(rows.rate_limits[pk])
            await self._take_on()
            await self._rotate()

    async def _take_on(self) -> None:
        """Claim and begin as many as it is our turn for; the seat rings when it is for the others."""
        if not (granted := self._seat.take(len(self._ahead))):
            return
        wanted, self._ahead = self._ahead[:granted], self._ahead[granted:]
        claimed: list[Claim] = []
        try:
            claims = [Claim(each, self.epoch) for each in wanted]
            outcomes = await asyncio.gather(
                *(claim.take() for claim in claims), return_exceptions=True
            )
            claimed = [
                claim for claim, outcome in zip(claims, outcomes, strict=True) if outcome is None
            ]
        finally:
            self._seat.give_back(granted - len(claimed))
        for claim in claimed:
            self._begin(claim)
        for outcome in outcomes:
            if isinstance(outcome, StatusConflict):
                log.debug("not claimed: %s", outcome)
            elif outcome is not None:
                raise outcome

    async def _rotate(self) -> None:
        """Send a new token, if somebody wants the client to have one."""
        if self.client.rotate_requested_at is None:
            return
        token = await database_sync_to_async(self._rotation.offer)()
        if token is not None:
            self._rotation.sent()
            log.info("Sending client %s a new token", self.client)
            await self._reply(Renew(token))

    async def _hang_up(self, farewell: Abort) -> None:
        """An intake cannot go on with this agent on this connection."""
        if farewell.code == "protocol_error":
            log.warning("%s broke the protocol: %s", self.client, farewell.detail)
            self.broken(farewell.detail)
            await self._close(CloseCode.PROTOCOL_ERROR, farewell)
        else:
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
        self._rotation.take()
        self.client.refresh_from_db()
        revoked = self.client.revoked_at is not None
        replaced = self._rotation.is_replaced()
        superseded = self.client.epoch != self.epoch
        if revoked or replaced or superseded:
            return Rows(revoked, replaced, superseded)
        outlook = Transfer.objects.outlook(self.client.pk)
        if outlook.due:
            Transfer.objects.filter(client=self.client).expire_due()
        lost, unwanted, rate_limits = self._working_rows()
        return Rows(
            waiting=self._waiting() if outlook.live else (),
            lost=lost,
            unwanted=unwanted,
            rate_limits=rate_limits,
            next_event=_soonest(outlook),
        )

    def _working_rows(
        self,
    ) -> tuple[frozenset[UUID], frozenset[UUID], Mapping[UUID, int | None]]:
        """Which transfers at work are not ours any more, which of them nobody wants, and all their limits."""
        if not self._intakes:
            return frozenset(), frozenset(), {}
        rows = Transfer.objects.filter(pk__in=list(self._intakes))
        working = list(rows.only("epoch", "status", "rate_limit"))
        lost = [row for row in working if row.epoch != self.epoch or row.status not in ACTIVE]
        ended = FINAL - {Status.COMPLETED}
        return (
            frozenset(row.pk for row in lost),
            frozenset(row.pk for row in lost if row.status in ended),
            {row.pk: row.rate_limit for row in working},
        )

    def _waiting(self) -> tuple[Transfer, ...]:
        busy = self._session.open_transfers | self._intakes.keys()
        rows = Transfer.objects.waiting_for(self.client.pk, self.epoch).exclude(pk__in=busy)
        # Who waits for a first turn needs none beyond it, and there may be thousands of them.
        return tuple(rows[: AHEAD if self._intakes else settings.MAX_ACTIVE_PER_CLIENT])

    def _begin(self, claim: Claim) -> None:
        transfer, turn = claim.transfer, self._seat.turn(self._clock)
        intake = self._intakes[transfer.pk] = Intake(
            claim,
            self._reply,
            self._hang_up,
            self._pulse,
            turn=turn,
            codec=self._codec,
            clock=self._clock,
        )
        task = asyncio.create_task(self._see_through(intake))
        self._working.add(task)
        _tasks.add(task)
        task.add_done_callback(lambda done: self._ended(transfer, turn, done))

    @property
    def _codec(self) -> str:
        can = settings.COMPRESSION and CODEC_ZSTD in self._session.codecs
        return CODEC_ZSTD if can else CODEC_RAW

    @staticmethod
    async def _see_through(intake: Intake) -> None:
        with lifecycle.staying(None):
            await intake.run()

    def _ended(self, transfer: Transfer, turn: turns.Turn, task: asyncio.Task[None]) -> None:
        del self._intakes[transfer.pk]
        turn.end()
        self._working.discard(task)
        _tasks.discard(task)
        if transfer.status == Status.COMPLETED:
            self._bell.set()  # there may be another transfer whose turn it is
        else:
            self.ring()  # and another attempt to make


def _soonest(outlook: Outlook) -> float | None:
    """Seconds until the next look, if there is to be one by itself."""
    if not outlook.live:
        return None
    event = outlook.next_event
    seconds = (event - timezone.now()).total_seconds() if event else HEARTBEAT
    return max(0.0, min(seconds, HEARTBEAT))
