"""The link to the server: connect, authenticate, reconnect; socket <-> wire machine.

The agent comes back for ever, after a pause of full jitter so that a fleet does not stampede; only
a refusal that no waiting can mend ends it, and that is `Refused`.
"""

import asyncio
import contextlib
import json
import platform
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import UUID

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from . import __version__
from .progress import say
from .sending import Sending
from .source import Policy
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
    Request,
    Start,
    Welcome,
)
from .wire.session import Session, Violation
from .wire.state import Link as State
from .wire.state import Side

MIN_DELAY = 1.0
MAX_DELAY = 60.0
"""Seconds between two attempts: from the first to the second, at random, growing with each failure."""

STABLE_SECONDS = 60.0
"""A session this long was a success: the delays begin again. A shorter one counts as a failure, so
that a server which accepts and closes at once is not hammered."""

SILENT_HEARTBEATS = 3
"""The link is dead when nothing has come for so many heartbeats. Anything that comes is life: on a
slow uplink the answer to a ping waits behind data, while acknowledgements keep coming."""

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
    token: str

    @property
    def url(self) -> str:
        return f"{self.server}/ws/agent/{quote(self.client_id, safe='')}/"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


def delays(uniform: Callable[[float, float], float] = random.uniform) -> Iterator[float]:
    """Seconds to wait before each next attempt: full jitter below a ceiling that doubles."""
    ceiling = 2 * MIN_DELAY
    while True:
        yield uniform(MIN_DELAY, ceiling)
        ceiling = min(ceiling * 2, MAX_DELAY)


async def stay_online(
    identity: Identity,
    policy: Policy,
    *,
    clock: Callable[[], float] = time.monotonic,
    pauses: Callable[[], Iterator[float]] = delays,
) -> None:
    """Connect, serve, and connect again, for ever. Raises Refused."""
    registered = False
    pause = pauses()
    while True:
        link = Link(identity, policy)
        began = clock()
        try:
            await link.serve()
        except LinkDown as down:
            reason = str(down)
        except InvalidStatus as refusal:
            reason = await _refusal(identity, refusal, known=registered)
        except (OSError, ValueError, WebSocketException) as error:
            reason = f"{identity.server} cannot be reached ({type(error).__name__}: {error})"
        registered = registered or link.registered
        if clock() - began >= STABLE_SECONDS:
            pause = pauses()
        seconds = next(pause)
        say(f"offline: {shown(reason)}; trying again in {seconds:.1f} s")
        await asyncio.sleep(seconds)


async def _refusal(identity: Identity, refusal: InvalidStatus, *, known: bool) -> str:
    """Why the handshake was refused, where that may pass. Raises Refused where it will not.

    The refusal itself is a bare 403, which an overloaded server gives too, so the agent asks over
    HTTP, and only a clear answer is final. A server that no longer knows our token may be one that
    is being restored: final only for an agent that it never knew.
    """
    status = refusal.response.status_code
    if status not in (401, 403):
        return f"the server answered HTTP {status}"
    code, detail = await asyncio.to_thread(ask_why, identity)
    if code in ("revoked", "wrong_id") or (code == "unauthorized" and not known):
        raise Refused(f"{shown(detail)} ({code})")
    return detail


NO_ANSWER = (ValueError, KeyError, TypeError, OSError, RecursionError, HTTPException)
"""What reading an answer may end with when it is not one of ours."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry our token to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def ask_why(identity: Identity) -> tuple[str, str]:
    """Ask over HTTP why the handshake was refused: the code and the sentence. Never raises."""
    parts = urlsplit(identity.url)
    scheme = {"ws": "http", "wss": "https"}[parts.scheme]
    url = urlunsplit(parts._replace(scheme=scheme))
    request = urllib.request.Request(url, headers=identity.headers)
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=HANDSHAKE_SECONDS):
            return "", "the server refused the handshake, and does not say why"
    except urllib.error.HTTPError as answer:
        with answer, contextlib.suppress(*NO_ANSWER):
            reason = json.loads(answer.read(4096))
            if answer.code in (401, 403):
                return str(reason["code"]), str(reason["detail"])
        return "", f"the server refused the handshake (HTTP {answer.code} when asked why)"
    except (OSError, ValueError, HTTPException) as error:
        return "", f"the server refused the handshake, and does not say why: {error}"


class Link:
    """One connection, from the handshake until it is gone."""

    def __init__(self, identity: Identity, policy: Policy) -> None:
        self.identity = identity
        self.policy = policy
        self.registered = False
        self._session = Session(Side.AGENT)
        self._silence = HANDSHAKE_SECONDS
        self._heartbeat: asyncio.Task[None] | None = None
        self._sendings: dict[UUID, Sending] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Connect and do what the server asks, until the connection is gone.

        Always raises: LinkDown, Refused, OSError or WebSocketException.
        """
        self._socket = await connect(
            self.identity.url,
            subprotocols=[PROTOCOL],  # type: ignore[list-item]  # a NewType of str
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

    async def _converse(self) -> None:
        say(f"connected to {self.identity.server}")
        await self._send(
            Hello(PROTOCOL, __version__, platform.platform()[:255], platform.node()[:255])
        )
        while True:
            try:
                async with asyncio.timeout(self._silence):
                    data = await self._socket.recv()
            except TimeoutError:
                self._socket.transport.abort()
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
            case Request():
                self._begin(message)
            case Start() | Ack() | Landed() | Abort() | Cancel():
                self._pass_on(message)

    def _welcome(self, welcome: Welcome) -> None:
        self.registered = True
        self._silence = SILENT_HEARTBEATS * float(welcome.heartbeat)
        self._heartbeat = asyncio.create_task(self._beat(welcome.heartbeat))
        say(f"registered as {shown(welcome.client)}")

    async def _beat(self, seconds: float) -> None:
        with contextlib.suppress(ConnectionClosed, LinkDown):  # the receiving side says so
            while True:
                await asyncio.sleep(seconds)
                await self._send(Heartbeat())

    def _begin(self, request: Request) -> None:
        transfer = request.transfer
        sending = Sending(request, self.policy, self._send, lambda: self._session.flow(transfer))
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
            self._socket.transport.abort()

    def _pass_on(self, message: Start | Ack | Landed | Abort | Cancel) -> None:
        sending = self._sendings.get(message.transfer) if message.transfer else None
        if sending is not None:
            sending.receive(message)

    def _stop_tasks(self) -> list[asyncio.Task[None]]:
        tasks = [*self._tasks, *([self._heartbeat] if self._heartbeat else [])]
        for task in tasks:
            task.cancel()
        return tasks

    async def _leave(self) -> None:
        """Stop what is under way, and close the socket; on a dead link, without the good-bye."""
        if tasks := self._stop_tasks():
            await asyncio.wait(tasks)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.close()
        except TimeoutError:
            self._socket.transport.abort()


def _down(closed: ConnectionClosed) -> LinkDown:
    code = closed.rcvd.code if closed.rcvd else None
    if code == CloseCode.SUPERSEDED:
        return LinkDown("another agent connected with this client's token")
    return LinkDown("the link was lost" if code is None else f"the server closed it (code {code})")
