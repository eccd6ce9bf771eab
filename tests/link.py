"""A TCP link between agent and server that a test can cut, stall, slow, delay, spoil and count.

It runs in a thread of its own, so that any test, synchronous or not, can use it. What it lets
pass is real TCP; nothing here knows WebSockets. `link_faults` has what happens to the bytes.
"""

import asyncio
import socket
import struct
import threading
from types import TracebackType
from typing import Any, Literal, Self

from tests.link_faults import Action, Pipe, Spoil, Way

__all__ = ["Link", "Spoil"]

PATIENCE = 10.0  # seconds for the link's thread to do what it is told
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: to close is to send RST, and to drop what is unsent
NO_RESET = struct.pack("ii", 0, 0)

# Bytes. What waits in the kernel behind the slow point has been counted in `sent` but is lost in a
# cut, and what waits before it the agent takes for sent: left alone, Linux lets both grow to MiBs.
SMALL_BUFFER = 128 * 1024


class Link:
    """Listens on `port` and passes everything on to `target`; a context manager.

    `sent` counts the bytes from the agent's side that have been passed on, over all connections,
    and `received` those from the server's side.

    An action, given to `at` or `every`, runs in the link's thread, and nothing passes while it
    does: it may call everything here but what waits, and must not itself wait for the link. What
    it raises, the end of the `with` raises.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.connections = 0
        self._up = Way()
        self._down = Way()
        self._in_black_hole = False
        self._carried: set[Connection] = set()
        self._forgotten: list[socket.socket] = []
        self._stalled = threading.Event()
        self._failures: list[Exception] = []
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._failed)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)  # inherited
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._loop.add_reader(self._listener, self._accept)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._failures:
            raise ExceptionGroup("in the link", self._failures)

    # What a test does with it -------------------------------------------------------------------

    @property
    def sent(self) -> int:
        return self._up.passed

    @property
    def received(self) -> int:
        return self._down.passed

    @property
    def spoiled(self) -> int:
        """How many spoils have happened; one that changed nothing has not."""
        return self._up.spoiled + self._down.spoiled

    def cut(self) -> None:
        """Reset every connection, as a rebooting router does; new ones are let through."""
        self._do(self._cut)

    def black_hole(self) -> None:
        """Let every connection go silent for ever, and new ones too: no end ever learns anything.

        Nothing is read any more, so that a sender's own buffers fill, as where nothing is acknowledged.
        """
        self._do(self._forget)

    def heal(self) -> None:
        """End a black hole: new connections pass; the old stay dead, as behind a NAT that forgot."""
        self._in_black_hole = False

    def stall_after(self, sent: int) -> None:
        """Let the agent's side send so many bytes in total, and then nothing more."""
        self._stalled.clear()
        self._do(lambda: self._stall_at(sent))

    def wait_stalled(self, seconds: float = 60.0) -> None:
        """Wait until the bytes of `stall_after` have passed."""
        self._wait(self._stalled, seconds)

    def flow(self) -> None:
        """End a stall."""
        self._do(self._flow)

    def slow_down(self, bytes_a_second: float | None) -> None:
        """Pass the agent's bytes on at this rate, from the next piece on; None: as they come."""
        self._do(lambda: self._up.slow_down(bytes_a_second))

    def delay(self, seconds: float) -> None:
        """Pass on what comes from now on so much later, both ways; see `IN_FLIGHT` for how much."""
        self._up.delay = self._down.delay = seconds

    def spoil(self, way: Literal["up", "down"], spoil: Spoil) -> threading.Event:
        """Spoil the agent's bytes (up) or the server's (down) once; the event says that it has been.

        At a place that has passed already, it happens to the next byte.
        """
        happened = threading.Event()
        self._do(lambda: {"up": self._up, "down": self._down}[way].spoil(spoil, happened))
        return happened

    def at(self, sent: int, action: Action) -> None:
        """Run `action` once when exactly so many bytes have been sent; at once if more have been.

        The server may have the last of them before `action` has run; `wait_sent` waits for both.
        """
        self._do(lambda: self._up.mark(sent, action))

    def every(self, count: int, action: Action) -> None:
        """Run `action` each time that so many bytes more have been sent."""
        assert count > 0

        def again() -> None:
            arm()
            action()

        def arm() -> None:
            self._up.mark(self.sent + count, again)

        self._do(arm)

    def wait_sent(self, sent: int, seconds: float = 60.0) -> None:
        """Wait until so many bytes have been sent in total."""
        passed = threading.Event()
        self.at(sent, passed.set)
        self._wait(passed, seconds)

    # How it does it -----------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        """Run it in the link's thread, also when that is where we are."""
        if threading.current_thread() is self._thread:
            action()
            return

        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(PATIENCE)

    def _wait(self, event: threading.Event, seconds: float) -> None:
        assert threading.current_thread() is not self._thread, "an action must not wait"
        assert event.wait(seconds), f"only {self.sent} bytes were sent in {seconds} s"

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failures.append(context.get("exception") or RuntimeError(context["message"]))

    def _stall_at(self, sent: int) -> None:
        self._up.unmark(self._stall)
        self._up.mark(sent, self._stall)

    def _stall(self) -> None:
        self._up.flowing.clear()
        self._stalled.set()

    def _flow(self) -> None:
        self._up.unmark(self._stall)
        self._up.flowing.set()

    def _cut(self) -> None:
        for connection in self._carried:
            connection.stop()

    def _forget(self) -> None:
        self._in_black_hole = True
        for connection in self._carried:
            connection.stop()
            self._forgotten += [connection.agent, connection.server]
        self._carried.clear()

    def _accept(self) -> None:
        agent, _ = self._listener.accept()
        if self._in_black_hole:
            self._forgotten.append(agent)
            return
        connection = Connection(agent)
        self._carried.add(connection)
        carrier = self._loop.create_task(self._carry(connection))
        connection.tasks.append(carrier)
        carrier.add_done_callback(lambda carrier: self._ended(connection, carrier))

    async def _carry(self, connection: "Connection") -> None:
        try:
            await self._loop.sock_connect(connection.server, ("127.0.0.1", self.target))
            self.connections += 1
            there, back = Pipe(), Pipe()
            async with asyncio.TaskGroup() as group:
                connection.tasks += [
                    group.create_task(self._up.take_in(connection.agent, there)),
                    group.create_task(self._up.pass_on(there, connection.server)),
                    group.create_task(self._down.take_in(connection.server, back)),
                    group.create_task(self._down.pass_on(back, connection.agent)),
                ]
            connection.on_close(NO_RESET)
        except* OSError:
            pass  # one side's end, which the close below tells the other

    def _ended(self, connection: "Connection", carrier: asyncio.Task[None]) -> None:
        # Not in `_carry`, which never runs if it is stopped before its first step.
        if connection in self._carried:  # so it has not been forgotten
            self._carried.remove(connection)
            connection.agent.close()
            connection.server.close()
        if not carrier.cancelled():
            carrier.result()

    async def _close(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for forgotten in self._forgotten:
            forgotten.close()


class Connection:
    """The two sockets of one connection, reset when they are closed, and the tasks that use them."""

    def __init__(self, agent: socket.socket) -> None:
        self.agent = agent
        self.server = socket.socket()
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        self.tasks: list[asyncio.Task[None]] = []
        for each in (self.agent, self.server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.on_close(RESET)

    def on_close(self, linger: bytes) -> None:
        for each in (self.agent, self.server):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def stop(self) -> None:
        """Pass nothing on from this moment, also when an action of one of the tasks asks for it."""
        for task in self.tasks:
            task.cancel()
