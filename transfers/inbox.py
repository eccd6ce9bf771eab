"""What happens to one transfer, in order: messages of its agent, and the reasons to stop.

The connection puts events in and never waits; the intake takes them out. Nothing is lost by a reason
to stop: what came before it is taken out before it.
"""

import asyncio

from agent.wire.messages import Abort, Chunk, End, Offer

BATCH_BYTES = 2 * 1024**2
"""Written in one go: few thread hops, and little that is written but not yet acknowledged."""


class LinkLost(Exception):
    """The connection ended."""


class Withdrawn(Exception):
    """The row says that this transfer is not ours to go on with."""


class Broken(Exception):
    """One of the two broke the protocol, and the connection ends: the sentence."""


class AgentAborted(Exception):
    """The agent ended the transfer."""

    def __init__(self, abort: Abort) -> None:
        super().__init__(abort.detail)
        self.abort = abort


Reason = LinkLost | Withdrawn | Broken
Stop = Reason | AgentAborted
FromAgent = Offer | Chunk | End | Abort


class Inbox:
    """The events of one transfer."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Offer | Chunk | End | Stop] = asyncio.Queue()
        self._over = asyncio.Event()
        self.leaving: Reason | None = None
        """Set as soon as there is a reason to stop, however much is still to be taken out before it."""

    def put(self, message: FromAgent) -> None:
        """A message of the agent, judged already."""
        if isinstance(message, Abort):
            self._over.set()
            self._events.put_nowait(AgentAborted(message))
        else:
            self._events.put_nowait(message)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be taken out."""
        return self._events.empty()

    @property
    def is_over(self) -> bool:
        """Whether the agent has ended the transfer, or the connection ended."""
        return self._over.is_set()

    def leave(self, reason: Reason) -> None:
        """A reason to stop that does not come from the agent."""
        self.leaving = self.leaving or reason
        if not isinstance(reason, Withdrawn):
            self._over.set()
        self._events.put_nowait(reason)

    async def take(self) -> Offer | Chunk | End:
        """The next message. Raises the reason to stop that comes before one."""
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event

    async def take_batch(self, due: float | None) -> tuple[list[Chunk], End | Stop | None]:
        """The chunks that are waiting, up to a batch, and what came after them, if it ended them.

        Neither, when nothing comes for `due` seconds.
        """
        chunks: list[Chunk] = []
        size = 0
        try:
            async with asyncio.timeout(due):
                event = await self._events.get()
        except TimeoutError:
            return chunks, None
        while isinstance(event, Chunk):
            chunks.append(event)
            size += event.length
            if size >= BATCH_BYTES or self._events.empty():
                return chunks, None
            event = self._events.get_nowait()
        if isinstance(event, Offer):
            raise TypeError("a second offer passed the table")
        return chunks, event

    async def wait_until_over(self) -> None:
        """Wait for the agent's `abort`, or for the end of the connection; both may have come before."""
        await self._over.wait()
