"""One connection to the server, from the handshake until it is gone; socket <-> wire machine.

When and whether to connect again is the business of `reconnect`.
"""

import asyncio
import contextlib
import hashlib
import platform
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn
from urllib.parse import quote
from uuid import UUID

from websockets.exceptions import ConnectionClosed

from . import __version__
from .compression import CODECS
from .credentials import take_token
from .gate import Gate
from .in_flight import Uplink
from .progress import say
from .sending import Sending
from .state_folder import StateFolder, StateFolderError
from .transport import Trust
from .wire.display import shown
from .wire.errors import CloseCode
from .wire.messages import (
    MAX_TEXT,
    PROTOCOL,
    Abort,
    Ack,
    Cancel,
    Heartbeat,
    Hello,
    Landed,
    Message,
    Renew,
    Renewed,
    Request,
    Start,
    Welcome,
)
from .wire.session import Session, Violation
from .wire.state import Link as State
from .wire.state import Side

SILENT_HEARTBEATS = 3
"""The link is dead when nothing has come for so many heartbeats. Anything that comes is life: on a
slow uplink the answer to a ping waits behind data, while acknowledgements keep coming."""

MAX_REQUESTS = 64
"""That have not ended. The server asks for `TRANSFERS_AT_ONCE`; one that asks for more and more would
fill the memory of this machine."""

FLOOD = Violation(
    "protocol_error", f"more than {MAX_REQUESTS} requests at once", CloseCode.POLICY_VIOLATION
)

HANDSHAKE_SECONDS = 20.0
CLOSE_SECONDS = 1.0


class Refused(Exception):
    """The server refuses this agent, and no waiting will change its mind."""

    exit_code = 3


class LinkDown(Exception):
    """The conversation ended; the agent connects again."""


@dataclass(frozen=True)
class Identity:
    """Which server, and who we are to it."""

    server: str
    """`ws://…` or `wss://…`, without a path."""
    client_id: str
    token: str = field(repr=False)
    trust: Trust = field(default_factory=Trust)
    kept_in: StateFolder | None = None
    """Where the token was read from and a new one can be kept; None: it was given by hand."""

    @property
    def url(self) -> str:
        return f"{self.server}/ws/agent/{quote(self.client_id, safe='')}/"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


class Link:
    """One connection, from the handshake until it is gone."""

    def __init__(self, identity: Identity, gate: Gate) -> None:
        self.identity = identity
        self.gate = gate
        self.registered = False
        self.progressed = False
        """Whether the server has taken something of a file: not a connection made in vain."""
        self._session = Session(Side.AGENT)
        self._uplink = Uplink()
        self._silence = HANDSHAKE_SECONDS
        self._heartbeat: asyncio.Task[None] | None = None
        self._sendings: dict[UUID, Sending] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> NoReturn:
        """Connect and do what the server asks, until the connection is gone.

        Always raises: LinkDown, Refused, OSError or WebSocketException.
        """
        self._socket = await self.identity.trust.dial(
            self.identity.url,
            subprotocols=[PROTOCOL],
            additional_headers=self.identity.headers,
            compression=None,
            max_size=MAX_TEXT,
            open_timeout=HANDSHAKE_SECONDS,
            ping_interval=None,  # see SILENT_HEARTBEATS
        )
        try:
            await self._converse()
        except ConnectionClosed as closed:
            raise _down(closed) from None
        finally:
            await self._leave()

    async def _converse(self) -> NoReturn:
        say(f"connected to {self.identity.server}")
        await self._send(
            Hello(
                PROTOCOL,
                __version__,
                platform.platform()[:255],
                platform.node()[:255],
                codecs=CODECS,
                renewable=self.identity.kept_in is not None,
            )
        )
        while True:
            try:
                async with asyncio.timeout(self._silence):
                    data = await self._socket.recv()
            except TimeoutError:
                self._drop()
                raise LinkDown(f"nothing heard for {self._silence:.0f} s") from None
            await self._take(self._session.receive(data))

    async def _send(self, message: Message) -> None:
        if self._session.link is State.CLOSED:
            raise LinkDown("we have said good-bye")
        await self._socket.send(self._session.send(message))

    async def _take(self, message: Message | Violation | None) -> None:
        match message:
            case Violation():
                self._stop_tasks()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await self._socket.send(self._session.end(message.farewell))
                        await self._socket.close(message.close_code)
                raise LinkDown(f"the server broke the protocol: {message.detail}")
            case Abort(transfer=None, code="revoked"):
                raise Refused(
                    f"{shown(message.detail) or 'The access of this client was revoked.'} (revoked)"
                )
            case Abort(transfer=None):
                raise LinkDown(f"the server says: {message.detail} ({message.code})")
            case Welcome():
                self._welcome(message)
            case Renew():
                await self._renew(message.token)
            case Request() if len(self._tasks) >= MAX_REQUESTS:
                await self._take(FLOOD)
            case Request():
                self._begin(message)
            case Start() | Ack() | Landed() | Abort() | Cancel():
                self.progressed = self.progressed or isinstance(message, Ack | Landed)
                self._pass_on(message)

    def _welcome(self, welcome: Welcome) -> None:
        self.registered = True
        self._silence = SILENT_HEARTBEATS * float(welcome.heartbeat)
        self._heartbeat = asyncio.create_task(self._beat(welcome.heartbeat))
        say(f"registered as {shown(welcome.client)}")

    async def _renew(self, token: str) -> None:
        """Keep a new token, then say so.

        Nothing else is received meanwhile, and above all no other connection begins: the server takes
        one with the old token to mean that this one was not kept.
        """
        if self.identity.kept_in is None:
            raise LinkDown("a new token, which we did not say that we can keep")
        try:
            kept = await asyncio.to_thread(take_token, self.identity.kept_in, token)
        except StateFolderError as error:
            say(f"[client] no new token was taken: {error}")
            return
        self.identity = replace(self.identity, token=kept)
        if kept == token:
            await self._send(Renewed(hashlib.sha256(token.encode()).hexdigest()))
            say("took a new token from the server")

    async def _beat(self, seconds: float) -> None:
        with contextlib.suppress(ConnectionClosed, LinkDown):  # the receiving side says so
            while True:
                await asyncio.sleep(seconds)
                await self._send(Heartbeat())

    def _begin(self, request: Request) -> None:
        transfer = request.transfer
        flow = partial(self._session.flow, transfer)
        sending = Sending(request, self.gate, self._send, flow, self._uplink)
        self._sendings[transfer] = sending
        task = asyncio.create_task(sending.run())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(sending, done))

    def _ended(self, sending: Sending, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._sendings.get(sending.request.transfer) is sending:
            del self._sendings[sending.request.transfer]
        if task.cancelled() or task.exception() is None:
            return
        if not isinstance(task.exception(), ConnectionClosed | LinkDown):
            # A bug of ours: end the conversation, so that the server asks anew.
            say(f"[client] failed inside: {task.exception()!r}")
            self._drop()

    def _pass_on(self, message: Start | Ack | Landed | Abort | Cancel) -> None:
        sending = self._sendings.get(message.transfer) if message.transfer else None
        if sending is not None:
            sending.receive(message)

    def _stop_tasks(self) -> list[asyncio.Task[None]]:
        tasks = [*self._tasks, *([self._heartbeat] if self._heartbeat else [])]
        for task in tasks:
            task.cancel()
        return tasks

    def _drop(self) -> None:
        """Cut the connection, without a good-bye."""
        with contextlib.suppress(AttributeError):  # as in `_leave`
            self._socket.transport.abort()

    async def _leave(self) -> None:
        """Stop what is under way, and close the socket; on a dead link, without the good-bye."""
        if tasks := self._stop_tasks():
            await asyncio.wait(tasks)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.close()
        except TimeoutError:
            self._drop()
        except Exception as error:
            # websockets 17 aborts the transport, and asyncio's may have forgotten its loop by then
            # (CPython 3.11, `_force_close` after a close with data left): AttributeError.
            say(f"[client] the socket did not close cleanly: {error!r}")


def _down(closed: ConnectionClosed) -> LinkDown:
    code = closed.rcvd.code if closed.rcvd else None
    if code == CloseCode.SUPERSEDED:
        return LinkDown("another agent connected with this client's token")
    if code == CloseCode.SERVICE_RESTART:
        return LinkDown("the server is being stopped")
    return LinkDown("the link was lost" if code is None else f"the server closed it (code {code})")
