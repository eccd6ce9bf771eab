"""Who may come in and stay, before any application sees a byte; installed once, as `lifecycle` is.

Daphne 4.2.3 hands a connection to the application when a whole HTTP request has come, and has no limit on
how many there are, how long they take to ask, or how much they send as a body. So:

* an address may have so many connections (`SILENTMODE_CONNECTIONS_PER_ADDRESS`);
* a request, its header and its body, must be whole within `REQUEST_SECONDS` of its first byte, and the first
  one of a connection within that time of the connection, whatever trickles (a TLS handshake, too);
* a body has `MOST_BODY` bytes at most;
* the process may have as many open files as the system allows it.

What a WebSocket may do is in `sockets`.
"""

import contextlib
import logging
import resource
from collections import Counter
from collections.abc import Callable
from typing import Any

import daphne.server
from daphne.cli import CommandLineInterface
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.ws_protocol import WebSocketFactory
from django.conf import settings
from twisted.internet import reactor
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from .allowance import Allowance
from .peer import is_our_proxy, neighbourhood, parsed
from .sockets import GuardedWebSocket

REQUEST_SECONDS = 20.0

MOST_BODY = 2_621_440
"""Django's own limit for a body in memory (`DATA_UPLOAD_MAX_MEMORY_SIZE`); daphne reads any into memory."""

MOST_FILES = 1 << 20
"""Open files to ask for, where the system names no limit."""

BACKLOG = 4096
"""Connections that the system keeps until they are accepted: as many as Linux allows (`net.core.somaxconn`).
Twisted has it keep 50, and whoever comes beyond them comes again after 1, 3 and 7 s."""

CHECK_SECONDS = 15.0
"""Between two looks for applications that have ended and handshakes that take too long: every one and two
seconds, it took 1.5 % of a core to look at 2,000 idle connections."""

log = logging.getLogger(__name__)


def install() -> None:
    """Once, before daphne makes its factories."""
    CommandLineInterface.server_class = Server
    daphne.server.HTTPFactory = Door
    WebSocketFactory.protocol = GuardedWebSocket
    raise_file_limit()


def raise_file_limit() -> None:
    """A connection is an open file, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit that it does not name
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


class Server(daphne.server.Server):  # type: ignore[misc]  # daphne has no types
    """Daphne's, with room for those who come at once, and for thousands that stay."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._due: dict[str, float] = {}

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        port.socket.listen(BACKLOG)

    def kill_all_applications(self) -> None:
        """Nothing: `lifecycle` tells them that the process stops, and waits for them."""

    def application_checker(self) -> None:
        self._now_and_then(super().application_checker)

    def timeout_checker(self) -> None:
        self._now_and_then(super().timeout_checker)

    def _now_and_then(self, check: Callable[[], None]) -> None:
        """Both go through all connections, every one and two seconds, and arrange for the next time."""
        name, now = check.__name__, reactor.seconds()  # type: ignore[misc]
        wait = self._due.get(name, now) - now
        if wait > 0:
            reactor.callLater(wait, getattr(self, name))  # type: ignore[arg-type]
        else:
            self._due[name] = now + CHECK_SECONDS
            check()


class Visitors:
    """The connections of each address, by their transports."""

    def __init__(self) -> None:
        self._addresses: dict[Any, str] = {}
        self._count: Counter[str] = Counter()
        self._lines = Allowance(5, 0.1)
        """For the log: a flood must not fill the disk with words about it."""

    def enter(self, transport: Any) -> bool:
        """Whether this connection may stay."""
        host: str = getattr(transport.getPeer(), "host", None) or ""
        most = settings.CONNECTIONS_PER_ADDRESS
        # A Unix socket has no address; a proxy counts its own (`limit_conn` in nginx).
        if not host or not most or is_our_proxy(parsed(host)):
            return True
        address = neighbourhood(host)
        if self._count[address] >= most:
            if self._lines.take():
                log.warning(
                    "Refused a connection from %s: it has %d (SILENTMODE_CONNECTIONS_PER_ADDRESS)",
                    address,
                    most,
                )
            return False
        self._count[address] += 1
        self._addresses[transport] = address
        return True

    def leave(self, transport: Any) -> None:
        """This connection is gone. May be said of one that was never counted, and twice."""
        address = self._addresses.pop(transport, None)
        if address is not None:
            self._count[address] -= 1
            if not self._count[address]:
                del self._count[address]


class Request(WebRequest):  # type: ignore[misc]  # daphne has no types
    """A request whose body is bounded."""

    body_length = 0

    def gotLength(self, length: int | None) -> None:
        """The header says how long the body is; None: it comes in chunks."""
        super().gotLength(length)
        self._count(length or 0)

    def handleContentChunk(self, data: bytes) -> None:
        if self.requestHeaders.hasHeader(b"Transfer-Encoding"):
            self._count(len(data))
        if not self.channel.refused:
            super().handleContentChunk(data)

    def _count(self, more: int) -> None:
        self.body_length += more
        if self.body_length > MOST_BODY:
            self.channel.refuse(b"413 Content Too Large")


class Channel(HTTPChannel):
    """One connection, for as long as it speaks HTTP."""

    visitors: Visitors
    transport: Any
    refused = False
    _deadline: Any = None

    def connectionMade(self) -> None:
        super().connectionMade()
        if not self.visitors.enter(self.transport):
            self.transport.abortConnection()
            return
        self._expect_request()

    def dataReceived(self, data: bytes) -> None:
        if self._deadline is None and not self._handlingRequest:
            self._expect_request()
        super().dataReceived(data)

    def allContentReceived(self) -> None:
        self._request_came()
        if not self.refused:
            super().allContentReceived()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._request_came()
        self.visitors.leave(self.transport)
        super().connectionLost(reason)

    def refuse(self, status: bytes) -> None:
        """Answer with no more than this status, and close."""
        if self.refused:
            return
        self.refused = True
        self._request_came()
        self.transport.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\n\r\n")
        self.timeoutConnection()  # closes, and aborts where that takes too long

    def _expect_request(self) -> None:
        self._deadline = self.callLater(REQUEST_SECONDS, self.transport.abortConnection)

    def _request_came(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None


class Door(HTTPFactory):  # type: ignore[misc]  # daphne has no types
    """What daphne listens with."""

    protocol = Channel

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self.visitors = Visitors()

    def buildProtocol(self, addr: Any) -> Any:
        channel = super().buildProtocol(addr)
        channel.visitors = self.visitors
        channel.requestFactory = Request
        return channel

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]  # `Channel` speaks no other
