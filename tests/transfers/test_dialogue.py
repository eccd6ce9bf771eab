"""How long an agent is waited for, and what its silence means."""

import asyncio
from uuid import UUID

import pytest

from agent.wire.messages import Abort, Ack, Cancel, Chunk, Offer, Request, Start
from transfers.dialogue import (
    ANSWER_SECONDS,
    ANSWER_SECONDS_AT_MOST,
    CONFIRM_SECONDS,
    CONFIRM_SECONDS_AT_MOST,
    GRACE_SECONDS,
    HASHING_RATE,
    Dialogue,
    Outgoing,
    Pace,
    Pulse,
    Silence,
    TooSlow,
)
from transfers.inbox import LinkLost
from transfers.models import HEARTBEAT

TRANSFER = UUID(int=1)
OFFER = Offer(TRANSFER, "f", 10, 0, "1")


class Time:
    """Stands still until a test moves it; each wait of the dialogue moves it to the end of the wait."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Line:
    """A dialogue, what it said, and a clock that jumps over its waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = Time()
        self.said: list[Outgoing] = []
        self.hung_up: list[Abort] = []
        self.pulse = Pulse(self.time)
        self.waits: list[float] = []
        self.alive = True
        self.dialogue = Dialogue(TRANSFER, self.reply, self.hang_up, self.pulse, self.time)
        really_timeout = asyncio.timeout

        def timeout(seconds: float | None) -> asyncio.Timeout:
            if seconds is None:  # something is there to be taken
                return really_timeout(None)
            self.waits.append(seconds)
            self.time.now += seconds
            if self.alive:
                self.pulse.beat(chunk=False)
            return really_timeout(0.01)

        monkeypatch.setattr("transfers.dialogue.asyncio.timeout", timeout)
        monkeypatch.setattr("transfers.inbox.asyncio.timeout", timeout)

    async def reply(self, message: Outgoing) -> None:
        self.said.append(message)

    async def hang_up(self, farewell: Abort) -> None:
        self.hung_up.append(farewell)

    async def wait_in_vain(self) -> None:
        while True:
            assert await self.dialogue.next_batch(None) == ([], None)

    async def wait_in_vain_beside_another(self) -> None:
        """While chunks of another transfer come: this one is slow, and the agent is not silent."""
        while True:
            self.pulse.beat(chunk=True)
            assert await self.dialogue.next_batch(5.0) == ([], None)

    async def asked(self) -> None:
        self.dialogue.hear(OFFER)
        assert await self.dialogue.ask(Request(TRANSFER)) == OFFER
        self.waits.clear()


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(monkeypatch)


async def test_a_request_that_is_not_answered_is_given_up(line: Line) -> None:
    with pytest.raises(Silence, match="40 s"):
        await line.dialogue.ask(Request(TRANSFER))
    assert line.waits == [ANSWER_SECONDS]


async def test_chunks_of_others_go_before_an_answer(line: Line) -> None:
    line.pulse.chunk = line.time.now + 20  # one comes while it waits
    with pytest.raises(Silence):
        await line.dialogue.ask(Request(TRANSFER))
    assert sum(line.waits) == ANSWER_SECONDS + 20


async def test_chunks_of_others_go_before_an_answer_for_five_minutes_at_most(line: Line) -> None:
    """An agent that sends one file can hold the turns of seven others no longer than that."""
    line.pulse.chunk = line.time.now + 10**6
    with pytest.raises(Silence, match="300 s"):
        await line.dialogue.ask(Request(TRANSFER))
    assert sum(line.waits) == ANSWER_SECONDS_AT_MOST


async def test_the_first_chunk_comes_within_five_minutes_of_the_start_and_of_reading_again(
    line: Line,
) -> None:
    await line.asked()
    await line.dialogue.start(Start(TRANSFER, ((100 * HASHING_RATE, 10),), 10))
    begun = line.time.now
    with pytest.raises(Silence):
        await line.wait_in_vain_beside_another()
    assert line.time.now - begun == pytest.approx(100 + ANSWER_SECONDS_AT_MOST, abs=5)


async def test_a_connection_that_is_silent_altogether_is_no_fault_of_the_transfer(
    line: Line,
) -> None:
    """It is closed by its attendant, and the transfer goes on with the next one."""
    line.alive = False
    asking = asyncio.create_task(line.dialogue.ask(Request(TRANSFER)))
    while len(line.waits) < 3:
        await asyncio.sleep(0)
    line.dialogue.leave(LinkLost())
    with pytest.raises(LinkLost):
        await asking
    assert line.waits[:3] == [ANSWER_SECONDS, HEARTBEAT, HEARTBEAT]


async def test_a_sender_that_stops_sending_is_given_up(line: Line) -> None:
    await line.asked()
    await line.dialogue.start(Start(TRANSFER, ((0, 10),), 10))
    line.dialogue.hear(Chunk(TRANSFER, 0, b"x"))
    assert (await line.dialogue.next_batch(None))[0]
    with pytest.raises(Silence):
        await line.wait_in_vain()
    assert sum(line.waits) == pytest.approx(ANSWER_SECONDS)


async def test_what_has_come_is_taken_however_long_the_server_was_busy(line: Line) -> None:
    """Reading again what an earlier attempt left may take it longer than the agent."""
    await line.asked()
    await line.dialogue.start(Start(TRANSFER, ((0, 10),), 10))
    line.dialogue.hear(Chunk(TRANSFER, 0, b"x"))
    line.time.now += 1000
    line.pulse.beat(chunk=False)
    assert (await line.dialogue.next_batch(5.0))[0]


async def test_credit_that_comes_late_gives_time_anew(line: Line) -> None:
    """The server's own disk may have been what was slow."""
    await line.asked()
    await line.dialogue.start(Start(TRANSFER, ((0, 10),), 10))
    line.time.now += 1000
    await line.dialogue.acknowledge(Ack(TRANSFER, 0, 10, 0))
    assert await line.dialogue.next_batch(5.0) == ([], None)
    assert line.waits == [5.0]


async def test_a_resume_gives_time_to_read_again_what_was_sent(line: Line) -> None:
    await line.asked()
    begin = 100 * HASHING_RATE
    await line.dialogue.start(Start(TRANSFER, ((begin, 10),), 10))
    with pytest.raises(Silence):
        await line.wait_in_vain()
    assert sum(line.waits) == pytest.approx(100 + ANSWER_SECONDS)


async def test_an_end_that_is_not_confirmed_ends_the_connection(line: Line) -> None:
    await line.asked()
    await line.dialogue.end(Cancel(TRANSFER))
    assert line.waits == [CONFIRM_SECONDS]
    assert [farewell.code for farewell in line.hung_up] == ["timed_out"]


async def test_an_end_is_waited_for_five_minutes_at_most_whatever_else_comes(line: Line) -> None:
    await line.asked()
    line.pulse.chunk = line.time.now + 10**6  # an agent that sends on and on
    await line.dialogue.end(Cancel(TRANSFER))
    assert sum(line.waits) == CONFIRM_SECONDS_AT_MOST
    assert len(line.hung_up) == 1


async def test_an_end_is_said_once_and_is_the_last_word(line: Line) -> None:
    await line.asked()
    await line.dialogue.stop(Cancel(TRANSFER))
    await line.dialogue.stop(Cancel(TRANSFER))
    await line.dialogue.acknowledge(Ack(TRANSFER, 0, 10, 0))
    line.dialogue.hear(Abort(TRANSFER, "cancelled"))
    await line.dialogue.end(Abort(TRANSFER, "internal"))
    assert line.said == [Request(TRANSFER), Cancel(TRANSFER)]
    assert line.hung_up == []


@pytest.mark.parametrize("asked", [False, True])
async def test_who_was_not_asked_or_has_ended_it_is_not_told_to_stop(
    line: Line, asked: bool
) -> None:
    if asked:
        await line.asked()
        line.dialogue.hear(Abort(TRANSFER, "unreadable"))
    said = list(line.said)
    await line.dialogue.end(Cancel(TRANSFER))
    assert line.said == said


# The least rate


def test_a_trickle_is_too_slow_in_the_end() -> None:
    pace = Pace(least_rate=128)
    for _ in range(8):
        pace.brought(4096)  # 32 s of the least rate
        pace.waited(39)  # just before it would be silence
    pace.brought(4096)
    with pytest.raises(TooSlow, match="128 bytes/s"):
        pace.waited(39)


@pytest.mark.parametrize("length", [4096, 65536])
def test_at_the_least_rate_it_goes_on_for_ever(length: int) -> None:
    pace = Pace(least_rate=128)
    for _ in range(1000):
        pace.brought(length)
        pace.waited(length / 128)


def test_speed_cannot_be_saved_for_a_trickle_later() -> None:
    pace = Pace(least_rate=10_000)
    for _ in range(1000):
        pace.brought(1_000_000)
    with pytest.raises(TooSlow):
        pace.waited(GRACE_SECONDS + 1)


def test_the_time_before_the_first_chunk_is_not_counted() -> None:
    """The agent may have to read again what it sent in an earlier attempt."""
    Pace(least_rate=128).waited(10**6)


def test_no_rate_is_no_limit() -> None:
    pace = Pace(least_rate=0)
    pace.brought(1)
    pace.waited(10**6)


async def test_a_dialogue_counts_only_the_time_in_which_it_waits_for_the_agent(line: Line) -> None:
    line.dialogue = Dialogue(
        TRANSFER, line.reply, line.hang_up, line.pulse, line.time, least_rate=1.0
    )
    await line.asked()
    await line.dialogue.start(Start(TRANSFER, ((0, 10),), 10))
    for _ in range(3):
        line.dialogue.hear(Chunk(TRANSFER, 0, b"x"))
        line.time.now += 1000  # our disk hangs
        assert (await line.dialogue.next_batch(5.0))[0]
    line.waits.clear()
    with pytest.raises(TooSlow):
        await line.wait_in_vain_beside_another()
    assert GRACE_SECONDS <= sum(line.waits) <= GRACE_SECONDS + 10


def test_who_was_told_to_be_slow_may_be() -> None:
    """And no longer than that: then the rate counts that everybody has to bring."""
    pace = Pace(least_rate=10**6)
    pace.limit(2048)
    for _ in range(100):
        pace.brought(8192)
        pace.waited(4)
    pace.limit(None)
    with pytest.raises(TooSlow):
        pace.waited(61)


def test_a_high_limit_does_not_ask_for_more() -> None:
    pace = Pace(least_rate=128)
    pace.limit(10**9)
    for _ in range(1000):
        pace.brought(128)
        pace.waited(1)


async def test_when_all_has_come_only_silence_counts(line: Line) -> None:
    line.dialogue = Dialogue(
        TRANSFER, line.reply, line.hang_up, line.pulse, line.time, least_rate=1.0
    )
    await line.asked()
    await line.dialogue.start(Start(TRANSFER, ((0, 1),), 10))
    line.dialogue.hear(Chunk(TRANSFER, 0, b"x"))
    assert (await line.dialogue.next_batch(5.0))[0]
    for _ in range(50):
        line.pulse.beat(chunk=True)
        await line.dialogue.next_batch(5.0)
    with pytest.raises(Silence):
        await line.wait_in_vain_beside_another()
