"""One transfer leaving the agent, joined in memory to the server's end of the conversation."""

import asyncio
import contextlib
import gc
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.gate import Gate
from agent.gate.policy import Place, Policy, Root
from agent.gate.reading import Block
from agent.gate.source import BLOCK, Source
from agent.in_flight import Uplink
from agent.sending import SHORTEST_CHUNK, Outgoing, Sending, chunk_length, cut
from agent.wire.messages import (
    LEAST_CHUNK,
    MAX_CHUNK,
    MIN_CHUNK,
    PROTOCOL,
    Abort,
    Ack,
    Cancel,
    Chunk,
    End,
    Hello,
    Landed,
    Message,
    Offer,
    Request,
    Start,
    Welcome,
)
from agent.wire.session import Session, Violation
from agent.wire.state import Side, Stage
from tests.agent.servers import gate

pytestmark = pytest.mark.timeout(60)

TRANSFER = UUID("12345678-1234-5678-1234-567812345678")
PLENTY = 2**40


class Joined:
    """A sending and the server's end of its conversation. Both ends judge every message."""

    def __init__(self, policy: Policy, path: str | None = None, max_chunk: int = MAX_CHUNK) -> None:
        self.agent = Session(Side.AGENT)
        self.server = Session(Side.SERVER)
        self.server.receive(self.agent.send(Hello(PROTOCOL, "1", "test", "till-1")))
        self.agent.receive(self.server.send(Welcome("client1", 30, max_chunk, "")))
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        self._limit = self._arrived = 0
        self._rate_limit: int | None = None
        request = Request(TRANSFER, path)
        self.agent.receive(self.server.send(request))
        flow = partial(self.agent.flow, TRANSFER)
        self.sending = Sending(request, gate(policy), self._send, flow, Uplink())
        self.running = asyncio.create_task(self.sending.run())

    async def _send(self, message: Outgoing) -> None:
        heard = self.server.receive(self.agent.send(message))
        assert not isinstance(heard, Violation), heard
        if heard is not None:
            self.heard.put_nowait(heard)
        await asyncio.sleep(0)  # as a socket does, let others have their turn

    def say(self, message: Start | Ack | Landed | Abort | Cancel) -> None:
        if isinstance(message, Start | Ack):
            self._limit, self._rate_limit = message.limit, message.rate_limit
        taken = self.agent.receive(self.server.send(message))
        assert not isinstance(taken, Violation), taken
        if taken is not None:
            self.sending.receive(message)

    async def hear(self) -> Message:
        """The next message; a chunk is acknowledged at once, without more credit than there was."""
        async with asyncio.timeout(20):
            message = await self.heard.get()
        if isinstance(message, Chunk):
            self._arrived += message.length
            if self.server.stage(TRANSFER) in (Stage.SENDING, Stage.ENDED):
                self.say(Ack(TRANSFER, self._arrived, self._limit, 0, self._rate_limit))
        return message

    async def offer(self) -> Offer:
        offer = await self.hear()
        assert isinstance(offer, Offer)
        return offer

    async def start(self, offset: int = 0, limit: int = PLENTY) -> Offer:
        """Let it send from an offset to the end."""
        offer = await self.offer()
        self.say(Start(TRANSFER, ((offset, offer.size - offset),), limit))
        return offer

    async def chunks(self, length: int) -> bytes:
        """So many bytes, exactly, from chunks."""
        data = b""
        while len(data) < length:
            chunk = await self.hear()
            assert isinstance(chunk, Chunk)
            data += chunk.payload
        assert len(data) == length
        return data

    async def whole(self) -> End:
        """Start it from 0, and hear all of it."""
        await self.start()
        while isinstance(message := await self.hear(), Chunk):
            pass
        assert isinstance(message, End)
        return message

    async def is_quiet(self) -> bool:
        """Whether nothing more comes; that nothing will can be told only by waiting."""
        await asyncio.sleep(0.1)
        return self.heard.empty()

    async def land(self, whole: bytes) -> None:
        """Hear the end, check it, and let the transfer land."""
        end = await self.hear()
        assert isinstance(end, End)
        assert (end.size, end.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
        self.say(Landed(TRANSFER, end.sha256))
        await self.ended()

    async def ended(self) -> None:
        async with asyncio.timeout(20):
            await self.running
        assert not self.agent.open_transfers
        assert not self.server.open_transfers
        assert await self.is_quiet()


@contextlib.asynccontextmanager
async def joined(
    policy: Policy, path: str | None = None, max_chunk: int = MAX_CHUNK
) -> AsyncIterator[Joined]:
    joined = Joined(policy, path, max_chunk)
    try:
        yield joined
    finally:
        joined.running.cancel()
        await asyncio.wait([joined.running])


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a test leaves behind is complained about in this test, not in the middle of another."""
    yield
    gc.collect()


@pytest.fixture
def data() -> bytes:
    return os.urandom(3 * BLOCK + 12345)


@pytest.fixture
def file(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "data.bin"
    file.write_bytes(data)
    return file


# The file arrives


async def test_a_whole_file_is_sent(
    file: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the person who watches reads the lines of the README."""
    async with joined(Policy(file)) as it:
        offer = await it.start()
        assert (offer.name, offer.size) == ("data.bin", len(data))
        assert await it.chunks(len(data)) == data
        await it.land(data)
    sending, *tenths, digest, whole, success = capsys.readouterr().err.splitlines()
    assert sending == f"[client] Sending file: data.bin ({len(data)} bytes)"
    assert all(tenth.startswith("[client] Uploading data.bin: ") for tenth in tenths)
    assert digest == f"[client] SHA256: {hashlib.sha256(data).hexdigest()}"
    assert whole == "[client] Uploading data.bin: 100.0%"
    assert success == "[client] File sent successfully"


async def test_it_says_the_fingerprint_again_at_the_end(file: Path, data: bytes) -> None:
    async with joined(Policy(file)) as it:
        offer = await it.start()
        await it.chunks(len(data))
        end = await it.hear()
        assert isinstance(end, End)
        assert end.fingerprint == offer.fingerprint


async def test_success_is_said_only_once_the_server_has_it(
    file: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    async with joined(Policy(file)) as it:
        await it.start()
        await it.chunks(len(data))
        assert isinstance(await it.hear(), End)
        assert await it.is_quiet()
        assert not it.running.done()
        assert "successfully" not in capsys.readouterr().err


@pytest.mark.parametrize("offset", [1, BLOCK - 1, 2 * BLOCK, 3 * BLOCK + 12344, 3 * BLOCK + 12345])
async def test_a_resume_sends_the_rest_and_the_digest_still_covers_the_whole(
    file: Path, data: bytes, offset: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async with joined(Policy(file)) as it:
        await it.start(offset)
        assert await it.chunks(len(data) - offset) == data[offset:]
        await it.land(data)
    assert f"[client] Resuming at byte {offset}" in capsys.readouterr().err


async def test_several_ranges_are_sent_in_their_order(file: Path, data: bytes) -> None:
    """Repair, one day: the agent sends what it is asked for, and the digest covers the gaps."""
    ranges = ((10, 0), (100, 50), (BLOCK, BLOCK + 7), (len(data) - 3, 3))
    async with joined(Policy(file)) as it:
        await it.offer()
        it.say(Start(TRANSFER, ranges, PLENTY))
        expected = b"".join(data[offset : offset + length] for offset, length in ranges)
        assert await it.chunks(len(expected)) == expected
        await it.land(data)


async def test_a_file_of_zero_bytes_is_sent(file: Path) -> None:
    file.write_bytes(b"")
    async with joined(Policy(file)) as it:
        offer = await it.start(limit=0)
        assert offer.size == 0
        await it.land(b"")


async def test_a_path_below_a_root_is_sent(file: Path, data: bytes) -> None:
    async with joined(Policy(roots=[Root.whole(file.parent)]), "data.bin") as it:
        await it.start()
        await it.chunks(len(data))
        await it.land(data)


async def test_chunks_are_no_longer_than_the_server_takes(file: Path, data: bytes) -> None:
    async with joined(Policy(file), max_chunk=MIN_CHUNK) as it:
        await it.start()
        moved = 0
        while moved < len(data):
            chunk = await it.hear()
            assert isinstance(chunk, Chunk)
            assert chunk.length <= MIN_CHUNK
            moved += chunk.length
            it.say(Ack(TRANSFER, moved, PLENTY, 0))
        await it.land(data)


async def test_chunks_grow_while_acks_come_back_fast(file: Path, data: bytes) -> None:
    lengths: list[int] = []
    async with joined(Policy(file)) as it:
        await it.start()
        while sum(lengths) < len(data):
            chunk = await it.hear()
            assert isinstance(chunk, Chunk)
            lengths.append(chunk.length)
            it.say(Ack(TRANSFER, sum(lengths), PLENTY, 0))
        await it.land(data)
    assert lengths[0] == MIN_CHUNK
    assert MIN_CHUNK < max(lengths) <= MAX_CHUNK


# Credit


async def test_no_byte_is_sent_before_the_server_starts_it(file: Path) -> None:
    async with joined(Policy(file)) as it:
        await it.offer()
        assert await it.is_quiet()


async def test_no_byte_is_sent_without_credit(file: Path) -> None:
    async with joined(Policy(file)) as it:
        await it.start(limit=0)
        assert await it.is_quiet()


async def test_it_stops_at_the_limit_and_goes_on_when_an_ack_comes(file: Path, data: bytes) -> None:
    async with joined(Policy(file)) as it:
        await it.start(limit=100_000)
        assert await it.chunks(100_000) == data[:100_000]
        assert await it.is_quiet()
        it.say(Ack(TRANSFER, 100_000, 105_000, 0))
        assert await it.chunks(5000) == data[100_000:105_000]
        assert await it.is_quiet()
        it.say(Ack(TRANSFER, 105_000, PLENTY, 0))
        assert await it.chunks(len(data) - 105_000) == data[105_000:]
        await it.land(data)


async def test_credit_that_is_too_short_for_a_chunk_is_kept_for_a_longer_one(
    file: Path, data: bytes
) -> None:
    async with joined(Policy(file)) as it:
        await it.start(limit=LEAST_CHUNK - 1)
        assert await it.is_quiet()
        it.say(Ack(TRANSFER, 0, LEAST_CHUNK, 0))
        assert await it.chunks(LEAST_CHUNK) == data[:LEAST_CHUNK]
        it.say(Ack(TRANSFER, LEAST_CHUNK, PLENTY, 0))
        assert await it.chunks(len(data) - LEAST_CHUNK) == data[LEAST_CHUNK:]
        await it.land(data)


@given(left=st.integers(1, 3 * LEAST_CHUNK), most=st.integers(0, 3 * LEAST_CHUNK))
def test_no_chunk_of_a_block_and_no_rest_of_it_is_too_short(left: int, most: int) -> None:
    length = cut(left, most)
    assert length <= most
    assert length == left or length == 0 or LEAST_CHUNK <= length <= left - LEAST_CHUNK
    if most >= min(left, 2 * LEAST_CHUNK):
        assert length, "there is credit enough"


async def test_credit_counts_from_start_and_not_from_the_beginning_of_the_file(
    file: Path, data: bytes
) -> None:
    async with joined(Policy(file)) as it:
        await it.start(offset=2 * BLOCK, limit=5000)
        assert await it.chunks(5000) == data[2 * BLOCK : 2 * BLOCK + 5000]
        assert await it.is_quiet()


# It ends otherwise


@pytest.mark.parametrize("stage", ["requested", "offered", "sending", "ended"])
async def test_a_cancel_is_confirmed_and_nothing_comes_after(
    file: Path, data: bytes, stage: str
) -> None:
    async with joined(Policy(file)) as it:
        if stage == "offered":
            await it.offer()
        elif stage == "sending":
            await it.start(limit=100_000)
            await it.chunks(100_000)
        elif stage == "ended":
            await it.start()
            await it.chunks(len(data))
            assert isinstance(await it.hear(), End)
        it.say(Cancel(TRANSFER))
        assert await it.hear() == Abort(TRANSFER, "cancelled")
        await it.ended()


async def test_a_cancel_in_full_flow_is_the_last_word(file: Path) -> None:
    """No chunk follows it, whatever was read ahead."""
    async with joined(Policy(file)) as it:
        await it.start()
        assert isinstance(await it.hear(), Chunk)
        it.say(Cancel(TRANSFER))
        while isinstance(message := await it.hear(), Chunk):
            pass
        assert message == Abort(TRANSFER, "cancelled")
        await it.ended()


async def test_an_abort_of_the_server_is_confirmed_with_its_code(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with joined(Policy(file)) as it:
        await it.start(limit=5000)
        await it.chunks(5000)
        it.say(Abort(TRANSFER, "storage_full", "no space \x1b[2J"))
        assert await it.hear() == Abort(TRANSFER, "storage_full")
        await it.ended()
    assert "no space \\x1b[2J (storage_full)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("gone", "not_found"),
        ("/etc/passwd", "forbidden"),
        (".", "not_a_file"),
        (None, "forbidden"),
        ("x" * 4000, "not_found"),
    ],
)
async def test_what_cannot_be_had_is_refused_with_its_code(
    file: Path, path: str | None, code: str
) -> None:
    async with joined(Policy(roots=[Root.whole(file.parent)]), path) as it:
        refusal = await it.hear()
        assert isinstance(refusal, Abort)
        if path and len(path) < 4000:
            assert refusal.code == code
        assert refusal.detail
        await it.ended()


async def test_a_file_that_changes_while_it_is_sent_is_not_finished(
    file: Path, data: bytes
) -> None:
    async with joined(Policy(file)) as it:
        await it.start(limit=100_000)
        await it.chunks(100_000)
        os.utime(file, ns=(1, 1))
        it.say(Ack(TRANSFER, 100_000, PLENTY, 0))
        await it.chunks(len(data) - 100_000)
        refusal = await it.hear()
        assert isinstance(refusal, Abort)
        assert refusal.code == "source_changed"
        await it.ended()


async def shrink(it: Joined, file: Path) -> None:
    """Let the file shrink while it is sent, and hear that it did."""
    await it.start(limit=BLOCK)
    await it.chunks(BLOCK)
    os.truncate(file, BLOCK)
    it.say(Ack(TRANSFER, BLOCK, PLENTY, 0))
    while isinstance(refusal := await it.hear(), Chunk):
        pass
    assert isinstance(refusal, Abort)
    assert refusal.code == "source_changed"
    await it.ended()


async def test_a_file_that_shrinks_while_it_is_sent_is_not_finished(file: Path) -> None:
    os.truncate(file, 8 * BLOCK)
    async with joined(Policy(file)) as it:
        await shrink(it, file)


async def test_a_file_that_shrinks_leaves_no_traceback_in_the_log(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reads ahead fail, too; nobody waits for them, and that is no error."""
    os.truncate(file, 8 * BLOCK)
    async with joined(Policy(file)) as it:
        await shrink(it, file)
    gc.collect()  # which is when Python complains
    assert "never retrieved" not in caplog.text


async def test_a_lost_link_is_no_cancel(file: Path) -> None:
    """The link cancels the task; nothing more is said, for there is no one to say it to."""
    async with joined(Policy(file)) as it:
        await it.start(limit=0)
        it.running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await it.running
        assert await it.is_quiet()


# The limits of the policy


async def test_the_rate_of_the_policy_is_kept(file: Path, data: bytes) -> None:
    """A lower bound of time: what the limit allows and a short burst, and never more."""
    async with joined(Policy(file, rate_limit=4 * 2**20)) as it:
        began = time.monotonic()
        await it.start()
        await it.chunks(len(data))
        assert time.monotonic() - began >= (len(data) - 2**20) / (4 * 2**20)
        await it.land(data)


@pytest.mark.parametrize("size", [4097, 6000, 8193, 10_000, 12_289, 16_385])
async def test_a_file_of_any_size_comes_to_its_end_at_a_low_rate(tmp_path: Path, size: int) -> None:
    """Neither a chunk nor what is left for the next may be too short."""
    file, data = tmp_path / "small", os.urandom(size)
    file.write_bytes(data)
    async with joined(Policy(file, rate_limit=64 * 1024)) as it:
        await it.start()
        assert await it.chunks(size) == data
        await it.land(data)


async def test_the_server_can_make_it_slower_and_faster_in_the_middle(
    file: Path, data: bytes
) -> None:
    """Without a limit of its own; the slow part would take most of an hour."""
    async with joined(Policy(file)) as it:
        offer = await it.offer()
        it.say(Start(TRANSFER, ((0, offer.size),), PLENTY, rate_limit=1024))
        first = await it.hear()
        assert isinstance(first, Chunk)
        assert first.length == 8192
        began = time.monotonic()
        second = await it.hear()
        assert isinstance(second, Chunk)
        assert time.monotonic() - began >= 4
        arrived = first.length + second.length
        it.say(Ack(TRANSFER, arrived, PLENTY, 0, rate_limit=None))
        await it.chunks(len(data) - arrived)
        await it.land(data)


async def test_a_cancel_does_not_wait_for_the_rate(file: Path) -> None:
    async with joined(Policy(file, rate_limit=1024)) as it:
        await it.start()
        await it.hear()
        it.say(Cancel(TRANSFER))
        assert await it.hear() == Abort(TRANSFER, "cancelled")
        await it.ended()


async def test_a_file_that_is_larger_than_the_policy_allows_is_not_offered(
    file: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server does not learn how large it may be; the person who watches does."""
    async with joined(Policy(file, max_file_size=len(data) - 1)) as it:
        refusal = await it.hear()
        assert isinstance(refusal, Abort)
        assert (refusal.code, str(len(data)) in refusal.detail) == ("too_large", False)
        await it.ended()
    assert f"max_file_size of the policy is {len(data) - 1}" in capsys.readouterr().err
    async with joined(Policy(file, max_file_size=len(data))) as it:
        await it.offer()


# Nothing stays behind


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """Every source that is opened from now on."""
    opened: list[Source] = []
    really_init = Source.__init__

    def watched(self: Source, *facts: Any) -> None:
        really_init(self, *facts)
        opened.append(self)

    monkeypatch.setattr(Source, "__init__", watched)
    return opened


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator["Disk"]:
    disk = Disk()
    really_read = Source.read

    def read(self: Source, offset: int, length: int) -> Block:
        disk.wait()
        return really_read(self, offset, length)

    monkeypatch.setattr(Source, "read", read)
    yield disk
    disk.turning.set()


class Disk:
    """A disk that can be held up."""

    def __init__(self) -> None:
        self.turning = threading.Event()
        self.turning.set()
        self.awaited = threading.Event()

    def wait(self) -> None:
        self.awaited.set()
        assert self.turning.wait(20)

    async def asked(self) -> None:
        assert await asyncio.to_thread(self.awaited.wait, 20)


async def is_closed(source: Source) -> bool:
    """Whether the file is closed soon: a thread does it, after the reads that are under way."""
    for _ in range(50):
        if source._descriptor < 0:
            return True
        await asyncio.sleep(0.01)
    os.close(source._descriptor)
    return False


async def test_the_file_is_closed_after_it_was_sent(file: Path, sources: list[Source]) -> None:
    """An agent stays online for months: a descriptor left open now and then is its end."""
    busy = Disk()
    async with joined(Policy(file)) as it:
        end = await it.whole()
        busy.turning.clear()
        it.sending._reader.submit(busy.wait)  # the thread has not yet come to closing the file
        it.say(Landed(TRANSFER, end.sha256))
        await it.ended()
        busy.turning.set()
    assert await is_closed(sources[0])


async def test_the_file_is_closed_after_a_cancel_while_the_disk_is_slow(
    file: Path, sources: list[Source], disk: Disk
) -> None:
    disk.turning.clear()
    async with joined(Policy(file)) as it:
        await it.start()
        await disk.asked()
        it.say(Cancel(TRANSFER))
        assert await it.hear() == Abort(TRANSFER, "cancelled")
        await it.ended()
        disk.turning.set()
    assert await is_closed(sources[0])


async def test_a_file_that_takes_long_to_open_is_closed_after_a_cancel(
    file: Path, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    disk.turning.clear()
    really_open = Gate.open

    def opening(self: Gate, path: str | None) -> tuple[Source, Place]:
        disk.wait()
        return really_open(self, path)

    monkeypatch.setattr(Gate, "open", opening)
    async with joined(Policy(file)) as it:
        await disk.asked()
        it.say(Cancel(TRANSFER))
        await it.running
        disk.turning.set()
        async with asyncio.timeout(20):
            while not sources:
                await asyncio.sleep(0.01)
        assert await is_closed(sources[0])


async def test_a_cancel_does_not_wait_for_a_slow_disk(file: Path, disk: Disk) -> None:
    disk.turning.clear()
    async with joined(Policy(file)) as it:
        await it.start()
        await disk.asked()
        it.say(Cancel(TRANSFER))
        assert await it.hear() == Abort(TRANSFER, "cancelled")


async def test_a_link_lost_at_once_leaves_no_work_behind(file: Path) -> None:
    """A request and the end of the link in one packet: the task is cancelled before its first step."""
    async with joined(Policy(file)) as it:
        it.running.cancel()
        await asyncio.wait([it.running])
        assert await it.is_quiet(), "it offers a file to nobody"


# The length of chunks


@pytest.mark.parametrize(
    ("rate", "ratio", "length"),
    [
        (None, 1.0, 64 * 1024),
        (1e9, 1.0, MAX_CHUNK),
        (1e6, 1.0, 150_000),
        (1e6, 2.0, 300_000),
        (1e6, 5.0, MAX_CHUNK),
        (10.0, 1.0, SHORTEST_CHUNK),
    ],
)
def test_a_chunk_is_short_in_time_and_long_in_what_it_has(
    rate: float | None, ratio: float, length: int
) -> None:
    assert chunk_length(rate, ratio) == length


def test_a_chunk_is_never_longer_than_the_server_takes() -> None:
    assert chunk_length(None, 1.0, most=1000) == chunk_length(1e9, 9.0, most=1000) == 1000
