"""A peer is read from only as fast as the application takes, and only while it reads itself."""

import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection

from agent.wire.codec import encode
from agent.wire.messages import Heartbeat
from transfers.sockets import (
    ANSWER_SECONDS,
    HANDSHAKE_SECONDS,
    MOST_BYTES,
    MOST_MESSAGES,
    GuardedWebSocket,
    _write_now,
)
from transfers.unmasking import unmasked


class Transport:
    """As much of a connection as pausing needs."""

    reading = True

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True


class Queue:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def put_nowait(self, message: dict[str, Any]) -> None:
        self.messages.append(message)


@pytest.fixture
def web_socket() -> GuardedWebSocket:
    """Open, with an application that takes nothing by itself."""
    made = GuardedWebSocket()
    made.transport = Transport()
    made.application_queue = Queue()
    made.client_addr = None
    made.factory = SimpleNamespace(reactor=Clock())
    made.state, made.data, made.current_frame = made.STATE_OPEN, b"", None
    return made


def test_it_stops_reading_when_many_messages_wait_and_goes_on_when_half_are_taken(
    web_socket: GuardedWebSocket,
) -> None:
    for number in range(MOST_MESSAGES):
        assert web_socket.transport.reading, number
        web_socket.onMessage(b"x", True)
    for _ in range(MOST_MESSAGES // 2):
        assert not web_socket.transport.reading
        web_socket.taken()
    assert web_socket.transport.reading


def test_it_stops_reading_when_many_bytes_wait(web_socket: GuardedWebSocket) -> None:
    web_socket.onMessage(bytes(MOST_BYTES - 1), True)
    assert web_socket.transport.reading
    web_socket.onMessage(b"x", True)
    assert not web_socket.transport.reading
    web_socket.taken()
    assert web_socket.transport.reading


def test_it_reads_nothing_from_who_does_not_read(web_socket: GuardedWebSocket) -> None:
    web_socket.pauseProducing()
    assert not web_socket.transport.reading
    web_socket.onMessage(b"x", True)
    web_socket.taken()
    assert not web_socket.transport.reading
    web_socket.resumeProducing()
    assert web_socket.transport.reading


def test_text_counts_alike_when_it_comes_and_when_it_is_taken(web_socket: GuardedWebSocket) -> None:
    """In UTF-8 it has more bytes than characters: the difference would add up to a stop for ever."""
    for _ in range(10):
        web_socket.onMessage("\U0001f600".encode(), False)
        web_socket.taken()
    assert web_socket._bytes == 0


TEXT = str(encode(Heartbeat())).encode()
MASK = b"\x01\x02\x03\x04"
HEARTBEAT = bytes((0x81, 0x80 | len(TEXT))) + MASK + unmasked(TEXT, MASK)


class Autobahn:
    """What comes the way of all messages."""

    def __init__(self, web_socket: GuardedWebSocket, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came: list[bytes] = []
        monkeypatch.setattr(web_socket, "_dataReceived", self.came.append)


@pytest.fixture
def autobahn(web_socket: GuardedWebSocket, monkeypatch: pytest.MonkeyPatch) -> Autobahn:
    return Autobahn(web_socket, monkeypatch)


def test_a_heartbeat_is_answered_where_it_comes(
    web_socket: GuardedWebSocket, autobahn: Autobahn
) -> None:
    beat = Mock(return_value=True)
    web_socket.answer_heartbeats(beat)
    web_socket.dataReceived(HEARTBEAT)
    beat.assert_called_once_with()
    assert autobahn.came == []
    web_socket.factory.reactor.advance(ANSWER_SECONDS)
    assert web_socket.transport.written == [bytes((0x81, len(TEXT))) + TEXT]


def test_who_has_gone_meanwhile_is_not_answered(
    web_socket: GuardedWebSocket, autobahn: Autobahn
) -> None:
    web_socket.answer_heartbeats(lambda: True)
    web_socket.dataReceived(HEARTBEAT)
    web_socket.state = web_socket.STATE_CLOSED
    web_socket.factory.reactor.advance(ANSWER_SECONDS)
    assert web_socket.transport.written == []


def test_a_heartbeat_goes_the_way_of_all_messages_where_nobody_wants_it_here(
    web_socket: GuardedWebSocket, autobahn: Autobahn
) -> None:
    """Before the welcome, after a good-bye, and when there are too many: that is judged there."""
    web_socket.dataReceived(HEARTBEAT)
    web_socket.answer_heartbeats(lambda: False)
    web_socket.dataReceived(HEARTBEAT)
    assert autobahn.came == [HEARTBEAT] * 2
    assert web_socket.transport.written == []


@pytest.mark.parametrize(
    "data",
    [
        HEARTBEAT[:-1],
        HEARTBEAT + b"\x81",
        HEARTBEAT * 2,
        b"\x82" + HEARTBEAT[1:],
        b"\x01" + HEARTBEAT[1:],
        HEARTBEAT[:-1] + b"?",
        HEARTBEAT[:2] + b"\x00" + HEARTBEAT[3:],
    ],
    ids=["part", "and more", "two", "binary", "fragment", "other text", "other mask"],
)
def test_only_a_whole_heartbeat_alone_is_answered_where_it_comes(
    web_socket: GuardedWebSocket, autobahn: Autobahn, data: bytes
) -> None:
    web_socket.answer_heartbeats(lambda: True)
    web_socket.dataReceived(data)
    web_socket.factory.reactor.advance(ANSWER_SECONDS)
    assert (autobahn.came, web_socket.transport.written) == ([data], [])


def test_a_heartbeat_does_not_overtake_what_its_peer_said_before(
    web_socket: GuardedWebSocket, autobahn: Autobahn
) -> None:
    """These 26 bytes may be the end of a longer frame, or wait behind what is not read just now."""
    web_socket.answer_heartbeats(lambda: True)
    web_socket.data = b"\x82"
    web_socket.dataReceived(HEARTBEAT)
    web_socket.data, web_socket.current_frame = b"", object()
    web_socket.dataReceived(HEARTBEAT)
    web_socket.current_frame = None
    web_socket.pauseProducing()
    web_socket.dataReceived(HEARTBEAT)
    web_socket.resumeProducing()
    web_socket.state = web_socket.STATE_CLOSING
    web_socket.dataReceived(HEARTBEAT)
    web_socket.factory.reactor.advance(ANSWER_SECONDS)
    assert (autobahn.came, web_socket.transport.written) == ([HEARTBEAT] * 4, [])


# Writing at once ---------------------------------------------------------------------------------


class Wire(Connection):
    """A connection of which the kernel takes so many bytes at once, or whose other end is gone (None)."""

    def __init__(self, ours: socket.socket) -> None:
        super().__init__(ours, Mock(), Mock())
        self.connected = True
        self.takes: int | None = 9

    def writeSomeData(self, data: bytes) -> Any:
        return CONNECTION_LOST if self.takes is None else super().writeSomeData(data[: self.takes])

    @property
    def waits(self) -> bytes:
        return bytes(self.dataBuffer) + b"".join(self._tempDataBuffer)


@pytest.fixture
def pair() -> Iterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        yield Wire(ours), theirs


@pytest.mark.parametrize(
    ("takes", "waits"), [(9, b""), (2, b"llo"), (0, b"hello"), (None, b"hello")]
)
def test_what_is_not_taken_at_once_waits(
    pair: tuple[Wire, socket.socket], takes: int | None, waits: bytes
) -> None:
    wire, theirs = pair
    wire.takes = takes
    _write_now(wire, b"hello")
    assert wire.waits == waits
    if takes:
        assert theirs.recv(9) == b"hello"[:takes]


@pytest.mark.parametrize("buffer", ["dataBuffer", "_tempDataBuffer"])
def test_nothing_overtakes_what_waits(pair: tuple[Wire, socket.socket], buffer: str) -> None:
    wire, theirs = pair
    setattr(wire, buffer, b"first " if buffer == "dataBuffer" else [b"first "])
    _write_now(wire, b"hello")
    assert wire.waits == b"first hello"
    with pytest.raises(BlockingIOError):
        theirs.recv(9)


def test_nothing_goes_past_the_encryption(pair: tuple[Wire, socket.socket]) -> None:
    wire, theirs = pair
    wire.TLS = True
    _write_now(wire, b"hello")
    wire.protocol.write.assert_called_once_with(b"hello")
    with pytest.raises(BlockingIOError):
        theirs.recv(9)


# The handshake -----------------------------------------------------------------------------------


def test_an_application_has_time_to_let_somebody_in(
    web_socket: GuardedWebSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where thousands come at once."""
    reject = Mock()
    monkeypatch.setattr(web_socket, "serverReject", reject)
    web_socket.state, now = web_socket.STATE_CONNECTING, time.time()
    web_socket.socket_opened = now - HANDSHAKE_SECONDS + 10
    web_socket.check_timeouts()
    reject.assert_not_called()
    web_socket.socket_opened = now - HANDSHAKE_SECONDS - 10
    web_socket.check_timeouts()
    reject.assert_called_once_with()


def test_a_connection_has_no_end_of_its_own(web_socket: GuardedWebSocket) -> None:
    web_socket.socket_opened = time.time() - 7 * 86_400
    web_socket.check_timeouts()
    assert web_socket.state == web_socket.STATE_OPEN
