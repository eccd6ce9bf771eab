"""AgentConsumer: authenticate, greet, pass messages on, leave.

Channels runs one handler at a time for each socket, so handlers only enqueue and return: transfers
arrive in tasks of their own (`intake`), and so does the looking at rows (`attendant`).
"""

import asyncio
import contextlib
import logging
from typing import Any
from uuid import UUID

from autobahn.exception import Disconnected
from channels.consumer import AsyncConsumer, get_handler_name
from channels.exceptions import StopConsumer
from django.conf import settings
from django.utils import timezone

from agent.wire.display import shown
from agent.wire.errors import CloseCode
from agent.wire.messages import (
    PROTOCOL,
    Abort,
    Chunk,
    End,
    Heartbeat,
    Hello,
    Message,
    Offer,
    Renew,
    Renewed,
    Request,
    Welcome,
)
from agent.wire.session import Session, Violation
from agent.wire.state import OVER, Link, Side

from . import lifecycle
from .allowance import Allowance
from .attendant import Attendant
from .auth import AgentRefused
from .dialogue import Outgoing
from .handshakes import Handshake, handshakes
from .models import HEARTBEAT, Arrived, Client, ClientConflict, all_came_online
from .peer import address_of
from .sockets import GuardedWebSocket
from .together import Together

HELLO_SECONDS = 10.0
"""How long a connection may stay silent before its `hello`."""

HEARTBEATS_AT_ONCE = 5
HEARTBEATS_A_SECOND = 1.0
"""The one message that an agent may send unasked; the tables bound all others. They are due every 15 s,
and a link that stalls delivers several at once."""

log = logging.getLogger(__name__)

_admit = Together[Handshake, Client](handshakes.admit_all)
_welcome = Together[Arrived, Client](all_came_online)


class AgentConsumer(AsyncConsumer):
    """The server's end of one agent's connection."""

    client: Client
    closing = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self.base_send = scope, send
        self.session = Session(Side.SERVER)
        self.attendant: Attendant | None = None
        self.impatience: asyncio.Task[None] | None = None
        self.accepted = False
        self.heartbeats = Allowance(HEARTBEATS_AT_ONCE, HEARTBEATS_A_SECOND)
        with lifecycle.staying(0):
            try:
                await self._listen(receive)
            except asyncio.CancelledError:
                # Not in `disconnect`: an application that is stopped is cancelled, and called no more.
                farewell = Abort(None, "cancelled", lifecycle.STOPS)
                await self._close(CloseCode.SERVICE_RESTART, farewell)
                raise
            except Exception:  # say, the database restarts: the agent comes again
                await self.send({"type": "websocket.close"})
                raise
            finally:
                await self._leave()

    async def _listen(self, receive: Any) -> None:
        """To the socket.

        Not by Channels' `__call__`: that makes a task for each message, and has the database's connections
        looked after in their thread for each that is no `websocket.receive`. `database_sync_to_async` does so
        where the database is asked. And nothing comes over the channel layer for one connection (`dispatch`).
        """
        with contextlib.suppress(StopConsumer):
            while True:
                await self.dispatch(await receive())

    async def dispatch(self, message: dict[str, Any]) -> None:
        if message["type"] != "websocket.receive":
            await getattr(self, get_handler_name(message))(message)
        elif not self.closing:  # once we have said good-bye, what is still in the queue is nobody's
            data = message.get("bytes")
            await self._receive(message["text"] if data is None else data)

    # The socket ---------------------------------------------------------------------------------

    async def websocket_connect(self, message: dict[str, Any]) -> None:
        if lifecycle.is_stopping():
            await self.send({"type": "websocket.close"})
            return
        client_id = self.scope["url_route"]["kwargs"]["client_id"]
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]
        }
        host = address_of(self.scope) or ""
        try:
            handshakes.check(host, headers)
            self.client = await _admit(Handshake(host, client_id, headers))
        except AgentRefused as refused:
            level = logging.DEBUG if refused.retry_after else logging.WARNING  # a flood of them
            log.log(level, "Refused an agent for %s: %s", shown(client_id), shown(refused.detail))
            await self.send({"type": "websocket.close"})
            return
        if PROTOCOL not in self.scope["subprotocols"]:
            log.warning("Refused %s: it does not speak %s", self.client, PROTOCOL)
            await self.send({"type": "websocket.close"})
            return
        self.accepted = True
        await self.send({"type": "websocket.accept", "subprotocol": PROTOCOL})
        self.impatience = asyncio.create_task(self._expect_hello())

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        raise StopConsumer

    async def _receive(self, data: str | bytes) -> None:
        message = self.session.receive(data)
        if self.attendant is not None:
            # Also a chunk that came too late to matter: what is queued behind it has yet to come.
            self.attendant.sign_of_life(chunk=isinstance(data, bytes))
        match message:
            case Violation():
                await self._end_over(message)
            case Hello():
                await self._hello(message)
            case Abort(transfer=None):
                if message.code == "protocol_error":  # ours, as it arrived there
                    self._blame(message.detail)
                self.closing = True
                await self.send({"type": "websocket.close"})
            case Heartbeat():
                await self._heartbeat()
            case Renewed() if self.attendant:
                self.attendant.renewed(message.token_sha256)
            case Offer() | Chunk() | End() | Abort(transfer=UUID()) if self.attendant:
                self.attendant.receive(message)

    async def _end_over(self, violation: Violation) -> None:
        log.warning("%s broke the protocol: %s", self.client, shown(violation.detail))
        self._blame(violation.detail)
        await self._close(violation.close_code, violation.farewell)

    def _blame(self, detail: str) -> None:
        if self.attendant is not None:
            self.attendant.broken(detail)

    async def send(self, message: dict[str, Any]) -> None:
        try:
            await super().send(message)
        except Disconnected:  # the socket is gone, and `websocket.disconnect` is on its way
            log.debug("%s: not sent, disconnected", self.scope["path"])

    async def _say(self, message: Message) -> None:
        """Send a message, unless the conversation is over: then there is nobody to tell."""
        if self.session.link is not Link.CLOSED:
            await self.send({"type": "websocket.send", "text": self.session.send(message)})

    async def _reply(self, message: Outgoing | Renew) -> None:
        """Send for an intake. An `abort` of the agent may have ended its conversation meanwhile."""
        if not isinstance(message, Request | Renew):
            over = message.transfer and self.session.stage(message.transfer) in OVER
            if over:
                return
        await self._say(message)

    async def _close(self, code: CloseCode, farewell: Abort) -> None:
        """Say why in a message, because daphne drops close reasons, and close."""
        if self.accepted and not self.closing:
            self.closing = True
            await self.send({"type": "websocket.send", "text": self.session.end(farewell)})
            await self.send({"type": "websocket.close", "code": int(code)})  # autobahn: no enum

    # Presence -----------------------------------------------------------------------------------

    async def _expect_hello(self) -> None:
        await asyncio.sleep(HELLO_SECONDS)
        await self._close(CloseCode.POLICY_VIOLATION, Abort(None, "timed_out", "no hello"))

    async def _hello(self, hello: Hello) -> None:
        if self.impatience is not None:
            self.impatience.cancel()
        try:
            self.client = await _welcome(
                Arrived(
                    self.client,
                    hello.platform,
                    hello.hostname,
                    hello.agent_version,
                    hello.renewable,
                )
            )
        except ClientConflict as conflict:
            await self._close(CloseCode.REVOKED, Abort(None, "revoked", conflict.detail))
            return
        log.info("Registered client %s", self.client)
        now = timezone.now().isoformat()
        await self._say(Welcome(self.client.pk, HEARTBEAT, settings.MAX_CHUNK, now))
        self.attendant = Attendant(
            self.client,
            self.client.epoch,
            self.session,
            self._reply,
            self._close,
            renewable=hello.renewable,
        )
        if isinstance(socket := self.scope.get("socket"), GuardedWebSocket):
            socket.answer_heartbeats(self)

    def beat(self) -> bool:
        """A heartbeat came, and its socket is to answer it: not one too many, and none after a good-bye."""
        if (
            self.attendant is None
            or self.session.link is not Link.OPEN
            or not self.heartbeats.take()
        ):
            return False
        self.attendant.sign_of_life()
        return True

    @property
    def is_idle(self) -> bool:
        """Whether nothing but heartbeats is expected of the agent."""
        return self.attendant is not None and self.attendant.is_idle

    async def _heartbeat(self) -> None:
        if not self.heartbeats.take():
            code = CloseCode.POLICY_VIOLATION
            await self._end_over(Violation("protocol_error", "too many heartbeats", code))
            return
        await self._say(Heartbeat())

    async def _leave(self) -> None:
        """The socket is gone, or the server stops."""
        if self.impatience is not None:
            self.impatience.cancel()
        attendant, self.attendant = self.attendant, None  # each holds the other
        if attendant is not None:
            log.info("Client %s disconnected", self.client)
            await attendant.leave()


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Any other WebSocket path."""
    await send({"type": "websocket.close"})
