"""Looking at one client's rows for one connection: what to ask for, what to leave, when to go.

The row is the truth and the doorbell only says "look": an `Attendant` looks when it is rung, and in
any case once a heartbeat, so that a lost ring costs seconds and never a transfer.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from channels.db import database_sync_to_async

from agent.wire.errors import CloseCode
from agent.wire.messages import Abort, Chunk, End, Offer
from agent.wire.session import Session
from agent.wire.state import Link

from . import dispatch
from .intake import Intake, Reply
from .models import ACTIVE, HEARTBEAT, Client, Status, StatusConflict, Transfer

AT_ONCE = 8
"""Transfers of one connection at once; the others wait their turn. Each may hold one window."""

ELSEWHERE = "another agent connected with this client's token"

log = logging.getLogger(__name__)

_tasks: set[asyncio.Task[None]] = set()
"""Intakes at work, also those that outlive their connection: an event loop holds no tasks itself."""

Close = Callable[[CloseCode, Abort], Awaitable[None]]


@dataclass(frozen=True)
class Rows:
    """What the database says to a connection that looks."""

    revoked: bool
    superseded: bool
    claimed: list[Transfer]
    lost: frozenset[UUID]
    """Transfers that this connection works on, and does not hold any more."""


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
    ) -> None:
        self.client = client
        self.epoch = epoch
        self._session = session
        self._channel_name = channel_name
        self._last_chunk = 0.0
        self._reply = reply
        self._close = close
        self._intakes: dict[UUID, Intake] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._bell = asyncio.Event()
        self._alive = True
        self._looking = asyncio.create_task(self._run())
        self.ring()

    def ring(self) -> None:
        """Look soon."""
        self._bell.set()

    def sign_of_life(self, *, chunk: bool = False) -> None:
        """Something came from the agent; the next look renews its lease."""
        self._alive = True
        if chunk:
            self._last_chunk = time.monotonic()

    def receive(self, message: Offer | Chunk | End | Abort) -> None:
        """A message of the agent about one transfer, judged already."""
        # None: it has just ended here, and the agent does not know yet.
        intake = self._intakes.get(message.transfer) if message.transfer else None
        if intake is not None:
            intake.receive(message)

    async def leave(self) -> None:
        """The connection is gone: give up the lease, and keep what has arrived."""
        self._looking.cancel()
        for intake in self._intakes.values():
            intake.link_lost()
        await self._let_go()
        await dispatch.leave(self.client.pk, self._channel_name)
        if self._working:
            await asyncio.wait(self._working)  # a cancellation of this wait leaves them at work

    async def _run(self) -> None:
        # An older connection of this client is to see that it is old.
        await dispatch.ring(self.client.pk)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    await self._bell.wait()
            self._bell.clear()
            if self._session.link is Link.CLOSED:
                return  # it was said good-bye to meanwhile
            try:
                # Again each time: membership of a group ends by itself.
                await dispatch.join(self.client.pk, self._channel_name)
                await self._look()
            except Exception:  # say, the database restarts: look again at the next heartbeat
                log.exception("%s: could not look at its transfers", self.client)

    async def _look(self) -> None:
        """Do what the rows say: leave what is not ours, ask for what waits, go when not wanted."""
        rows = await self._read_rows()
        if rows.revoked:
            await self._close(CloseCode.REVOKED, Abort(None, "revoked"))
        elif rows.superseded:
            log.info("Client %s connected anew; closing its older connection", self.client)
            await self._close(CloseCode.SUPERSEDED, Abort(None, "cancelled", ELSEWHERE))
        else:
            for pk in rows.lost & self._intakes.keys():
                self._intakes[pk].withdraw()
            for transfer in rows.claimed:
                self._begin(transfer)

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
            return Rows(revoked, superseded, [], frozenset())
        self._renew()
        Transfer.expire_due(self.client.pk)
        return Rows(revoked, superseded, self._claim(), self._lost())

    def _renew(self) -> None:
        """Only a sign of life renews the lease; a doorbell is none."""
        alive, self._alive = self._alive, False
        try:
            if alive:
                self.client.seen(self.epoch)
        except Exception:
            self._alive = True  # it was one, all the same
            raise

    def _claim(self) -> list[Transfer]:
        busy = self._session.open_transfers | self._intakes.keys()
        waiting = Transfer.waiting_for(self.client.pk, self.epoch).exclude(pk__in=busy)
        claimed = []
        for transfer in waiting[: max(0, AT_ONCE - len(self._intakes))]:
            try:
                transfer.claim(self.epoch)
            except StatusConflict as conflict:
                log.debug("not claimed: %s", conflict)
            else:
                claimed.append(transfer)
        return claimed

    def _lost(self) -> frozenset[UUID]:
        working = frozenset(self._intakes)
        held = Transfer.objects.filter(pk__in=working, epoch=self.epoch, status__in=ACTIVE)
        return working - frozenset(held.values_list("pk", flat=True))

    def _begin(self, transfer: Transfer) -> None:
        intake = self._intakes[transfer.pk] = Intake(
            transfer, self.epoch, self._reply, last_chunk=lambda: self._last_chunk
        )
        task = asyncio.create_task(intake.run())
        self._working.add(task)
        _tasks.add(task)
        task.add_done_callback(lambda done: self._ended(transfer.pk, done))

    def _ended(self, pk: UUID, task: asyncio.Task[None]) -> None:
        del self._intakes[pk]
        self._working.discard(task)
        _tasks.discard(task)
        self.ring()  # there may be another attempt to make, or another transfer whose turn it is
