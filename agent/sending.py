"""One transfer leaving: wire events in; chunks out. No socket in it.

The mirror of the server's intake. A `Sending` opens what is asked for, offers it, and sends the
ranges that it is told to, never more than the limit; reading runs ahead in a thread.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from .progress import Progress, progress_of, say
from .source import Policy, Source, SourceError, blocks
from .wire.display import shown
from .wire.errors import ERRORS
from .wire.messages import (
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

FAST_ACK_SECONDS = 0.1
SLOW_ACK_SECONDS = 0.5
"""An acknowledgement within the first lets chunks grow, one later than the second makes them shrink:
a ping or a cancel behind a chunk waits no longer than that."""

P = ParamSpec("P")
R = TypeVar("R")

Incoming = Start | Ack | Landed | Abort | Cancel
Outgoing = Offer | Chunk | End | Abort
Send = Callable[[Outgoing], Awaitable[None]]


class ChunkSizer:
    """How long the next chunk should be: from 64 KiB up to the most while acks come back fast."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.size = min(MIN_CHUNK, most)
        self._most = most
        self._clock = clock
        self._probe: tuple[int, float] | None = None
        """The end of a chunk, in bytes moved, and when it was sent."""

    def sent(self, moved: int) -> None:
        if self._probe is None:
            self._probe = moved, self._clock()

    def acked(self, received: int) -> None:
        if self._probe is None or received < self._probe[0]:
            return
        seconds = self._clock() - self._probe[1]
        self._probe = None
        if seconds < FAST_ACK_SECONDS:
            self.size = min(self.size * 2, self._most)
        elif seconds > SLOW_ACK_SECONDS:
            self.size = max(self.size // 2, MIN_CHUNK)


class Sending:
    """One request of the server; `flow` gives the session's byte accounts once it has started."""

    def __init__(
        self, request: Request, policy: Policy, send: Send, flow: Callable[[], Flow]
    ) -> None:
        self.request = request
        self._policy = policy
        self._send = send
        self._flow = flow
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[Start] = loop.create_future()
        self._landed: asyncio.Future[Landed] = loop.create_future()
        self._stopped: Abort | Cancel | None = None
        self._credit = asyncio.Event()
        self._source: Source | None = None
        self._sizer = ChunkSizer(MAX_CHUNK)
        # One thread: what is asked of it is done in order, and the digest wants the blocks in order.
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reading")
        self._work: asyncio.Task[None] | None = None

    def receive(self, message: Incoming) -> None:
        """A message of the server about this transfer, judged already."""
        match message:
            case Start():
                self._started.set_result(message)
            case Ack():
                self._sizer.acked(message.received)
                self._credit.set()
            case Landed():
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
            self._reader.submit(self._close_source)  # after the reads that are under way
            self._reader.shutdown(wait=False)

    def _open(self) -> Source:
        self._source = Source.open(self._policy, self.request.path)
        return self._source

    def _close_source(self) -> None:
        if self._source is not None:
            self._source.close()

    async def _confirm(self, message: Abort | Cancel) -> None:
        """The server wants no more: say that nothing more comes."""
        code, detail = "cancelled", ""
        if isinstance(message, Abort):
            code, detail = message.code, message.detail
        say(f"[client] Stopped by the server: {shown(detail or ERRORS[code].sentence)} ({code})")
        await self._send(Abort(self.request.transfer, code))

    async def _see_through(self) -> None:
        try:
            source = await self._read(self._open)
            start = await self._offer(source)
            await self._send_ranges(source, start)
            await self._end(source)
        except SourceError as error:
            detail = shown(error.detail)[:MAX_DETAIL]
            say(f"[client] Not sent: {detail} ({error.code})")
            await self._send(Abort(self.request.transfer, error.code, detail, self.request.path))

    def _read(
        self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[R]":
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._reader, lambda: function(*args, **kwargs))

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
        while not await self._read(source.hash_up_to, end):
            pass

    async def _read_ahead(
        self, source: Source, ranges: Iterable[tuple[int, int]]
    ) -> AsyncIterator[tuple[int, bytes]]:
        """The blocks of the ranges, in order, while the next ones are being read."""
        reads: deque[tuple[int, asyncio.Future[bytes]]] = deque()
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

    async def _send_block(self, offset: int, block: bytes, progress: Progress) -> None:
        """Cut a block into chunks, waiting for credit before each."""
        flow = self._flow()
        view = memoryview(block)
        while view:
            length = min(len(view), flow.sendable, self._sizer.size)
            if not length:
                self._credit.clear()
                await self._credit.wait()
                continue
            await self._send(Chunk(self.request.transfer, offset, view[:length]))
            self._sizer.sent(flow.moved)
            offset += length
            progress.update(offset)
            view = view[length:]

    async def _end(self, source: Source) -> None:
        await self._read(source.check_unchanged)
        sha256 = source.digest.hexdigest(source.size)
        say(f"[client] SHA256: {sha256}")
        await self._send(
            End(self.request.transfer, source.size, sha256, source.fingerprint, source.name)
        )
        say(f"[client] Uploading {shown(source.name)}: 100.0%")
        landed = await self._landed
        if landed.sha256 == sha256:
            say("[client] File sent successfully")
        else:  # the server has checked it, so it is this message that is wrong
            say(f"[client] Sent, but the server confirms another SHA256: {landed.sha256}")
