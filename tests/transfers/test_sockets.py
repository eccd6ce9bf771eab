"""A peer is read from only as fast as the application takes, and only while it reads itself."""

from typing import Any

import pytest

from transfers.sockets import MOST_BYTES, MOST_MESSAGES, GuardedWebSocket


class Transport:
    """As much of a connection as pausing needs."""

    reading = True

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
