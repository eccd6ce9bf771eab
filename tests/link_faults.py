"""What can happen to the bytes of one way of a link: held, slowed, delayed, spoiled, counted.

Everything here runs in the link's loop. A place in the stream is always the number of bytes of that
way that have been passed on before it, over all connections.
"""

import asyncio
import socket
import threading
from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal

BLOCK = 64 * 1024  # bytes read, and at most passed on, at once
IN_FLIGHT = 16 << 20  # bytes that a delay holds per connection and way: 160 MiB/s at 100 ms
TICK = 0.01  # seconds: a slowed way passes its bytes on in pieces of this length
GATHER = 0.5  # seconds that a spoil waits for the bytes it needs; then it takes what there is

Action = Callable[[], object]


@dataclass(frozen=True)
class Spoil:
    """One thing done once to a stream, to the bytes that follow the first `at` ones.

    flip: one bit of the next byte. truncate: the next `length` bytes are lost. duplicate: they come
    twice. reorder: the next two blocks of `length` bytes change places. Where fewer bytes come in
    `GATHER` seconds, as when the sender waits for an answer, it is done to those; reorder halves them.
    """

    kind: Literal["flip", "truncate", "duplicate", "reorder"]
    at: int
    length: int = 1
    bit: int = 0

    def __post_init__(self) -> None:
        assert self.length > 0
        assert 0 <= self.bit < 8

    @property
    def needs(self) -> int:
        """The bytes to have before it can be done."""
        return {"flip": 1, "reorder": 2 * self.length}.get(self.kind, self.length)

    def apply(self, block: bytes) -> bytes:
        match self.kind:
            case "flip":
                return bytes([block[0] ^ 1 << self.bit]) + block[1:]
            case "truncate":
                return block[self.length :]
            case "duplicate":
                return block[: self.length] + block
            case "reorder":
                half = min(self.length, len(block) // 2)
                return block[half : 2 * half] + block[:half] + block[2 * half :]


class Pipe:
    """The bytes of one connection that are under way: in order, each released when it is due."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._changed = asyncio.Event()  # one end waits for room or the other for bytes, never both

    async def put(self, block: bytes, delay: float) -> None:
        """Take in a block; an empty one is the end. Without a delay the pipe holds one at a time."""
        while self._size >= (IN_FLIGHT if delay else 1):
            self._changed.clear()
            await self._changed.wait()
        self._blocks.append((asyncio.get_running_loop().time() + delay, block))
        self._size += len(block)
        self._changed.set()

    async def get(self) -> bytes:
        """The next block, once it is due; the end for ever after the last one."""
        while not self._blocks:
            self._changed.clear()
            await self._changed.wait()
        due, block = self._blocks[0]
        if (pause := due - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(pause)
        if block:
            self._blocks.popleft()
            self._size -= len(block)
            self._changed.set()
        return block


class Way:
    """One of the two ways of a link, over all its connections."""

    def __init__(self) -> None:
        self.spoiled = 0
        self.delay = 0.0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._passed = 0
        self._passing = threading.Lock()
        self._bytes_a_second: float | None = None
        self._free_at = 0.0
        self._marks: list[tuple[int, Action]] = []
        self._spoils: list[tuple[int, Spoil, threading.Event]] = []

    @property
    def passed(self) -> int:
        """Read from any thread: whoever has received a byte finds it counted."""
        with self._passing:
            return self._passed

    def slow_down(self, bytes_a_second: float | None) -> None:
        assert bytes_a_second is None or bytes_a_second > 0
        self._bytes_a_second = bytes_a_second
        self._free_at = 0.0

    def spoil(self, spoil: Spoil, happened: threading.Event) -> None:
        insort(self._spoils, (spoil.at, spoil, happened), key=itemgetter(0))

    def mark(self, at: int, action: Action) -> None:
        """Run `action` as soon as `at` bytes have passed, before any further one does."""
        insort(self._marks, (at, action), key=itemgetter(0))
        self._act()

    def unmark(self, action: Action) -> None:
        self._marks = [mark for mark in self._marks if mark[1] != action]

    async def take_in(self, source: socket.socket, pipe: Pipe) -> None:
        loop = asyncio.get_running_loop()
        while block := await loop.sock_recv(source, BLOCK):
            await pipe.put(block, self.delay)
        await pipe.put(b"", self.delay)

    async def pass_on(self, pipe: Pipe, sink: socket.socket) -> None:
        while block := memoryview(await pipe.get()):
            while block:
                await self._clear()
                # From here to the count nothing is awaited, so that no other connection's bytes
                # come between: what a mark or a spoil is set on happens at its very byte.
                if self._spoils and self._spoils[0][0] <= self._passed:
                    block = memoryview(await self._spoil(bytes(block), pipe))
                    continue
                try:
                    count = self._send(sink, block[: self._room()])
                except BlockingIOError:
                    await writable(sink)
                    continue
                block = block[count:]
                if self._act():
                    await asyncio.sleep(0)  # where this connection ends, if the action has cut it
        sink.shutdown(socket.SHUT_WR)

    async def _clear(self) -> None:
        """Wait until the next bytes may pass."""
        now = asyncio.get_running_loop().time
        await self.flowing.wait()
        while self._bytes_a_second and (pause := self._free_at - now()) > 0:
            await asyncio.sleep(pause)
            await self.flowing.wait()

    def _room(self) -> int:
        """The bytes that may pass before something has to happen."""
        room = BLOCK
        if self._bytes_a_second:
            room = min(room, max(1, int(self._bytes_a_second * TICK)))
        for pending in (self._marks, self._spoils):
            if pending:
                room = min(room, pending[0][0] - self._passed)
        return room

    def _send(self, sink: socket.socket, block: memoryview) -> int:
        with self._passing:
            count = sink.send(block)
            self._passed += count
        if self._bytes_a_second:
            late = asyncio.get_running_loop().time() - TICK  # a sleep too long is made up for
            self._free_at = max(self._free_at, late) + count / self._bytes_a_second
        return count

    def _act(self) -> bool:
        """Run the actions whose place has been reached; whether there were any."""
        acted = False
        while self._marks and self._marks[0][0] <= self._passed:
            _, action = self._marks.pop(0)
            acted = True
            try:
                action()
            except Exception as error:
                # Not through the pump: an OSError there is the connection's own end.
                context = {"message": "an action of a link failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
        return acted

    async def _spoil(self, block: bytes, pipe: Pipe) -> bytes:
        pending = self._spoils[0]
        _, spoil, happened = pending
        try:
            async with asyncio.timeout(GATHER):
                while len(block) < spoil.needs and (more := await pipe.get()):
                    block += more
        except TimeoutError:
            pass  # done to what has come
        if pending not in self._spoils:  # another connection was there first
            return block
        self._spoils.remove(pending)
        spoiled = spoil.apply(block)
        if spoiled != block:
            self.spoiled += 1
            happened.set()
        return spoiled


async def writable(sink: socket.socket) -> None:
    """Wait until the socket takes more."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sink, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sink)
