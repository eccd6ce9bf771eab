"""Heartbeats of agents, answered at their sockets; and idle agents, whose sockets are looked at together.

By the way through autobahn, daphne's queue and a task, a heartbeat costs ten times the CPU, and it is all
that an idle agent costs. Where thousands of them say one every 15 s, what is left is the waking up for each.
So a socket of which nothing else is expected is taken out of the event loop, until the server says something
to its agent, or its agent says something else.
"""

import selectors
import socket
from functools import cache
from typing import Any, Protocol

from twisted.internet.tcp import Connection

from agent.wire.codec import encode
from agent.wire.messages import Heartbeat

from .unmasking import unmasked

LOOK_SECONDS = 0.2
"""Between two looks at all idle sockets: an answer to a heartbeat, the end of a connection, or whatever else
an agent has to say that nobody asked for anything, waits so long at the most."""

PAYLOAD = str(encode(Heartbeat())).encode()

HEAD = bytes((0x81, 0x80 | len(PAYLOAD)))
"""How the frame of a peer's heartbeat begins (RFC 6455, section 5.2): final, text, masked, its length."""

LENGTH = len(HEAD) + 4 + len(PAYLOAD)
"""Of that frame: the mask has four bytes."""

ANSWER = bytes((0x81, len(PAYLOAD))) + PAYLOAD
"""Our frame: a server masks nothing."""


def is_heartbeat(data: bytes) -> bool:
    """Whether this is the frame of a peer's heartbeat, alone and whole."""
    return (
        len(data) == LENGTH
        and data.startswith(HEAD)
        and unmasked(data[len(HEAD) + 4 :], data[len(HEAD) : len(HEAD) + 4]) == PAYLOAD
    )


class Agent(Protocol):
    """Who says them."""

    def beat(self) -> bool:
        """One came: whether it is to be answered here, and is not for the application to judge."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing else is expected of it."""


class WebSocket(Protocol):
    """The socket, as far as this needs to know it."""

    @property
    def transport(self) -> Any: ...

    @property
    def factory(self) -> Any: ...

    @property
    def is_clear(self) -> bool:
        """Open, being read from, and all that came before is read."""

    def read_on(self) -> None:
        """Read from it, unless it does not read itself."""


class Heartbeats:
    """Those of one connection."""

    def __init__(self, web_socket: WebSocket, agent: Agent) -> None:
        self._socket = web_socket
        self._agent = agent

    def take(self, data: bytes) -> bool:
        """Whether what has come was one, and is answered."""
        if not (is_heartbeat(data) and self._answers()):
            return False
        if self._agent.is_idle and is_plain(self._socket.transport):
            of_this_process().add(self)
        return True

    def _answers(self) -> bool:
        if not (self._socket.is_clear and self._agent.beat()):
            return False
        write_now(self._socket.transport, ANSWER)
        return True

    def look(self) -> None:
        """Something has come for an idle agent."""
        ours = self._socket.transport.socket
        try:
            data = ours.recv(LENGTH + 1, socket.MSG_PEEK)
            if is_heartbeat(data) and self._answers():
                ours.recv(LENGTH)
                if self._agent.is_idle:
                    return
        except OSError:  # gone: Twisted finds out for itself
            pass
        self.wake()

    def wake(self) -> None:
        """Read from it again as soon as something comes; does nothing where that is so."""
        if of_this_process().remove(self):
            self._socket.read_on()

    @property
    def transport(self) -> Any:
        return self._socket.transport

    @property
    def reactor(self) -> Any:
        return self._socket.factory.reactor

    def end(self) -> None:
        """The connection is gone."""
        of_this_process().remove(self)


class Idle:
    """The sockets of one process that nothing but heartbeats is expected of."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._descriptors: dict[Heartbeats, int] = {}
        """A socket that is closed has none any more."""
        self._is_looking = False

    def add(self, heartbeats: Heartbeats) -> None:
        """From now on it is looked at now and then, and the event loop leaves it alone."""
        self.remove(heartbeats)  # it was, and its peer did not read for a moment
        descriptor = heartbeats.transport.fileno()
        self._selector.register(descriptor, selectors.EVENT_READ, heartbeats)
        self._descriptors[heartbeats] = descriptor
        heartbeats.transport.pauseProducing()
        if not self._is_looking:
            self._is_looking = True
            heartbeats.reactor.callLater(LOOK_SECONDS, self._look, heartbeats.reactor)

    def remove(self, heartbeats: Heartbeats) -> bool:
        """It is looked at no more; whether it was."""
        descriptor = self._descriptors.pop(heartbeats, None)
        if descriptor is None:
            return False
        self._selector.unregister(descriptor)
        return True

    def _look(self, reactor: Any) -> None:
        self._is_looking = bool(self._descriptors)
        if self._is_looking:
            reactor.callLater(LOOK_SECONDS, self._look, reactor)
        for key, _ in self._selector.select(0):
            key.data.look()


@cache
def of_this_process() -> Idle:
    return Idle()


def is_plain(transport: Any) -> bool:
    """Whether this is a socket itself, and not what encrypts above one."""
    return isinstance(transport, Connection) and not transport.TLS


def write_now(transport: Any, data: bytes) -> None:
    """As `transport.write`, without a round of the event loop and two calls of epoll, where nothing waits."""
    if is_plain(transport) and not (transport.dataBuffer or transport._tempDataBuffer):
        sent = transport.writeSomeData(data)
        data = (
            data[sent:] if isinstance(sent, int) else data
        )  # an error comes again, where it is dealt with
    transport.write(data)
