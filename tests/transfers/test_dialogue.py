"""How long an agent is waited for, and what its silence means."""

import asyncio
from uuid import UUID

import pytest

from agent.wire.messages import Abort, Ack, Cancel, Chunk, Offer, Request, Start
from transfers.dialogue import (
    ANSWER_SECONDS,
    CONFIRM_SECONDS,
    HASHING_RATE,
    Dialogue,
    Outgoing,
    Pulse,
    Silence,
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
