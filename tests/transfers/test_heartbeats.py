"""Heartbeats are answered at their sockets; those of idle agents are looked for together."""

import socket
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection

from tests.websocket_frames import HEARTBEAT
from transfers import heartbeats as module
from transfers.heartbeats import ANSWER, LOOK_SECONDS, Heartbeats, Idle, is_heartbeat, write_now


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEARTBEAT[:-1],
        HEARTBEAT + b"\x81",
        HEARTBEAT * 2,
        b"\x82" + HEARTBEAT[1:],
        b"\x01" + HEARTBEAT[1:],
        HEARTBEAT[:-1] + b"?",
        HEARTBEAT[:2] + b"\x00" + HEARTBEAT[3:],
    ],
    ids=["nothing", "part", "and more", "two", "binary", "fragment", "other text", "other mask"],
)
def test_only_a_whole_heartbeat_alone_is_one(data: bytes) -> None:
    assert is_heartbeat(HEARTBEAT)
    assert not is_heartbeat(data)


# A socket with its agent at the other end --------------------------------------------------------


class Wire(Connection):
    """A connection of which the kernel takes so many bytes at once, or whose other end is gone (None)."""

    def __init__(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        super().__init__(ours, Mock(), Mock())
        self.connected = True
        self.takes: int | None = 99
        self.is_read = True

    def startReading(self) -> None:
        self.is_read = True

    def stopReading(self) -> None:
        self.is_read = False

    def writeSomeData(self, data: bytes) -> Any:
        return CONNECTION_LOST if self.takes is None else super().writeSomeData(data[: self.takes])

    @property
    def waits(self) -> bytes:
        return bytes(self.dataBuffer) + b"".join(self._tempDataBuffer)


class Scene:
    """The server's socket, and the agent's."""

    def __init__(self, wire: Wire, theirs: socket.socket) -> None:
        self.wire, self.theirs, self.clock = wire, theirs, Clock()
        self.is_idle, self.wants = True, True
        self.is_clear, self.is_paused = True, False
        self.beats = 0
        self.heartbeats = Heartbeats(self, self)

    # The socket

    @property
    def transport(self) -> Wire:
        return self.wire

    @property
    def factory(self) -> Any:
        return SimpleNamespace(reactor=self.clock)

    def read_on(self) -> None:
        if not self.is_paused:
            self.wire.startReading()

    # The agent, as the application knows it

    def beat(self) -> bool:
        self.beats += self.wants
        return self.wants

    # What the agent does and hears

    def says(self, data: bytes) -> None:
        """And the server looks."""
        self.theirs.sendall(data)
        self.clock.advance(LOOK_SECONDS)

    def heard(self) -> bytes:
        try:
            return self.theirs.recv(999)
        except BlockingIOError:
            return b""

    def left(self) -> bytes:
        """What has come, and is still to be read by the event loop."""
        return self.wire.socket.recv(999)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Idle:
    """Those of this process, and none before."""
    fresh = Idle()
    monkeypatch.setattr(module, "of_this_process", lambda: fresh)
    return fresh


@pytest.fixture
def scene(idle: Idle) -> Iterator[Scene]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        yield Scene(Wire(ours), theirs)


def test_a_heartbeat_is_answered_where_it_comes(scene: Scene) -> None:
    scene.is_idle = False
    assert scene.heartbeats.take(HEARTBEAT)
    assert (scene.beats, scene.heard(), scene.wire.is_read) == (1, ANSWER, True)


@pytest.mark.parametrize("obstacle", ["wants", "is_clear"])
def test_one_that_is_not_to_be_answered_here_is_the_applications(
    scene: Scene, obstacle: str
) -> None:
    """Before the welcome, after a good-bye, and when there are too many: that is judged there."""
    setattr(scene, obstacle, False)
    assert not scene.heartbeats.take(HEARTBEAT)
    assert (scene.heard(), scene.wire.is_read) == (b"", True)


def test_what_is_no_heartbeat_is_the_applications(scene: Scene) -> None:
    assert not scene.heartbeats.take(b"\x82\x00")
    assert (scene.beats, scene.wire.is_read) == (0, True)


# Idle agents -------------------------------------------------------------------------------------


@pytest.fixture
def asleep(scene: Scene) -> Scene:
    """It has said a heartbeat, and nothing else is expected of it."""
    scene.heartbeats.take(HEARTBEAT)
    assert (scene.heard(), scene.wire.is_read) == (ANSWER, False)
    return scene


def test_the_heartbeats_of_an_idle_agent_are_looked_for_and_answered(asleep: Scene) -> None:
    for number in range(2, 5):
        asleep.says(HEARTBEAT)
        assert (asleep.beats, asleep.heard(), asleep.wire.is_read) == (number, ANSWER, False)


@pytest.mark.parametrize(
    "data",
    [b"\x82\x85maskhello", HEARTBEAT[:9], HEARTBEAT + HEARTBEAT, HEARTBEAT + b"\x82"],
    ids=["other", "part", "two", "and more"],
)
def test_whatever_else_it_says_is_read_by_the_event_loop(asleep: Scene, data: bytes) -> None:
    asleep.says(data)
    assert (asleep.wire.is_read, asleep.heard(), asleep.left()) == (True, b"", data)


def test_one_heartbeat_too_many_is_judged_by_the_application(asleep: Scene) -> None:
    asleep.wants = False
    asleep.says(HEARTBEAT)
    assert (asleep.wire.is_read, asleep.left()) == (True, HEARTBEAT)


def test_it_is_read_again_as_soon_as_it_is_told_something(asleep: Scene, idle: Idle) -> None:
    asleep.heartbeats.wake()
    assert asleep.wire.is_read
    asleep.says(HEARTBEAT)
    assert asleep.left() == HEARTBEAT, "nobody has looked"
    asleep.heartbeats.wake()  # again, and nothing comes of it


def test_a_heartbeat_in_the_middle_of_a_transfer_leaves_it_awake(asleep: Scene) -> None:
    asleep.is_idle = False
    asleep.says(HEARTBEAT)
    assert (asleep.heard(), asleep.wire.is_read) == (ANSWER, True)


def test_who_reads_again_before_the_next_look_is_idle_again(asleep: Scene) -> None:
    """It is read from by its own doing, then, and still among those that are looked at."""
    asleep.wire.startReading()
    assert asleep.heartbeats.take(HEARTBEAT)
    assert (asleep.heard(), asleep.wire.is_read) == (ANSWER, False)
    asleep.says(HEARTBEAT)
    assert (asleep.beats, asleep.heard()) == (3, ANSWER)


def test_who_does_not_read_is_not_read_from(asleep: Scene) -> None:
    """The connection regulates itself; to read again is its own affair then."""
    asleep.is_clear, asleep.is_paused = False, True
    asleep.says(HEARTBEAT)
    assert (asleep.wire.is_read, asleep.left()) == (False, HEARTBEAT)


def test_what_it_says_to_a_close_is_read(asleep: Scene) -> None:
    """Not open any more, and not paused."""
    asleep.is_clear = False
    asleep.says(b"\x88\x80mask")
    assert (asleep.wire.is_read, asleep.left()) == (True, b"\x88\x80mask")


def abort(theirs: socket.socket) -> None:
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()


@pytest.mark.parametrize("end", [socket.socket.close, abort])
def test_the_end_of_its_connection_is_left_to_the_event_loop(
    idle: Idle, end: Callable[[socket.socket], None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    with ours:
        scene = Scene(Wire(ours), theirs)
        scene.heartbeats.take(HEARTBEAT)
        scene.clock.advance(LOOK_SECONDS)
        assert not scene.wire.is_read
        end(theirs)
        scene.clock.advance(LOOK_SECONDS)
        assert scene.wire.is_read
        scene.heartbeats.end()


def test_a_connection_that_is_closed_here_is_looked_at_no_more(asleep: Scene, idle: Idle) -> None:
    asleep.wire.socket.close()
    asleep.heartbeats.end()
    asleep.clock.advance(2 * LOOK_SECONDS)
    assert (asleep.beats, asleep.clock.getDelayedCalls()) == (1, []), "and nobody looks for nothing"


def test_what_encrypts_above_a_socket_is_left_in_the_event_loop(scene: Scene) -> None:
    """What has come may be in its memory, where no look finds it."""
    scene.wire.TLS = True
    scene.wire.protocol = Mock()
    assert scene.heartbeats.take(HEARTBEAT)
    scene.wire.protocol.write.assert_called_once_with(ANSWER)
    assert scene.wire.is_read


# Writing at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("takes", "waits"), [(9, b""), (2, b"llo"), (0, b"hello"), (None, b"hello")]
)
def test_what_is_not_taken_at_once_waits(scene: Scene, takes: int | None, waits: bytes) -> None:
    scene.wire.takes = takes
    write_now(scene.wire, b"hello")
    assert (scene.wire.waits, scene.heard()) == (waits, b"hello"[: takes or 0])


@pytest.mark.parametrize("buffer", ["dataBuffer", "_tempDataBuffer"])
def test_nothing_overtakes_what_waits(scene: Scene, buffer: str) -> None:
    setattr(scene.wire, buffer, b"first " if buffer == "dataBuffer" else [b"first "])
    write_now(scene.wire, b"hello")
    assert (scene.wire.waits, scene.heard()) == (b"first hello", b"")
