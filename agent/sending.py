"""One transfer leaving: wire events in; chunks out. No socket in it.

The mirror of the server's intake. A `Sending` opens what is asked for, offers it, and sends the
ranges that it is told to, never more than the limit; reading runs ahead in a thread.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import ParamSpec, TypeVar

from .compression import Packer
from .gate import Gate, Visit
from .gate.reading import Block
from .gate.source import Source, SourceError, blocks
from .in_flight import BLOCKED_SECONDS, Uplink
from .in_order import InOrder
from .progress import Progress, progress_of, say
from .wire.display import shown
from .wire.errors import ERRORS
from .wire.messages import (
    CODEC_ZSTD,
    LEAST_CHUNK,
    MAX_CHUNK,
    MAX_DETAIL,
    MIN_CHUNK,
    Abort,
    Ack,
    Cancel,
    Chunk,
    End,
    Landed,
    Offer,
    Request,
    Start,
)
from .wire.session import Flow

READ_AHEAD = 2
"""Blocks that are read before they are sent: enough to keep disk and socket busy together."""

MAX_SHOWN = 255
"""Characters of a path that was asked for in vain, on the console; the journal has more."""

CHUNK_SECONDS = 0.15
"""How long a chunk should be on the wire: a ping or a cancel waits behind it. In source bytes it is longer
where it is compressed, which the ratio gains by."""

SHORTEST_CHUNK = 16 * 1024
"""On the slowest of links: below it, headers and the round trips that they take begin to count."""

P = ParamSpec("P")
R = TypeVar("R")

Incoming = Start | Ack | Landed | Abort | Cancel
Outgoing = Offer | Chunk | End | Abort
Send = Callable[[Outgoing], Awaitable[None]]


def chunk_length(rate: float | None, ratio: float, most: int = MAX_CHUNK) -> int:
    """Source bytes of the next chunk, on a link of so many wire bytes a second.

    `ratio`: source bytes for each of those.
    """
    if rate is None:
        return min(MIN_CHUNK, most)
    return int(min(max(rate * CHUNK_SECONDS * ratio, SHORTEST_CHUNK), most))


def cut(left: int, most: int) -> int:
    """Bytes of the next chunk of a block that has so many left; 0: more credit has to come first.

    Neither it nor what is left for the ones after it is shorter than a chunk in a range may be.
    """
    length = min(left, most)
    if 0 < left - length < LEAST_CHUNK:
        length = left - LEAST_CHUNK
    return length if length >= min(left, LEAST_CHUNK) else 0


class Sending:
    """One request of the server; `flow` gives the session's byte accounts once it has started."""

    def __init__(
        self, request: Request, gate: Gate, send: Send, flow: Callable[[], Flow], uplink: Uplink
    ) -> None:
        self.request = request
        self._gate = gate
        self._visit = Visit(gate, request)
        self._send = send
        self._flow = flow
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[Start] = loop.create_future()
        self._landed: asyncio.Future[Landed] = loop.create_future()
        self._stopped: Abort | Cancel | None = None
        self._lane = uplink.lane()
        self._packer = Packer()
        self._wire = 0
        """Bytes of payloads that were sent."""
        self._share = gate.pace.share()
        self._reader = InOrder()  # as the digest wants the blocks
        self._work: asyncio.Task[None] | None = None

    def receive(self, message: Incoming) -> None:
        """A message of the server about this transfer, judged already."""
        match message:
            case Start():
                self._share.limit(message.rate_limit)
                self._started.set_result(message)
            case Ack():
                self._share.limit(message.rate_limit)
                self._lane.acked(message.received)
            case Landed():
                if (
                    self._lane.uplink.rate is None
                ):  # so short a file that nothing else says how fast
                    self._lane.acked(self._visit.sent)
                self._landed.set_result(message)
            case Abort() | Cancel():
                self._stopped = message
                if self._work is not None:
                    self._work.cancel()  # at its next step, so that it says no word more

    async def run(self) -> None:
        """Send the file; returns when the transfer has ended in one way or another."""
        self._work = asyncio.create_task(self._see_through())
        if self._stopped is not None:
            self._work.cancel()
        try:
            await self._work
        except asyncio.CancelledError:
            if self._stopped is None:
                raise  # the link is lost, or the agent stops
            await self._confirm(self._stopped)
        finally:
            self._work.cancel()
            self._lane.close()
            self._reader.submit(self._visit.close)  # after the reads that are under way

    async def _confirm(self, message: Abort | Cancel) -> None:
        """The server wants no more: say that nothing more comes."""
        code, detail = "cancelled", ""
        if isinstance(message, Abort):
            code, detail = message.code, message.detail
        self._visit.ended_by = code
        say(f"[client] Stopped by the server: {shown(detail or ERRORS[code].sentence)} ({code})")
        await self._send(Abort(self.request.transfer, code))

    async def _see_through(self) -> None:
        try:
            await self._gate.enter()
            try:
                await self._serve()
            finally:
                self._gate.leave()
        except SourceError as error:
            await self._read(self._visit.fail, error)
            asked = shown((self.request.path or "the agent's file")[:MAX_SHOWN])
            say(f"[client] Not sent: {asked}: {shown(error.reason)} ({error.code})")
            await self._gate.refusals.take()
            detail = shown(error.detail)[:MAX_DETAIL]
            await self._send(Abort(self.request.transfer, error.code, detail, self.request.path))

    async def _serve(self) -> None:
        source = await self._read(self._visit.open)
        start = await self._offer(source)
        await self._send_ranges(source, start)
        await self._end(source)

    def _read(
        self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[R]":
        return asyncio.wrap_future(self._reader.submit(lambda: function(*args, **kwargs)))

    async def _offer(self, source: Source) -> Start:
        await self._send(
            Offer(
                self.request.transfer,
                source.name,
                source.size,
                source.mtime_ns,
                source.fingerprint,
                self.request.path,
            )
        )
        start = await self._started
        say(f"[client] Sending file: {shown(source.name)} ({source.size} bytes)")
        if first := start.ranges[0][0]:
            say(f"[client] Resuming at byte {first}")
        return start

    async def _send_ranges(self, source: Source, start: Start) -> None:
        """Read, hash and send; a digest of the whole source needs what is not sent, too."""
        first = start.ranges[0][0]
        progress = progress_of(source.name, source.size, first)
        try:
            await self._hash_up_to(source, first)
            async for offset, block in self._read_ahead(source, start.ranges):
                await self._send_block(offset, block, progress)
            await self._hash_up_to(source, source.size)
        finally:
            progress.close()

    async def _hash_up_to(self, source: Source, end: int) -> None:
        while source.digest.position < end:
            await self._read(source.hash_up_to, end)

    async def _read_ahead(
        self, source: Source, ranges: Iterable[tuple[int, int]]
    ) -> AsyncIterator[tuple[int, Block]]:
        """The blocks of the ranges, in order, while the next ones are being read."""
        reads: deque[tuple[int, asyncio.Future[Block]]] = deque()
        try:
            for offset, length in blocks(ranges):
                reads.append((offset, self._read(source.read, offset, length)))
                if len(reads) > READ_AHEAD:
                    first, read = reads.popleft()
                    yield first, await read
            while reads:
                first, read = reads.popleft()
                yield first, await read
        finally:
            for _, read in reads:
                if not read.cancel() and not read.cancelled():
                    read.exception()  # looked at: or asyncio would log it as never retrieved

    async def _send_block(self, offset: int, block: Block, progress: Progress) -> None:
        """Cut a block into chunks, waiting for credit, for room on the link and for our turn before each."""
        flow = self._flow()
        view = memoryview(block)
        while view:
            turn = self._share.most(MAX_CHUNK)
            length = cut(len(view), self._most(flow, turn)) if self._lane.has_room else 0
            if not length:
                await self._lane.wait()
                continue
            chunk = await self._pack(offset, view[:length])
            async with self._share:
                if self._share.most(MAX_CHUNK) < turn:
                    continue  # the rate fell meanwhile: what was cut for the old one is too long
                self._share.pay(len(chunk.payload))
                await self._send_chunk(chunk)
            offset += length
            progress.update(offset)
            view = view[length:]

    def _most(self, flow: Flow, turn: int) -> int:
        """Source bytes of the next chunk at most, where our turn is so many bytes on the wire."""
        ratio = self._packer.choice.ratio
        return min(flow.sendable, chunk_length(self._rate, ratio), int(turn * ratio))

    @property
    def _rate(self) -> float | None:
        """Wire bytes a second that the link takes of us; None: not known yet."""
        return min(filter(None, (self._lane.uplink.rate, self._share.rate)), default=None)

    async def _pack(self, offset: int, data: memoryview) -> Chunk:
        """The next chunk, compressed where the server takes that and it pays."""
        choice = self._packer.choice
        level = None
        if self._flow().codec == CODEC_ZSTD:
            level = choice.level(self._rate, full=self._lane.uplink.is_full)
        if level is not None:
            packed = await self._read(self._packer.pack, data, level)
            if packed is not None:
                return Chunk(self.request.transfer, offset, packed, CODEC_ZSTD, len(data))
        else:
            choice.went_raw(len(data))
        return Chunk(self.request.transfer, offset, data)

    async def _send_chunk(self, chunk: Chunk) -> None:
        wire = len(chunk.payload)
        self._visit.sent += chunk.length
        self._wire += wire
        since = time.monotonic()
        self._lane.sends(self._flow().moved + chunk.length, wire)
        await self._send(chunk)
        if time.monotonic() - since > BLOCKED_SECONDS:
            self._lane.uplink.full()

    async def _end(self, source: Source) -> None:
        await self._read(source.check_unchanged)
        sha256 = source.digest.hexdigest(source.size)
        say(f"[client] SHA256: {sha256}")
        await self._send(
            End(self.request.transfer, source.size, sha256, source.fingerprint, source.name)
        )
        say(f"[client] Uploading {shown(source.name)}: 100.0%")
        landed = await self._landed
        self._visit.sha256 = sha256
        if landed.sha256 == sha256:
            say(f"[client] File sent successfully{self._saved()}")
        else:  # the server has checked it, so it is this message that is wrong
            say(f"[client] Sent, but the server confirms another SHA256: {landed.sha256}")

    def _saved(self) -> str:
        """What compression has spared the link, for the person who watches."""
        sent = self._visit.sent
        if self._wire == sent:
            return ""
        return f" ({self._wire / 1e6:.1f} MB for {sent / 1e6:.1f} MB)"
