"""A peer is read from only as fast as the application takes, and only while it reads itself."""

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.task import Clock

from tests.websocket_frames import HEARTBEAT
from transfers.heartbeats import ANSWER
from transfers.sockets import HANDSHAKE_SECONDS, MOST_BYTES, MOST_MESSAGES, GuardedWebSocket


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

    def abortConnection(self) -> None:
        self.reading = False


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


class Listener:
    """An agent whose heartbeats are all answered."""

    is_idle = False

    def beat(self) -> bool:
        return True


def test_a_heartbeat_does_not_overtake_what_its_peer_said_before(
    web_socket: GuardedWebSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These 26 bytes may be the end of a longer frame, or wait behind what is not read just now."""
    came: list[bytes] = []  # the way of all messages
    monkeypatch.setattr(web_socket, "_dataReceived", came.append)
    web_socket.answer_heartbeats(Listener())
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
    assert (came, web_socket.transport.written) == ([HEARTBEAT] * 4, [])
    web_socket.state = web_socket.STATE_OPEN
    web_socket.dataReceived(HEARTBEAT)
    assert (len(came), web_socket.transport.written) == (4, [ANSWER])


@pytest.mark.parametrize("code", [None, 1000, 1011, 4003])
def test_an_application_closes_with_any_code(
    web_socket: GuardedWebSocket, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """Autobahn would raise for 1011, in a task that nobody looks at."""
    said: list[int] = []
    monkeypatch.setattr(web_socket, "sendCloseFrame", lambda code, *_, **__: said.append(code))
    monkeypatch.setattr(web_socket, "dropConnection", lambda abort: None)
    web_socket.serverClose(code)
    assert said == [code or 1000]


def test_an_idle_one_that_is_closed_reads_the_answer_to_that(web_socket: GuardedWebSocket) -> None:
    web_socket.transport.reading = False
    web_socket.state = web_socket.STATE_CLOSING
    web_socket.read_on()
    assert web_socket.transport.reading
    web_socket.pauseProducing()
    web_socket.read_on()
    assert not web_socket.transport.reading


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
