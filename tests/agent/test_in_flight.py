"""How much is on its way: enough to keep any link busy, and little for others to wait behind.

A link in virtual time: what is sent goes through it at its rate, and is acknowledged a base delay later.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import pytest

from agent import in_flight
from agent.in_flight import FIRST_LIMIT, QUEUE_SECONDS, Lane, Uplink
from agent.sending import chunk_length

MBIT = 1e6 / 8


class Model:
    """A link, its server, and transfers that always have more to send."""

    def __init__(self, rate: float, base: float, lanes: int = 1) -> None:
        self.rate, self.base = rate, base
        self.now = 0.0
        self.uplink = Uplink(lambda: self.now)
        self.lanes = [self.uplink.lane() for _ in range(lanes)]
        self.moved = dict.fromkeys(self.lanes, 0)
        self.stalled_until = 0.0
        """The server writes nothing before."""
        self.has_more: Callable[[], bool] = lambda: True
        self._free_at = 0.0
        self._acks: deque[tuple[float, Lane, int]] = deque()
        self.ages: list[float] = []
        """From handing a chunk over to its acknowledgement, each."""

    def _send(self, lane: Lane) -> None:
        length = chunk_length(self.uplink.rate, 1.0)
        self.moved[lane] += length
        lane.sends(self.moved[lane], length)
        self._free_at = max(self._free_at, self.now) + length / self.rate
        self._acks.append((self._free_at + self.base, lane, self.moved[lane]))
        self.ages.append(self._free_at + self.base - self.now)

    def _fill(self) -> None:
        sent = True
        while sent:
            sent = False
            for lane in list(self.uplink._lanes):
                if lane.has_room and self.has_more():
                    self._send(lane)
                    sent = True
                elif self.has_more():
                    self.uplink.full()

    def run(self, seconds: float) -> float:
        """Let it run; bytes a second that were acknowledged."""
        end, begin = self.now + seconds, sum(self.moved.values()) - self.uplink.in_flight
        self.ages.clear()
        self._fill()
        while self._acks and max(self._acks[0][0], self.stalled_until) <= end:
            due, lane, moved = self._acks.popleft()
            self.now = max(self.now, due, self.stalled_until)
            lane.acked(moved)
            self._fill()
        self.now = end
        return (sum(self.moved.values()) - self.uplink.in_flight - begin) / seconds


LINKS = {
    "256 kbit/s, 60 ms": (0.256 * MBIT, 0.06),
    "1 Mbit/s, 40 ms": (1 * MBIT, 0.04),
    "20 Mbit/s, 80 ms": (20 * MBIT, 0.08),
    "20 Mbit/s, satellite": (20 * MBIT, 0.6),
    "100 Mbit/s, 20 ms": (100 * MBIT, 0.02),
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_the_link_is_used_and_less_than_a_second_is_queued(link: tuple[float, float]) -> None:
    rate, base = link
    model = Model(rate, base)
    model.run(10.0)
    assert model.run(60.0) > 0.95 * rate
    assert max(model.ages) < base + 1.1


@pytest.mark.parametrize("lanes", [2, 8])
def test_transfers_share_one_link_in_turn_and_one_queue(lanes: int) -> None:
    model = Model(4 * MBIT, 0.05, lanes)
    model.run(10.0)
    before = dict(model.moved)
    model.run(60.0)
    shares = [model.moved[lane] - before[lane] for lane in model.lanes]
    assert min(shares) > 0.8 * max(shares)
    assert max(model.ages) < 0.05 + 1.2


def test_the_first_flight_is_small() -> None:
    model = Model(1 * MBIT, 0.04)
    model.run(0.1)
    assert model.uplink.in_flight <= FIRST_LIMIT


def test_a_fast_network_is_not_held_back() -> None:
    """On loopback the server's window is what bounds: 8 MiB."""
    model = Model(500e6, 0.001)
    model.has_more = lambda: model.uplink.in_flight < 8 * 2**20
    assert model.run(2.0) > 0.95 * 500e6
    assert model.uplink.limit > 64 * 2**20


def test_a_link_that_becomes_slow_has_a_short_queue_again() -> None:
    model = Model(20 * MBIT, 0.05)
    model.run(10.0)
    model.rate = 1 * MBIT
    model.run(20.0)
    assert model.run(30.0) > 0.9 * model.rate
    assert max(model.ages) < 0.05 + 1.0


def test_a_link_that_becomes_fast_is_used() -> None:
    model = Model(1 * MBIT, 0.05)
    model.run(10.0)
    model.rate = 20 * MBIT
    model.run(5.0)
    assert model.run(30.0) > 0.95 * model.rate


@pytest.mark.parametrize("longer", [0.5, 0.9])
def test_a_way_that_becomes_longer_is_measured_anew(longer: float) -> None:
    """As where a cable fails and a satellite takes over: a queue must not be seen in that."""
    model = Model(20 * MBIT, 0.03)
    model.run(15.0)
    model.base = longer
    model.run(30.0)
    assert model.run(60.0) > 0.9 * model.rate


def test_the_fastest_acknowledgement_does_not_creep_up_with_the_queue() -> None:
    model = Model(5 * MBIT, 0.05)
    model.run(600.0)
    assert max(model.ages) < 0.05 + 1.0
    model.run(60.0)
    assert max(model.ages) < 0.05 + 1.0


def test_a_disk_that_stands_still_costs_only_that_time() -> None:
    model = Model(20 * MBIT, 0.05)
    model.run(10.0)
    model.stalled_until = model.now + 3.0
    model.run(5.0)
    assert model.run(10.0) > 0.95 * model.rate


def test_a_short_pause_of_the_disk_costs_the_link_nothing() -> None:
    model = Model(20 * MBIT, 0.05)
    model.run(10.0)
    moved = model.run(1.0)
    model.stalled_until = model.now + QUEUE_SECONDS * 0.7
    assert model.run(2.0) > 0.9 * moved


def test_one_chunk_of_a_transfer_may_always_go() -> None:
    """Also behind another one that the server does not acknowledge, as while it reads a file again."""
    uplink = Uplink(lambda: 0.0)
    first, second = uplink.lane(), uplink.lane()
    first.sends(2 * FIRST_LIMIT, 2 * FIRST_LIMIT)
    assert not first.has_room
    assert second.has_room


def test_what_was_sent_before_an_acknowledged_chunk_is_not_on_its_way_any_more() -> None:
    uplink = Uplink(lambda: 0.0)
    first, second = uplink.lane(), uplink.lane()
    first.sends(FIRST_LIMIT, FIRST_LIMIT)
    second.sends(1000, 1000)
    second.acked(1000)
    assert uplink.in_flight == 0
    first.acked(FIRST_LIMIT)
    assert uplink.in_flight == 0


def test_an_acknowledgement_of_half_a_chunk_says_nothing() -> None:
    uplink = Uplink(lambda: 0.0)
    lane = uplink.lane()
    lane.sends(1000, 500)
    lane.acked(999)
    assert uplink.in_flight == 500
    assert uplink.rate is None


def test_a_transfer_that_ends_leaves_nothing_in_flight() -> None:
    uplink = Uplink(lambda: 0.0)
    lane = uplink.lane()
    lane.sends(1000, 1000)
    lane.close()
    assert uplink.in_flight == 0


def test_a_file_that_is_read_slowly_does_not_make_the_link_look_slow() -> None:
    model = Model(100 * MBIT, 0.02)
    model.run(10.0)
    model.has_more = lambda: False
    model.run(10.0)
    known = model.uplink.rate
    (lane,) = model.lanes
    for _ in range(20):
        model._send(lane)
        model.now += 0.1
        model._acks.popleft()
        lane.acked(model.moved[lane])
        model.now += 1.0
    assert model.uplink.rate == known
    assert not model.uplink.is_full


async def test_who_waits_is_told_of_news_of_any_transfer() -> None:
    uplink = Uplink()
    first, second = uplink.lane(), uplink.lane()
    first.sends(1000, 1000)
    waiting = asyncio.create_task(second.wait())
    await asyncio.sleep(0)
    first.acked(1000)
    async with asyncio.timeout(10):
        await waiting


async def test_a_server_that_acknowledges_nothing_for_long_is_sent_a_chunk_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may want more bytes before it says anything: neither side must wait for the other for ever."""
    monkeypatch.setattr(in_flight, "SILENCE_SECONDS", 0.01)
    lane = Uplink().lane()
    lane.sends(FIRST_LIMIT, FIRST_LIMIT)
    for moved in (FIRST_LIMIT + 1, FIRST_LIMIT + 2):
        assert not lane.has_room
        async with asyncio.timeout(10):
            await lane.wait()
        assert lane.has_room
        lane.sends(moved, 1)
