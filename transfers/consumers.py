"""AgentConsumer: authenticate, join the group, pass messages on, leave.

Channels runs one handler at a time for each socket, so handlers only enqueue and return: transfers
arrive in tasks of their own (`intake`), and so does the looking at rows that a doorbell asks for.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from channels.exceptions import StopConsumer
from django.utils import timezone

from agent.wire.errors import CloseCode
from agent.wire.messages import (
    MAX_CHUNK,
    PROTOCOL,
    Abort,
    Chunk,
    End,
    Heartbeat,
    Hello,
    Message,
    Offer,
    Request,
    Welcome,
)
from agent.wire.session import Session, Violation
from agent.wire.state import Link, Side, Stage

from . import dispatch
from .auth import AgentRefused, authenticate_agent
from .intake import Intake, Outgoing
from .models import ACTIVE, HEARTBEAT, Client, StatusConflict, Transfer
from .progress import shown

HELLO_SECONDS = 10.0
"""How long a connection may stay silent before its `hello`."""

AT_ONCE = 8
"""Transfers of one connection at once; the others wait their turn. Each may hold one window."""

log = logging.getLogger(__name__)

_tasks: set[asyncio.Task[None]] = set()
"""Intakes at work, also those that outlive their connection: an event loop holds no tasks itself."""


@dataclass(frozen=True)
class Rows:
    """What the database says to a connection that looks."""

    client: Client
    claimed: list[Transfer]
    lost: frozenset[UUID]
    """Transfers that this connection works on, and does not hold any more."""


class AgentConsumer(AsyncConsumer):
    """The server's end of one agent's connection."""

    client: Client
    epoch = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.session = Session(Side.SERVER)
        self.intakes: dict[UUID, Intake] = {}
        self.working: set[asyncio.Task[None]] = set()
        self.attendant: asyncio.Task[None] | None = None
        self.bell = asyncio.Event()
        self.alive = True
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Not in `disconnect`: daphne cancels an application that it stops, and calls nothing.
            await self._leave()

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Chunks bypass Channels' housekeeping of database connections, a thread hop for each."""
        if message["type"] == "websocket.receive" and message.get("bytes") is not None:
            await self._receive(message["bytes"])
        else:
            await super().dispatch(message)

    # The socket ---------------------------------------------------------------------------------

    async def websocket_connect(self, message: dict[str, Any]) -> None:
        client_id = self.scope["url_route"]["kwargs"]["client_id"]
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]
        }
        try:
            self.client = await database_sync_to_async(authenticate_agent)(client_id, headers)
        except AgentRefused as refused:
            log.warning("Refused an agent for %s: %s", shown(client_id), shown(refused.detail))
            await self.send({"type": "websocket.close"})
            return
        if PROTOCOL not in self.scope["subprotocols"]:
            log.warning("Refused %s: it does not speak %s", client_id, PROTOCOL)
            await self.send({"type": "websocket.close"})
            return
        await self.send({"type": "websocket.accept", "subprotocol": PROTOCOL})
        self.attendant = asyncio.create_task(self._attend())

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        await self._receive(message["text"])

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        raise StopConsumer

    async def doorbell(self, message: dict[str, Any]) -> None:
        """`dispatch` rang: something about this client's rows is new."""
        self.bell.set()

    async def _receive(self, data: str | bytes) -> None:
        if self.session.link is Link.CLOSED:
            return  # we have said good-bye; what is still in the queue is nobody's
        self.alive = True
        message = self.session.receive(data)
        match message:
            case Violation():
                log.warning("%s broke the protocol: %s", self.client, shown(message.detail))
                await self._close(message.close_code, message.farewell)
            case Hello():
                await self._hello(message)
            case Heartbeat():
                await self._heartbeat()
            case Offer() | Chunk() | End() | Abort(transfer=UUID()):
                self._pass_on(message)

    def _pass_on(self, message: Offer | Chunk | End | Abort) -> None:
        intake = self.intakes.get(message.transfer) if message.transfer else None
        if intake is not None:
            intake.receive(message)

    async def _say(self, message: Message) -> None:
        """Send a message, unless the conversation is over: then there is nobody to tell."""
        if self.session.link is not Link.CLOSED:
            await self.send({"type": "websocket.send", "text": self.session.send(message)})

    async def _reply(self, message: Outgoing) -> None:
        """Send for an intake. An `abort` of the agent may have ended its conversation meanwhile."""
        over = message.transfer and self.session.stage(message.transfer) is Stage.CLOSED
        if isinstance(message, Request) or not over:
            await self._say(message)

    async def _close(self, code: CloseCode, farewell: Abort) -> None:
        """Say why in a message, because daphne drops close reasons, and close."""
        await self.send({"type": "websocket.send", "text": self.session.end(farewell)})
        await self.send({"type": "websocket.close", "code": code})

    # Presence -----------------------------------------------------------------------------------

    async def _hello(self, hello: Hello) -> None:
        self.epoch = await database_sync_to_async(self.client.came_online)(
            platform=hello.platform, hostname=hello.hostname, agent_version=hello.agent_version
        )
        log.info("Registered client %s", self.client)
        now = timezone.now().isoformat()
        await self._say(Welcome(self.client.pk, HEARTBEAT, MAX_CHUNK, now))
        await dispatch.join(self.client.pk, self.channel_name)
        await dispatch.ring(
            self.client.pk
        )  # an older connection of this client sees that it is old
        self.bell.set()

    async def _heartbeat(self) -> None:
        await self._say(Heartbeat())
        await dispatch.join(self.client.pk, self.channel_name)
        self.bell.set()

    async def _leave(self) -> None:
        """The socket is gone, or the server stops: give up the lease, and keep what has arrived."""
        if self.attendant is not None:
            self.attendant.cancel()
        for intake in self.intakes.values():
            intake.link_lost()
        if self.epoch:
            await database_sync_to_async(self.client.went_offline)(self.epoch)
            await dispatch.leave(self.client.pk, self.channel_name)
            log.info("Client %s disconnected", self.client)
        if self.working:
            await asyncio.wait(self.working)  # a cancellation of this wait leaves them at work

    # Looking at the rows ------------------------------------------------------------------------

    async def _attend(self) -> None:
        """Look at this client's rows when the bell rings, and in any case once a heartbeat."""
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                await self.bell.wait()
        except TimeoutError:
            await self._close(CloseCode.POLICY_VIOLATION, Abort(None, "timed_out", "no hello"))
            return
        while self.session.link is not Link.CLOSED:
            self.bell.clear()
            try:
                await self._look()
            except Exception:  # say, the database restarts: look again at the next heartbeat
                log.exception("%s: could not look at its transfers", self.client)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    await self.bell.wait()

    async def _look(self) -> None:
        """Do what the rows say: ask for what waits, leave what is not ours, go when we are not wanted."""
        rows = await self._read_rows()
        if rows.client.revoked_at is not None:
            await self._close(CloseCode.REVOKED, Abort(None, "revoked"))
        elif rows.client.epoch != self.epoch:
            log.info("Client %s connected anew; closing its older connection", self.client)
            await self._close(CloseCode.SUPERSEDED, Abort(None, "cancelled", "connected elsewhere"))
        else:
            for pk in rows.lost & self.intakes.keys():
                self.intakes[pk].withdraw()
            for transfer in rows.claimed:
                self._begin(transfer)

    @database_sync_to_async
    def _read_rows(self) -> Rows:
        alive, self.alive = self.alive, False
        self.client.refresh_from_db()
        if alive:  # only a sign of life renews the lease; a doorbell is none
            self.client.seen(self.epoch)
        Transfer.expire_due(self.client.pk)
        claimed = []
        if self.client.revoked_at is None and self.client.epoch == self.epoch:
            claimed = self._claim()
        return Rows(self.client, claimed, self._lost())

    def _lost(self) -> frozenset[UUID]:
        working = frozenset(self.intakes)
        held = Transfer.objects.filter(pk__in=working, epoch=self.epoch, status__in=ACTIVE)
        return working - frozenset(held.values_list("pk", flat=True))

    def _claim(self) -> list[Transfer]:
        busy = self.session.open_transfers | self.intakes.keys()
        waiting = Transfer.waiting_for(self.client.pk, self.epoch).exclude(pk__in=busy)
        claimed = []
        for transfer in waiting[: max(0, AT_ONCE - len(self.intakes))]:
            try:
                transfer.claim(self.epoch)
            except StatusConflict as conflict:
                log.debug("not claimed: %s", conflict)
            else:
                claimed.append(transfer)
        return claimed

    def _begin(self, transfer: Transfer) -> None:
        intake = self.intakes[transfer.pk] = Intake(transfer, self.epoch, self._reply)
        task = asyncio.create_task(intake.run())
        self.working.add(task)
        _tasks.add(task)
        task.add_done_callback(lambda done: self._ended(transfer.pk, done))

    def _ended(self, pk: UUID, task: asyncio.Task[None]) -> None:
        del self.intakes[pk]
        self.working.discard(task)
        _tasks.discard(task)
        self.bell.set()  # there may be another attempt to make, or another transfer whose turn it is


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Any other WebSocket path."""
    await send({"type": "websocket.close"})
