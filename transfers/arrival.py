"""The bytes of one transfer: opened where it left off, written, checkpointed, landed, off the loop.

An `Arrival` knows no wire and no row: it is told what to write, and tells through `record` what is on
disk.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from agent.wire.messages import MAX_CHUNK

from .inbox import BATCH_BYTES
from .storage import Buffer, PartialBusy, PartialFile, PartialLost, StorageError

CHECKPOINT_BYTES = 64 * 1024**2
CHECKPOINT_SECONDS = 5.0
"""At most so many bytes, or what came in so long, are written and not on disk for certain: that, and
one window, is what a killed server asks for again."""

PROGRESS_SECONDS = 2.0
"""At most one write of mere progress to the database in this time (SQLite has one writer)."""

BUSY_SECONDS = 60.0
BUSY_POLL_SECONDS = 0.05
"""How long, and how often, to try for a partial file that a dying connection still holds."""

log = logging.getLogger(__name__)

_threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="storage")

P = ParamSpec("P")
R = TypeVar("R")

Record = Callable[[int, int, int], Awaitable[None]]
"""Called with what has been received and the checkpoint, both offsets in bytes, and how many bytes were
written since it was called last."""


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call what blocks on the disk."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, lambda: function(*args, **kwargs))


class Arrival:
    """A partial file in the hands of one connection.

    Raises StorageError from all its verbs, and PartialBusy from those that begin a file.
    """

    def __init__(
        self,
        path: Path,
        record: Record,
        *,
        check: Callable[[], Awaitable[None]],
        give_up: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A new file; what is there gives way to it, at its first bytes, or is `resume`d before them.

        `check` raises why nothing may be touched, `give_up` says whether to wait for its holder no longer.
        """
        self._partial = PartialFile(path)
        self._record = record
        self._check = check
        self._give_up = give_up
        self._clock = clock
        self._checkpoint_at = self._progress_at = clock()
        self.begin = self.checkpointed = 0
        """Where this attempt began, and what is on disk for certain and on record as such."""
        self._sync: asyncio.Future[int] | None = None
        """A sync that is under way, or was when it was looked at last."""
        self.uncounted = 0
        """Bytes that were written and are not on record yet."""

    async def resume(self, checkpoint: int) -> None:
        """Go on with what an earlier attempt left, from its checkpoint: from 0 where nothing is there.

        A half-open older connection may still hold it, and lets go soon. Raises PartialBusy when it
        does not in time.
        """
        self._partial = await self._in_the_end(partial(_resume, self._partial.path, checkpoint))
        self.begin = self.checkpointed = self._partial.offset

    async def begin_anew(self) -> None:
        """Begin a new file before its first bytes, and so remove what is there; nothing where it is begun."""
        if not self._partial.is_there:
            await self._in_the_end(self._partial.replace)

    async def _in_the_end(self, function: Callable[[], R]) -> R:
        """Call what takes the file, as soon as nobody else holds it. Raises PartialBusy."""
        until = self._clock() + BUSY_SECONDS
        while True:
            await self._check()
            try:
                return await in_thread(function)
            except PartialBusy:
                if self._clock() > until or self._give_up():
                    raise
                # The holder may be another process: there is no event to wait for.
                await asyncio.sleep(BUSY_POLL_SECONDS)

    @property
    def offset(self) -> int:
        return self._partial.offset

    @property
    def hashed(self) -> bool:
        return self._partial.hashed

    async def rehash(self) -> None:
        """Feed the digest with some more of what an earlier attempt left."""
        await in_thread(self._partial.rehash)

    async def write(self, buffers: Sequence[Buffer]) -> None:
        try:
            await in_thread(self._partial.write, buffers)
        except PartialBusy:  # there is a file already, and nothing was written
            await self.begin_anew()
            await in_thread(self._partial.write, buffers)
        self.uncounted += sum(map(len, buffers))

    def checkpoint_in(self) -> float | None:
        """Seconds until a checkpoint is due if nothing more comes; None: all is on disk."""
        if self.offset == self.checkpointed:
            return None
        return max(0.0, self._checkpoint_at + CHECKPOINT_SECONDS - self._clock())

    async def keep_books(self) -> None:
        """Checkpoint where it is due; else record progress, now and then.

        Half of what may be unsynced is synced while more comes: else the link would rest meanwhile, a
        quarter of the time on a fast one (85 ms for 64 MiB).
        """
        if self._sync is not None and self._sync.done():
            await self._synced()
            await self._tell()
        unsynced = self.offset - self.checkpointed
        if unsynced + BATCH_BYTES + MAX_CHUNK > CHECKPOINT_BYTES or self.checkpoint_in() == 0:
            await self.checkpoint()
        elif unsynced >= CHECKPOINT_BYTES // 2 and self._sync is None:
            self._sync = asyncio.ensure_future(in_thread(self._partial.checkpoint))
        elif self._clock() >= self._progress_at + PROGRESS_SECONDS:
            await self._tell()

    async def checkpoint(self) -> None:
        """Have all that is written on disk, and on record; does nothing where it is."""
        await self._synced()
        if self.offset > self._partial.checkpointed:
            await in_thread(self._partial.checkpoint)
        if self._partial.checkpointed > self.checkpointed:
            self._checkpoint_at = self._clock()
            await self._tell()

    async def _synced(self) -> None:
        """Wait for the sync that is under way, if there is one. Raises StorageError as it does, once."""
        sync, self._sync = self._sync, None
        if sync is not None:
            await sync
            self._checkpoint_at = self._clock()

    async def _tell(self) -> None:
        self._progress_at = self._clock()
        written, checkpoint = self.uncounted, self._partial.checkpointed
        await self._record(self.offset, checkpoint, written)
        self.checkpointed = checkpoint
        self.uncounted -= written

    def hexdigest(self) -> str:
        return self._partial.hexdigest()

    async def land(self, final: Path) -> None:
        await self._synced()
        await in_thread(self._partial.land, final)

    async def give_back(self, *, keep: bool) -> None:
        """Make room after a failure: remove the file, or keep of it what is on disk for certain."""
        await self._settle()
        await in_thread(self._partial.rewind if keep else self._partial.discard)
        # Of what is removed there is nothing to say, and the row may be somebody else's by now.
        if keep and self._partial.checkpointed > self.checkpointed:
            await self._tell()

    async def close(self) -> None:
        """Let go of the file, and of its lock."""
        await self._settle()
        self._partial.close()

    async def _settle(self) -> None:
        """Nothing is under way any more; a sync that failed is no news to who gives up."""
        try:
            await self._synced()
        except StorageError as error:
            log.warning("%s could not be synced: %s", self._partial.path, error)


def _resume(path: Path, checkpoint: int) -> PartialFile:
    with contextlib.suppress(PartialLost):
        return PartialFile.resume(path, checkpoint)
    return PartialFile(path)
