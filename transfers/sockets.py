"""A WebSocket that its peer cannot make grow, beneath the application.

Daphne 4.2.3 puts what comes into a queue without a bound, and autobahn 26.10.2 collects the frames of a
message, and answers pings, without one. Here a peer is read from only as fast as the application takes
(Twisted stops reading, and TCP tells the peer), and only while it reads itself.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from daphne.ws_protocol import WebSocketProtocol
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from .allowance import Allowance
from .heartbeats import Agent, Heartbeats
from .unmasking import Unmasker

MOST_MESSAGES = 256
MOST_BYTES = 4 * 1024**2
"""Waiting for the application, before no more is read: both are more than it leaves when it is well. One
read of Twisted comes on top."""

READ_SIZE = 256 * 1024
"""Bytes that Twisted reads at once: each read costs the same in Python, however much it brings."""

PINGS_AT_ONCE = 10
PINGS_A_SECOND = 1.0
"""Pings and pongs of the peer. Nobody needs more, and each ping asks for an answer."""

HANDSHAKE_SECONDS = 20.0
"""For the application to let a peer in: as long as an agent waits. With daphne's 5 s, a server that needed
longer for all that came at once after a restart refused most, and began anew with each of them."""

LINGER_SECONDS = 5.0
"""For a close frame to leave, when the peer is being refused."""


PROTOCOL_ERROR, POLICY_VIOLATION = 1002, 1008
"""RFC 6455, section 7.4.1: no application's codes, so these are sent as they are."""

log = logging.getLogger(__name__)

Application = Callable[[Any, Any, Any], Awaitable[None]]


@implementer(IPushProducer)
class GuardedWebSocket(WebSocketProtocol):  # type: ignore[misc]  # daphne has no types
    """Daphne's end of a WebSocket, with an eye on what its peer costs."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[int] = deque()
        self._bytes = 0
        """Messages given to the application's queue and not taken from it: the length of each, and of all."""
        self._clogged = self._paused = False
        self._heartbeats: Heartbeats | None = None
        self._controls = Allowance(PINGS_AT_ONCE, PINGS_A_SECOND)
        self._linger: Any = None

    # The connection -----------------------------------------------------------------------------

    CONFIG_ATTRS = ()
    """Autobahn makes a page of these for its debug log, read or not: a tenth of what a connection costs."""

    def connectionMade(self) -> None:
        for name in WebSocketProtocol.CONFIG_ATTRS:
            setattr(self, name, getattr(self.factory, name))
        # `onFrameBegin` has a masker of ours; making theirs took a tenth of a heartbeat.
        self.applyMask = False
        self.openHandshakeTimeout = 0  # `check_timeouts` does that, with no timer for each
        super().connectionMade()
        socket = self.transport
        while (
            below := getattr(socket, "transport", None)
        ) is not None:  # TLS is one above the socket
            socket = below
        socket.bufferSize = READ_SIZE
        # The HTTP channel, which this connection has outgrown, is still told when the peer does not read.
        self.transport.unregisterProducer()
        self.transport.registerProducer(self, True)

    def connectionLost(self, *reason: Any) -> None:
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        if self._heartbeats is not None:
            self._heartbeats.end()
            self._heartbeats = None  # it holds the application, which holds this
        self.factory.server_class.http_factory.visitors.leave(self.transport)
        super().connectionLost(*reason)

    def check_timeouts(self) -> None:
        """Daphne asks now and then. No pings, as agents say heartbeats, and no end after a day."""
        if self.state == self.STATE_CONNECTING and self.duration() > HANDSHAKE_SECONDS:
            self.serverReject()

    def dataReceived(self, data: bytes) -> None:
        if hasattr(self, "handshake_deferred"):
            # RFC 6455, section 4.1: the client waits for our answer. Autobahn would collect this unbounded.
            self.transport.abortConnection()
        elif self._heartbeats is None or not self._heartbeats.take(data):
            # Not autobahn's `dataReceived`, which puts together a line for a debug log first, read or not.
            self._dataReceived(data)

    def answer_heartbeats(self, agent: Agent) -> None:
        """Answer them here, where the agent's `beat` says so."""
        self._heartbeats = Heartbeats(self, agent)

    @property
    def is_clear(self) -> bool:
        """Open, being read from, and all that came before is read."""
        return self.state == self.STATE_OPEN and not (
            self._paused or self.data or self.current_frame
        )

    def read_on(self) -> None:
        """Read from it, unless it does not read itself: also what comes once it is being closed."""
        if not self._paused:
            self.transport.resumeProducing()

    def sendMessage(self, *message: Any, **options: Any) -> None:
        if self._heartbeats is not None:
            self._heartbeats.wake()  # whatever is said to it, it may have an answer
        super().sendMessage(*message, **options)

    def consumeData(self) -> None:
        """As autobahn's, but no further than the application has room for."""
        if self.state not in (self.STATE_OPEN, self.STATE_CLOSING):
            super().consumeData()
            return
        while not self._paused and self.processData() and self.state != self.STATE_CLOSED:
            pass

    # What the peer may not do -------------------------------------------------------------------

    def onFrameBegin(self) -> None:
        frame = self.current_frame
        if frame.opcode <= 7 and not frame.fin:  # a data frame
            self._fail_connection(PROTOCOL_ERROR, "a message is one unfragmented frame")
            return
        if frame.mask and frame.length:
            self.current_frame_masker = Unmasker(frame.mask)
        super().onFrameBegin()

    def onPing(self, payload: bytes) -> None:
        if self._may_still():
            super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        if self._may_still():
            super().onPong(payload)

    def _may_still(self) -> bool:
        if self._controls.take():
            return True
        self._fail_connection(POLICY_VIOLATION, "too many pings or pongs")
        return False

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        """As autobahn's, but say why before dropping the connection."""
        if self.state != self.STATE_OPEN:
            super()._fail_connection(code, reason)
            return
        log.warning("Closed a connection from %s (%d): %s", self.peer, code, reason)
        self.failedByMe = True
        self.wasClean = False
        self.wasNotCleanReason = reason
        self.sendCloseFrame(code, reason.encode()[:123], isReply=False)
        self._linger = self.factory.reactor.callLater(
            LINGER_SECONDS, self.transport.abortConnection
        )
        self.dropConnection(abort=False)

    def serverClose(self, code: int | None = None) -> None:
        """As daphne's, with any code: autobahn raises for all but 1000 and 3000 to 4999."""
        if code is None or code == 1000 or 3000 <= code <= 4999:
            super().serverClose(code)
        else:
            self._fail_connection(code, "the application gave up")

    # At the application's pace, and the peer's --------------------------------------------------

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        super().onMessage(payload, isBinary)
        self._waiting.append(len(payload))
        self._bytes += len(payload)
        self._regulate()

    def taken(self) -> None:
        """The application took the next message from its queue."""
        self._bytes -= self._waiting.popleft()
        self._regulate()

    @property
    def is_clogged(self) -> bool:
        """The peer does not read, and what is written to it now waits in memory."""
        return self._clogged

    def pauseProducing(self) -> None:
        """The peer does not read: nothing it says is to be answered, so nothing is read either."""
        self._clogged = True
        self._regulate()

    def resumeProducing(self) -> None:
        self._clogged = False
        self._regulate()

    def stopProducing(self) -> None:
        """The connection is gone."""

    def _regulate(self) -> None:
        if self._paused:
            self._go_on_if_there_is_room()
        elif self._clogged or len(self._waiting) >= MOST_MESSAGES or self._bytes >= MOST_BYTES:
            self._paused = True
            self.transport.pauseProducing()

    def _go_on_if_there_is_room(self) -> None:
        if (
            self._clogged
            or len(self._waiting) > MOST_MESSAGES // 2
            or self._bytes > MOST_BYTES // 2
        ):
            return
        self._paused = False
        self.transport.resumeProducing()
        self.consumeData()


def at_its_pace(application: Application) -> Application:
    """The application, which tells its socket when it takes a message, and has it in `scope["socket"]`."""

    async def telling(scope: Any, receive: Any, send: Any) -> None:
        behind = send.args[0] if isinstance(send, partial) and send.args else None
        if not isinstance(behind, GuardedWebSocket):  # under another server
            await application(scope, receive, send)
            return

        async def take() -> Any:
            message = await receive()
            if message["type"] == "websocket.receive":
                behind.taken()
            return message

        await application({**scope, "socket": behind}, take, send)

    return telling
