"""A TCP link between agent and server that a test can cut, stall, slow and count.

It runs in a thread of its own, so that any test, synchronous or not, can use it. What it lets
pass is real TCP; nothing here knows WebSockets.
"""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Self

BLOCK = 64 * 1024


class Link:
    """Listens on `port` and passes everything on to `target`; a context manager.

    `sent` counts the bytes from the agent's side that have been passed on, over all connections.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.sent = 0
        self.received = 0
        self.connections = 0
        self._bytes_a_second: float | None = None
        self._stall_at: int | None = None
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._stalled = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # What a test does with it -------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every connection, as a rebooting router does; new ones are let through."""
        self._call(self._abort())

    def stall_after(self, sent: int) -> None:
        """Let the agent's side send so many bytes in total, and then nothing more."""
        self._stalled.clear()
        self._stall_at = sent

    def wait_stalled(self, seconds: float = 60.0) -> None:
        """Wait until the bytes of `stall_after` have passed."""
        assert self._stalled.wait(seconds), f"only {self.sent} bytes were sent in {seconds} s"

    def flow(self) -> None:
        """End a stall."""
        self._stall_at = None
        self._loop.call_soon_threadsafe(self._flowing.set)

    def slow_down(self, bytes_a_second: float | None) -> None:
        """Pass the agent's bytes on at this rate; None: as fast as they come."""
        self._bytes_a_second = bytes_a_second

    # How it does it -----------------------------------------------------------------------------

    def _call(self, coroutine: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        self._writers |= {writer, there[1]}
        for task in (
            asyncio.create_task(self._up(reader, there[1])),
            asyncio.create_task(self._down(there[0], writer)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(BLOCK):
                await self._hold(len(data))
                self.sent += len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the other side is gone; both ends notice by the close below
        finally:
            writer.close()
            self._writers.discard(writer)

    async def _hold(self, length: int) -> None:
        if self._bytes_a_second is not None:
            await asyncio.sleep(length / self._bytes_a_second)
        if self._stall_at is not None and self.sent + length > self._stall_at:
            self._flowing.clear()
            self._stalled.set()
        await self._flowing.wait()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(BLOCK):
                self.received += len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)
