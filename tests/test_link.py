"""The faulty link does what it says, on real sockets: a fault test is worth no more than its fault."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.link import Link, Spoil

KIB, MIB = 1 << 10, 1 << 20
SOON = 0.2  # seconds for what must not come
LIMIT = 20.0  # seconds for what must

Pair = tuple[socket.socket, socket.socket]
Connect = Callable[[], Pair]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        yield listener


@pytest.fixture
def link(listener: socket.socket) -> Iterator[Link]:
    with Link(listener.getsockname()[1]) as link:
        yield link


@pytest.fixture
def dial(link: Link) -> Iterator[Callable[[], socket.socket]]:
    """The agent's end of a new connection to the link."""
    with ExitStack() as sockets:

        def dial() -> socket.socket:
            return sockets.enter_context(socket.create_connection(("127.0.0.1", link.port), LIMIT))

        yield dial


@pytest.fixture
def connect(listener: socket.socket, dial: Callable[[], socket.socket]) -> Iterator[Connect]:
    """Both ends of a new connection through the link: the agent's, the server's."""
    with ExitStack() as sockets:

        def connect() -> Pair:
            agent = dial()
            server = sockets.enter_context(listener.accept()[0])
            server.settimeout(LIMIT)
            return agent, server

        yield connect


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def receive(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := end.recv(count - len(data))):
        data += more
    return data


def receive_all(end: socket.socket) -> bytes:
    return b"".join(iter(lambda: end.recv(64 * KIB), b""))


def send_for_ever(end: socket.socket) -> None:
    while True:
        end.sendall(bytes(64 * KIB))


def send_until_reset(end: socket.socket) -> None:
    with pytest.raises(ConnectionError):
        send_for_ever(end)


def assert_passes(source: socket.socket, sink: socket.socket) -> None:
    source.sendall(b"passes")
    assert receive(sink, 6) == b"passes"


def assert_silent(*ends: socket.socket) -> None:
    for end in ends:
        end.settimeout(SOON)
        with pytest.raises(TimeoutError):
            end.recv(1)


# It is a link ------------------------------------------------------------------------------------


def test_it_counts_each_way_over_all_connections(link: Link, connect: Connect) -> None:
    for agent, server in (connect(), connect()):
        assert_passes(agent, server)
        assert_passes(server, agent)
        assert_passes(server, agent)
    assert (link.sent, link.received, link.connections) == (12, 24, 2)


def test_much_passes_unchanged(link: Link, connect: Connect, threads: ThreadPoolExecutor) -> None:
    agent, server = connect()
    data = bytes(range(256)) * (32 * KIB)
    received = threads.submit(receive_all, server)
    agent.sendall(data)
    agent.shutdown(socket.SHUT_WR)
    assert received.result(LIMIT) == data
    assert link.sent == len(data)


def test_the_end_of_one_way_leaves_the_other(link: Link, connect: Connect) -> None:
    agent, server = connect()
    agent.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    assert_passes(server, agent)
    server.close()
    assert agent.recv(1) == b""


def test_a_reset_is_passed_on(connect: Connect) -> None:
    agent, server = connect()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    with pytest.raises(ConnectionResetError):
        agent.recv(1)


def test_a_server_that_is_not_there_is_a_reset(
    listener: socket.socket, dial: Callable[[], socket.socket]
) -> None:
    listener.close()
    with pytest.raises(ConnectionResetError):
        dial().recv(1)


def test_it_leaves_nothing_behind(listener: socket.socket) -> None:
    before = threading.active_count()
    with Link(listener.getsockname()[1]) as link:
        agents = [socket.create_connection(("127.0.0.1", link.port)) for _ in range(3)]
        link.black_hole()
        agents.append(socket.create_connection(("127.0.0.1", link.port)))
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", link.port))
    for agent in agents:
        agent.close()


# The link as a whole -----------------------------------------------------------------------------


def test_a_cut_resets_both_ends_and_lets_new_connections_pass(link: Link, connect: Connect) -> None:
    agent, server = connect()
    assert_passes(agent, server)
    link.cut()
    for end in (agent, server):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert_passes(*connect())


def test_in_a_black_hole_nobody_learns_anything(link: Link, connect: Connect) -> None:
    agent, server = connect()
    other, gone = connect()
    link.black_hole()
    agent.sendall(b"lost")
    server.sendall(b"lost")
    gone.close()
    assert_silent(agent, server, other)
    assert (link.sent, link.received) == (0, 0)


def test_after_a_black_hole_only_new_connections_pass(
    link: Link, connect: Connect, dial: Callable[[], socket.socket]
) -> None:
    old = connect()
    link.black_hole()
    meanwhile = dial()
    assert_silent(meanwhile)
    link.heal()
    assert_passes(*connect())
    assert_silent(*old, meanwhile)


def test_a_stalled_link_goes_on_when_it_flows(link: Link, connect: Connect) -> None:
    agent, server = connect()
    link.stall_after(4)
    agent.sendall(b"stalled")
    link.wait_stalled()
    assert receive(server, 4) == b"stal"
    assert_silent(server)
    assert_passes(server, agent)
    link.flow()
    assert receive(server, 3) == b"led"


def test_a_stall_is_moved_or_taken_back(link: Link, connect: Connect) -> None:
    agent, server = connect()
    link.stall_after(3)
    link.stall_after(9)
    assert_passes(agent, server)
    link.flow()
    assert_passes(agent, server)


# Time --------------------------------------------------------------------------------------------


def test_a_delay_adds_to_each_way_and_can_be_turned_off(link: Link, connect: Connect) -> None:
    agent, server = connect()
    link.delay(SOON)
    began = time.monotonic()
    assert_passes(agent, server)
    assert_passes(server, agent)
    assert time.monotonic() - began >= 2 * SOON
    link.delay(30 * LIMIT)
    link.delay(0)
    assert_passes(agent, server)


def test_a_delay_does_not_limit_throughput(
    link: Link, connect: Connect, threads: ThreadPoolExecutor
) -> None:
    agent, server = connect()
    link.delay(1.0)
    received = threads.submit(receive, server, 12 * MIB)
    began = time.monotonic()
    agent.sendall(bytes(12 * MIB))
    assert len(received.result(LIMIT)) == 12 * MIB
    assert time.monotonic() - began < 12  # a block at a time would take 192 seconds


def test_a_slow_link_passes_small_pieces(link: Link, connect: Connect) -> None:
    agent, server = connect()
    link.slow_down(10 * KIB)
    began = time.monotonic()
    agent.sendall(bytes(20 * KIB))
    assert len(server.recv(20 * KIB)) < 10 * KIB
    link.wait_sent(5 * KIB)
    assert time.monotonic() - began > 0.4


def test_the_rate_changes_while_bytes_flow(
    link: Link, connect: Connect, threads: ThreadPoolExecutor
) -> None:
    agent, server = connect()
    received = threads.submit(receive, server, 8 * MIB)
    link.at(MIB, lambda: link.slow_down(10 * KIB))
    sending = threads.submit(agent.sendall, bytes(8 * MIB))
    link.wait_sent(MIB + 1)
    assert link.sent < 2 * MIB
    link.slow_down(None)
    sending.result(LIMIT)
    assert len(received.result(LIMIT)) == 8 * MIB


# Spoiled bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (Spoil("flip", at=2, bit=1), b"01034567"),
        (Spoil("truncate", at=2, length=3), b"01567"),
        (Spoil("duplicate", at=2, length=3), b"01234234567"),
        (Spoil("reorder", at=2, length=3), b"01567234"),
        (Spoil("truncate", at=6, length=9), b"012345"),
        (Spoil("duplicate", at=6, length=9), b"0123456767"),
        (Spoil("reorder", at=2, length=9), b"01567234"),
    ],
    ids=lambda value: value.kind if isinstance(value, Spoil) else value.decode(),
)
@pytest.mark.parametrize("upward", [True, False], ids=["up", "down"])
def test_a_stream_is_spoiled_once(
    link: Link, connect: Connect, spoil: Spoil, expected: bytes, upward: bool
) -> None:
    source, sink = connect() if upward else reversed(connect())
    happened = link.spoil("up" if upward else "down", spoil)
    source.sendall(b"01234567")
    source.shutdown(socket.SHUT_WR)
    assert receive_all(sink) == expected
    assert happened.is_set()
    assert link.spoiled == 1


def test_a_place_counts_over_all_connections_and_all_that_passed(
    link: Link, connect: Connect
) -> None:
    link.spoil("up", Spoil("duplicate", at=9, length=2))
    link.spoil("up", Spoil("flip", at=12))
    link.spoil("up", Spoil("truncate", at=6, length=2))
    assert_passes(*connect())
    agent, server = connect()
    agent.sendall(b"0123456789")
    agent.shutdown(socket.SHUT_WR)
    assert receive_all(server) == b"2345657789"
    assert link.spoiled == 3


def test_blocks_change_places_also_when_they_come_apart(
    link: Link, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.link_faults.GATHER", LIMIT)
    agent, server = connect()
    link.spoil("up", Spoil("reorder", at=0, length=3))
    for part in (b"ab", b"cd", b"ef"):
        agent.sendall(part)
        time.sleep(0.02)
    assert receive(server, 6) == b"defabc"


def test_a_sender_that_waits_for_its_answer_is_not_waited_for(link: Link, connect: Connect) -> None:
    agent, server = connect()
    happened = link.spoil("up", Spoil("reorder", at=0, length=MIB))
    agent.sendall(b"asks")
    assert receive(server, 4) == b"ksas"
    assert happened.wait(LIMIT)


def test_a_spoil_that_changes_nothing_has_not_happened(link: Link, connect: Connect) -> None:
    agent, server = connect()
    happened = link.spoil("up", Spoil("reorder", at=0, length=2))
    agent.sendall(b"0000")
    assert receive(server, 4) == b"0000"
    assert not happened.is_set()
    assert link.spoiled == 0


# Actions -----------------------------------------------------------------------------------------


def test_a_cut_comes_at_its_very_byte(link: Link, connect: Connect) -> None:
    agent, _ = connect()
    link.at(100_001, link.cut)
    send_until_reset(agent)
    assert link.sent == 100_001


def test_a_cut_stops_all_connections_at_that_byte(
    link: Link, connect: Connect, threads: ThreadPoolExecutor
) -> None:
    pairs = [connect() for _ in range(4)]
    for _, server in pairs:
        threads.submit(receive_all, server)
    link.at(10 * MIB + 1, link.cut)
    for sending in [threads.submit(send_until_reset, agent) for agent, _ in pairs]:
        sending.result(LIMIT)
    assert link.sent == 10 * MIB + 1


def test_a_black_hole_opens_at_its_very_byte(link: Link, connect: Connect) -> None:
    agent, server = connect()
    link.at(4, link.black_hole)
    agent.sendall(b"swallowed")
    assert receive(server, 4) == b"swal"
    assert_silent(server)
    assert link.sent == 4


def test_an_action_recurs(link: Link, connect: Connect) -> None:
    link.every(100_000, link.cut)
    for turn in range(1, 6):
        send_until_reset(connect()[0])
        assert link.sent == turn * 100_000


def test_actions_come_in_the_order_of_their_places(link: Link, connect: Connect) -> None:
    seen: list[tuple[str, int]] = []
    for name, place in (("b", 5), ("c", 6), ("a", 0)):
        link.at(place, lambda name=name: seen.append((name, link.sent)))  # type: ignore[misc]
    assert_passes(*connect())
    link.wait_sent(6)
    assert seen == [("a", 0), ("b", 5), ("c", 6)]


def test_what_has_been_sent_is_not_waited_for(link: Link, connect: Connect) -> None:
    assert_passes(*connect())
    link.wait_sent(3, SOON)
    with pytest.raises(AssertionError, match="only 6 bytes"):
        link.wait_sent(7, SOON)


def test_what_an_action_raises_the_end_raises(listener: socket.socket) -> None:
    def fail() -> None:
        raise OSError("of the action, not of the connection")

    faulty = Link(listener.getsockname()[1])
    with pytest.RaisesGroup(OSError, AssertionError), faulty:
        faulty.at(0, fail)
        faulty.at(0, lambda: faulty.wait_sent(1))
