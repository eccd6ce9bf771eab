"""Two sessions joined by a fake link: whatever the timing, two that behave never blame each other.

The link is what TCP gives: each direction a queue that keeps its order, delayed at will, and cut at
any moment. A script of random bytes decides what happens next, so hypothesis can shrink it.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.wire.codec import encode
from agent.wire.errors import LocalProtocolError
from agent.wire.messages import (
    MIN_CHUNK,
    PROTOCOL,
    Abort,
    Ack,
    Cancel,
    Chunk,
    End,
    Heartbeat,
    Hello,
    Landed,
    Message,
    Offer,
    Request,
    Start,
    Welcome,
)
from agent.wire.session import Session, SourceDigest, Violation
from agent.wire.state import Link, Side, Stage

from .test_session import opened

UNDER_WAY = (Stage.REQUESTED, Stage.OFFERED, Stage.SENDING, Stage.ENDED)
Action = Callable[[int], None]


@dataclass
class Job:
    """One source and what the server has of it; it outlives the sessions."""

    source: bytes
    transfer: UUID
    assembled: bytearray = field(default_factory=bytearray)
    checkpoint: int = 0
    landed: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source).hexdigest()


class Pair:
    """An agent's and a server's session; each says only what its own side of the story allows."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = {job.transfer: job for job in jobs}
        self.connect()

    def connect(self) -> None:
        self.agent, self.server = Session(Side.AGENT), Session(Side.SERVER)
        self.agent.least_chunk = self.server.least_chunk = 1  # for many chunks of little files
        self.to_agent: deque[str | bytes] = deque()
        self.to_server: deque[str | bytes] = deque()

    def cut(self, keep: int) -> None:
        """What was on its way is lost, and what was written since the checkpoint maybe in part."""
        self.connect()
        for job in self.jobs.values():
            since = len(job.assembled) - job.checkpoint
            del job.assembled[job.checkpoint + keep % (since + 1) :]

    def say(self, message: Message, session: Session) -> None:
        queue = self.to_server if session is self.agent else self.to_agent
        queue.append(session.send(message))

    def deliver(self, session: Session) -> None:
        queue = self.to_agent if session is self.agent else self.to_server
        message = session.receive(queue.popleft())
        assert not isinstance(message, Violation), message.detail
        if isinstance(message, Chunk):
            job = self.jobs[message.transfer]
            assert message.offset == len(job.assembled)
            job.assembled += message.payload
            assert job.source.startswith(job.assembled)

    def progress(self) -> Iterator[Action]:
        """All that leads towards the end."""
        if self.to_agent:
            yield lambda _: self.deliver(self.agent)
        if self.to_server:
            yield lambda _: self.deliver(self.server)
        if self.agent.link is Link.NEW:
            hello = Hello(PROTOCOL, "", "", "")
            yield lambda _: self.say(hello, self.agent)
        if self.server.link is Link.GREETED:
            welcome = Welcome("client1", 15, MIN_CHUNK, "")
            yield lambda _: self.say(welcome, self.server)
        for job in self.jobs.values():
            if self.agent.link is Link.OPEN:
                yield from self.agent_progress(job)
            if self.server.link is Link.OPEN:
                yield from self.server_progress(job)

    def agent_progress(self, job: Job) -> Iterator[Action]:
        stage = self.agent.stage(job.transfer)
        if stage is Stage.REQUESTED:
            offer = Offer(job.transfer, "file", len(job.source), 0, "1-2-3")
            yield lambda _: self.say(offer, self.agent)
        elif stage is Stage.STOPPING:
            yield lambda _: self.say(Abort(job.transfer, "cancelled"), self.agent)
        elif stage is Stage.SENDING and self.agent.flow(job.transfer).finished:
            end = End(job.transfer, len(job.source), job.sha256, "1-2-3", "file")
            yield lambda _: self.say(end, self.agent)
        elif stage is Stage.SENDING and self.agent.flow(job.transfer).sendable:
            yield lambda amount: self.send_chunk(job, amount)

    def send_chunk(self, job: Job, amount: int) -> None:
        flow = self.agent.flow(job.transfer)
        length = 1 + amount % flow.sendable
        payload = memoryview(job.source)[flow.offset : flow.offset + length]
        self.say(Chunk(job.transfer, flow.offset, payload), self.agent)

    def server_progress(self, job: Job) -> Iterator[Action]:
        stage = self.server.stage(job.transfer)
        if stage in (Stage.IDLE, Stage.CLOSED) and not job.landed:
            yield lambda _: self.say(Request(job.transfer), self.server)
        elif stage is Stage.OFFERED:
            yield lambda amount: self.start(job, amount)
        elif stage is Stage.SENDING:
            yield lambda amount: self.ack(job, amount)
        elif stage is Stage.ENDED:
            yield lambda _: self.land(job)

    def start(self, job: Job, amount: int) -> None:
        """Ask for all from the checkpoint on, in one range or in two, with little credit or much."""
        del job.assembled[job.checkpoint :]
        left = len(job.source) - job.checkpoint
        first = amount % (left + 1)
        ranges = ((job.checkpoint, first), (job.checkpoint + first, left - first))
        self.say(
            Start(job.transfer, ranges if amount % 2 else ((job.checkpoint, left),), amount),
            self.server,
        )

    def ack(self, job: Job, amount: int) -> None:
        """Some of what has arrived is written, some of it is synced, and there is room for more."""
        flow = self.server.flow(job.transfer)
        received = flow.received + amount % (flow.moved - flow.received + 1)
        job.checkpoint += amount % (len(job.assembled) - job.checkpoint + 1)
        limit = max(flow.limit, received + amount)
        self.say(Ack(job.transfer, received, limit, job.checkpoint), self.server)

    def land(self, job: Job) -> None:
        digest = SourceDigest()
        digest.update(job.assembled)
        assert digest.hexdigest(len(job.source)) == job.sha256
        job.checkpoint, job.landed = len(job.assembled), True
        self.say(Landed(job.transfer, job.sha256), self.server)

    def interference(self) -> Iterator[Action]:
        """All that may happen besides."""
        yield self.cut
        for session in (self.agent, self.server):
            if session.link is not Link.OPEN:
                continue
            yield lambda _, session=session: self.say(Heartbeat(), session)  # type: ignore[misc]
            for transfer in self.jobs:
                if session.stage(transfer) in UNDER_WAY:
                    yield lambda amount, session=session, transfer=transfer: self.stop(  # type: ignore[misc]
                        transfer, session, amount
                    )

    def stop(self, transfer: UUID, session: Session, amount: int) -> None:
        cancels = session is self.server and amount % 2
        self.say(Cancel(transfer) if cancels else Abort(transfer, "timed_out"), session)

    def play(self, script: bytes) -> None:
        """Three bytes a step: whether to interfere, what to do, and how much of it."""
        for kind, choice, amount in zip(script[::3], script[1::3], script[2::3], strict=False):
            actions = list(self.interference() if kind < 30 else self.progress())
            if actions:
                actions[choice % len(actions)](amount)

    def finish(self) -> None:
        """Nothing interferes any more: everything lands, in a bounded number of steps."""
        turn = 0
        while not self.settled():
            turn += 1
            assert turn < 5_000, "the two wait for each other"
            actions = list(self.progress())
            actions[turn % len(actions)](turn % 251)

    def settled(self) -> bool:
        return (
            all(job.landed for job in self.jobs.values())
            and not self.to_agent
            and not self.to_server
            and not self.agent.open_transfers
        )


sources = st.binary(max_size=400)


@settings(max_examples=150)
@given(st.lists(sources, min_size=1, max_size=3), st.binary(min_size=300, max_size=1500))
@example([b"", b"x"], b"\xff" * 300)
def test_whatever_the_timing_every_source_lands_whole(contents: list[bytes], script: bytes) -> None:
    """No violation, no mistake of our own, always a prefix, and in the end every byte."""
    pair = Pair([Job(content, UUID(int=number)) for number, content in enumerate(contents)])
    pair.play(script)
    for job in pair.jobs.values():
        assert job.source.startswith(job.assembled)
        assert job.checkpoint <= len(job.assembled)
    pair.finish()
    for job in pair.jobs.values():
        assert bytes(job.assembled) == job.source
    assert pair.server.open_transfers == frozenset()


def chunks_of(source: bytes, cuts: list[int]) -> list[bytes]:
    """The source as an agent sends it, in chunks that begin and end at these cuts."""
    agent = started(opened(Side.AGENT), source)
    edges = sorted({0, len(source), *(cut % len(source) for cut in cuts)})
    said = [
        agent.send(Chunk(TRANSFER, first, source[first:last])) for first, last in pairwise(edges)
    ]
    sha256 = hashlib.sha256(source).hexdigest()
    said.append(agent.send(End(TRANSFER, len(source), sha256, "1", "file")))
    return [data if isinstance(data, bytes) else data.encode() for data in said]


TRANSFER = UUID(int=7)


def started(session: Session, source: bytes) -> Session:
    """This session, when the whole of the source has been asked for."""
    session.least_chunk, size = 1, len(source)
    for message in (Request(TRANSFER), Offer(TRANSFER, "file", size, 0, "1")):
        exchange(session, message)
    exchange(session, Start(TRANSFER, ((0, size),), 10 * size))
    return session


def exchange(session: Session, message: Message) -> None:
    agent_says = isinstance(message, Offer)
    if agent_says is (session.side is Side.AGENT):
        session.send(message)
    else:
        other = encode(message)
        assert session.receive(other) == message


def assembled_until_violation(said: list[bytes], source: bytes) -> tuple[bytes, bool]:
    """What a server takes from these messages, and whether it noticed that something is wrong."""
    server, assembled = started(opened(Side.SERVER), source), b""
    for data in said:
        message = server.receive(data.decode() if data.startswith(b"{") else data)
        if isinstance(message, Violation):
            return assembled, True
        if isinstance(message, Chunk):
            assembled += message.payload
    return assembled, False


CHUNKED = (st.binary(min_size=2, max_size=100), st.lists(st.integers(1, 99), min_size=1))


@given(*CHUNKED)
def test_an_untouched_stream_is_taken_whole(source: bytes, cuts: list[int]) -> None:
    assert assembled_until_violation(chunks_of(source, cuts), source) == (source, False)


def tampered(said: list[bytes], how: str, where: int) -> list[bytes]:
    """These messages, one of the chunks dropped, repeated, or moved; the last message is `end`."""
    place = where % (len(said) - 1)
    match how:
        case "dropped":
            return said[:place] + said[place + 1 :]
        case "repeated":
            return [*said[: place + 1], *said[place:]]
        case "repeated later":
            return [*said[:-1], said[place], said[-1]]
        case _:
            after = said[place + 1]
            return [*said[:place], after, said[place], *said[place + 2 :]]


@pytest.mark.parametrize("how", ["dropped", "repeated", "repeated later", "swapped"])
def test_a_stream_with_a_fault_is_noticed_and_never_taken(how: str) -> None:
    """TCP does none of this; a broken proxy or agent may."""

    @given(*CHUNKED, st.integers(0, 99))
    def noticed(source: bytes, cuts: list[int], where: int) -> None:
        said = tampered(chunks_of(source, cuts), how, where)
        assembled, violated = assembled_until_violation(said, source)
        assert violated
        assert source.startswith(assembled)

    noticed()


@pytest.mark.parametrize("stopper", [Cancel(UUID(int=0)), Abort(UUID(int=0), "expired")])
def test_what_was_on_its_way_is_never_taken_for_the_next_attempt(stopper: Message) -> None:
    """Only when the agent has confirmed may the server ask again."""
    job = Job(b"0123456789", UUID(int=0))
    pair = Pair([job])
    while pair.server.stage(job.transfer) is not Stage.SENDING or pair.to_agent:
        next(pair.progress())(11)
    pair.send_chunk(job, 3)
    pair.say(stopper, pair.server)
    pair.send_chunk(job, 3)
    with pytest.raises(LocalProtocolError):
        pair.say(Request(job.transfer), pair.server)
    pair.finish()
    assert bytes(job.assembled) == job.source


def test_an_abort_that_crosses_the_landing_is_never_taken_for_the_next_attempt() -> None:
    """The agent gave up waiting just when the server landed; the server asks for it again."""
    job = Job(b"", UUID(int=0))
    pair = Pair([job])
    while pair.server.stage(job.transfer) is not Stage.ENDED:
        next(pair.progress())(11)
    pair.say(Abort(job.transfer, "timed_out"), pair.agent)
    pair.land(job)
    with pytest.raises(LocalProtocolError):  # the file was lost, say, and somebody wants it again
        pair.say(Request(job.transfer), pair.server)
    pair.finish()
    assert pair.server.stage(job.transfer) is Stage.LANDED
    assert pair.agent.stage(job.transfer) is Stage.CLOSED
