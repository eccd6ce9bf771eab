"""One transfer arriving: wire events in; bytes, checkpoints and replies out. No socket in it.

An `Intake` is fed by the connection (`receive`, `link_lost`, `withdraw`: they only enqueue) and works
in a task of its own (`run`), which always ends with the row in the right status and the partial file
closed. Writing, hashing and syncing happen in threads; the credit given to the agent is what bounds
the memory: at most `window` bytes are ever waiting to be written.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django.conf import settings

from agent.wire.messages import (
    MAX_DETAIL,
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

from .models import MAX_SOURCE_CHANGES, Status, StatusConflict, Transfer
from .progress import Progress, shown
from .storage import PartialBusy, PartialFile, PartialLost, StorageError

CHECKPOINT_BYTES = 64 * 1024**2
CHECKPOINT_SECONDS = 5.0
"""A checkpoint at the latest after so many bytes or so long: what a killed server asks for again."""

PROGRESS_SECONDS = 2.0
"""At most one write of mere progress to the database in this time (SQLite has one writer)."""

BATCH_BYTES = 2 * 1024**2
"""Written in one go: few thread hops, and little that is written but not yet acknowledged."""

BUSY_SECONDS = 60.0
BUSY_POLL_SECONDS = 0.05
"""How long, and how often, to try for a partial file that a dying connection still holds."""

log = logging.getLogger(__name__)
_threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="storage")

P = ParamSpec("P")
R = TypeVar("R")

Outgoing = Request | Start | Ack | Landed | Abort | Cancel
Reply = Callable[[Outgoing], Awaitable[None]]


class LinkLost(Exception):
    """The connection ended."""


class Withdrawn(Exception):
    """The row says that this transfer is not ours to go on with."""


class AgentAborted(Exception):
    """The agent ended the transfer."""

    def __init__(self, abort: Abort) -> None:
        super().__init__(abort.detail)
        self.abort = abort


class Refused(Exception):
    """We end the transfer: `code` is from the table of error codes."""

    def __init__(self, code: str, detail: str, *, keep: bool = True) -> None:
        super().__init__(detail)
        self.code = code
        self.keep = keep


Event = Offer | Chunk | End | Abort | LinkLost | Withdrawn


async def _in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, lambda: function(*args, **kwargs))


class Intake:
    """One transfer, claimed by the connection of `epoch`; `reply` sends a message to its agent."""

    def __init__(
        self,
        transfer: Transfer,
        epoch: int,
        reply: Reply,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transfer = transfer
        self.epoch = epoch
        self._reply = reply
        self._clock = clock
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._leaving: LinkLost | Withdrawn | None = None
        self._partial: PartialFile | None = None
        self._begin = 0
        self._checkpoint_at = self._progress_at = clock()

    # Fed by the connection ----------------------------------------------------------------------

    def receive(self, message: Offer | Chunk | End | Abort) -> None:
        """A message of the agent about this transfer, judged already."""
        self._events.put_nowait(message)

    def link_lost(self) -> None:
        """The connection ended. What arrived before it is still written and checkpointed."""
        self._leave(LinkLost())

    def withdraw(self) -> None:
        """The row was changed by somebody else: look at it, and stop."""
        self._leave(Withdrawn())

    def _leave(self, reason: LinkLost | Withdrawn) -> None:
        self._leaving = self._leaving or reason
        self._events.put_nowait(reason)

    # Works in a task of its own -----------------------------------------------------------------

    async def run(self) -> None:
        """Ask for the file and see it through. Never raises."""
        try:
            await self._run_to_an_end()
        except Exception:
            log.exception("%s: failed inside", self.transfer)
            await self._fail_inside()
        finally:
            if self._partial is not None:
                self._partial.close()

    async def _run_to_an_end(self) -> None:
        try:
            await self._transfer()
        except LinkLost:
            await self._interrupted()
        except (Withdrawn, StatusConflict):
            await self._withdrawn()
        except AgentAborted as aborted:
            await self._aborted(aborted.abort)
        except Refused as refused:
            await self._refuse(refused.code, str(refused), keep=refused.keep)
        except StorageError as error:
            # A disk that is full has lost nothing; one that fails may have lost what it took before.
            await self._refuse(error.code, str(error), keep=error.code == "storage_full")

    async def _transfer(self) -> None:
        offer = await self._ask()
        partial = self._partial = await self._open(offer)
        self._begin = partial.offset
        await self._row(
            Transfer.offered,
            name=offer.name,
            size=offer.size,
            fingerprint=offer.fingerprint,
            checkpoint=self._begin,
        )
        log.info(
            "Start receiving %s from %s (%d bytes%s)",
            shown(offer.name),
            self.transfer.client_id,
            offer.size,
            f", from byte {self._begin}" if self._begin else "",
        )
        rest = (self._begin, offer.size - self._begin)
        await self._reply(Start(self.transfer.pk, (rest,), limit=settings.WINDOW))
        with Progress(offer.name, self.transfer.client_id, offer.size, self._begin) as progress:
            await self._rehash(partial)
            end = await self._receive(partial, progress)
            progress.finish()
        await self._land(partial, offer, end)

    async def _ask(self) -> Offer:
        fingerprint = self.transfer.fingerprint if self.transfer.checkpoint else None
        log.info("Sending request_file to %s", self.transfer.client_id)
        await self._reply(Request(self.transfer.pk, self.transfer.path, fingerprint or None))
        event = await self._next()
        if not isinstance(event, Offer):
            raise TypeError(f"{event} instead of an offer passed the table")
        if event.size > settings.MAX_FILE_SIZE:
            raise Refused(
                "too_large",
                f"{event.name} has {event.size} bytes; this server takes up to {settings.MAX_FILE_SIZE} "
                "(SILENTMODE_MAX_FILE_SIZE).",
            )
        return event

    async def _next(self) -> Offer | Chunk | End:
        """The next message; raises what ends the transfer."""
        event = await self._events.get()
        if isinstance(event, Abort):
            raise AgentAborted(event)
        if isinstance(event, Exception):
            raise event
        return event

    # The partial file ---------------------------------------------------------------------------

    async def _open(self, offer: Offer) -> PartialFile:
        """The partial file to go on with: the earlier attempt's where the source is still the same."""
        transfer = self.transfer
        known = (transfer.fingerprint, transfer.size)
        if transfer.checkpoint and known == (offer.fingerprint, offer.size):
            with contextlib.suppress(PartialLost):
                return await self._when_free(PartialFile.resume, transfer.checkpoint)
        elif transfer.checkpoint and transfer.source_changes >= MAX_SOURCE_CHANGES:
            raise Refused("source_changed", "The file changed between attempts, again and again.")
        return await self._when_free(PartialFile.create)

    async def _when_free(
        self, opener: Callable[Concatenate[Path, P], PartialFile], *args: P.args, **kwargs: P.kwargs
    ) -> PartialFile:
        """Open once no other writer holds the file: a half-open old connection lets go soon."""
        until = self._clock() + BUSY_SECONDS
        while True:
            try:
                return await _in_thread(opener, self.transfer.partial_path, *args, **kwargs)
            except PartialBusy:
                if self._clock() > until or self._leaving:
                    raise self._leaving or Refused(
                        "storage_error", "Another process holds the partial file."
                    ) from None
                # The holder may be another process: there is no event to wait for.
                await asyncio.sleep(BUSY_POLL_SECONDS)

    async def _rehash(self, partial: PartialFile) -> None:
        """Feed the digest with what an earlier attempt left, while the agent does the same."""
        while not partial.hashed:
            if self._leaving:
                raise self._leaving
            await _in_thread(partial.rehash)

    async def _receive(self, partial: PartialFile, progress: Progress) -> End:
        """Write chunks as they come, until `end`."""
        while True:
            chunks, last = await self._batch(partial)
            if chunks:
                await _in_thread(partial.write, [chunk.payload for chunk in chunks])
                progress.update(partial.offset)
            if chunks or last is None:
                await self._keep_books(partial)
            if isinstance(last, End):
                return last
            if isinstance(last, Abort):
                raise AgentAborted(last)
            if last is not None:
                raise last

    async def _batch(
        self, partial: PartialFile
    ) -> tuple[list[Chunk], End | Abort | LinkLost | Withdrawn | None]:
        """The chunks that are waiting, up to a batch, and what came after them, if it ended them.

        Neither, when a checkpoint is due and nothing comes.
        """
        chunks: list[Chunk] = []
        size = 0
        unsynced = partial.offset > partial.checkpointed
        due = (
            max(0.0, self._checkpoint_at + CHECKPOINT_SECONDS - self._clock()) if unsynced else None
        )
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

    async def _keep_books(self, partial: PartialFile) -> None:
        """Checkpoint where it is due, record progress, and give the agent new credit."""
        now = self._clock()
        unsynced = partial.offset - partial.checkpointed
        if unsynced >= CHECKPOINT_BYTES or (
            unsynced and now >= self._checkpoint_at + CHECKPOINT_SECONDS
        ):
            await self._checkpoint(partial)
        elif now >= self._progress_at + PROGRESS_SECONDS:
            await self._record(partial)
        written = partial.offset - self._begin
        await self._reply(
            Ack(self.transfer.pk, written, written + settings.WINDOW, partial.checkpointed)
        )

    async def _checkpoint(self, partial: PartialFile) -> None:
        await _in_thread(partial.checkpoint)
        self._checkpoint_at = self._clock()
        await self._record(partial)

    async def _record(self, partial: PartialFile) -> None:
        self._progress_at = self._clock()
        await self._row(
            Transfer.progressed, received=partial.offset, checkpoint=partial.checkpointed
        )

    async def _land(self, partial: PartialFile, offer: Offer, end: End) -> None:
        """Verify, sync, rename, and only then say so."""
        if end.fingerprint != offer.fingerprint:
            raise Refused("source_changed", "The file changed while it was read.")
        if partial.hexdigest() != end.sha256:
            raise Refused(
                "checksum_mismatch",
                f"{offer.name}: the agent read {end.sha256}, {partial.hexdigest()} arrived.",
                keep=False,
            )
        final = await self._row(Transfer.verified, sha256=end.sha256)
        await _in_thread(partial.land, final)
        await self._row(Transfer.landed)
        log.info("Finished receiving from %s", self.transfer.client_id)
        log.info("Final SHA256: %s", end.sha256)
        log.info("✅ Hash verified successfully")
        log.info("Saved %s", final)
        await self._reply(Landed(self.transfer.pk, end.sha256))

    # The ways it can end without landing --------------------------------------------------------

    async def _interrupted(self) -> None:
        """The link is lost: keep all that arrived."""
        try:
            if self._partial is not None and self._partial.offset > self._partial.checkpointed:
                await self._checkpoint(self._partial)
            await self._row(Transfer.link_lost)
        except StatusConflict:
            await self._withdrawn()
            return
        except StorageError as error:
            await self._refuse(error.code, str(error), keep=error.code == "storage_full")
            return
        log.info("%s: the link is lost; waiting for the client to come back", self._label)

    async def _withdrawn(self) -> None:
        """Somebody else decided: an operator ended it, or a newer connection took over."""
        transfer = self.transfer
        await database_sync_to_async(transfer.refresh_from_db)()
        log.info("%s: is %s now; this connection leaves it", self._label, transfer.status)
        if transfer.status == Status.COMPLETED:
            await self._reply(Landed(transfer.pk, transfer.sha256))
            return
        if transfer.is_final:
            await self._discard()
        await self._end_and_wait(Cancel(transfer.pk))

    async def _discard(self) -> None:
        """Remove what arrived, also where it was ended between the rename and the row."""
        if self._partial is not None:
            await _in_thread(self._partial.discard)
        if self.transfer.landed_path is not None:
            await _in_thread(self.transfer.landed_path.unlink, missing_ok=True)

    async def _aborted(self, abort: Abort) -> None:
        """The agent gave up; it sends nothing more, and waits for nothing."""
        log.info("%s: the agent says %s: %s", self._label, abort.code, shown(abort.detail))
        try:
            await self._fail(abort.code, abort.detail)
        except StatusConflict:
            await database_sync_to_async(self.transfer.refresh_from_db)()
            if self.transfer.is_final:
                await self._discard()

    async def _refuse(self, code: str, detail: str, *, keep: bool) -> None:
        """We give up: the row first, then the agent."""
        log.warning("%s: %s: %s", self._label, code, shown(detail))
        if not keep and self._partial is not None:
            await _in_thread(self._partial.discard)
        try:
            await self._fail(code, detail, keep=keep)
        except StatusConflict:
            await self._withdrawn()
            return
        await self._end_and_wait(Abort(self.transfer.pk, code, detail[:MAX_DETAIL]))

    async def _fail(self, code: str, detail: str, *, keep: bool = True) -> None:
        if code == "source_changed":  # may begin again
            await self._row(Transfer.source_changed, detail)
        else:
            await self._row(Transfer.fail, code, detail, keep=keep)

    async def _fail_inside(self) -> None:
        try:
            await self._row(Transfer.fail, "internal")
        except Exception:  # the row stays as it is, and is asked for again at a later heartbeat
            log.exception("%s: its failure could not be recorded", self._label)
        await self._end_and_wait(Abort(self.transfer.pk, "internal"))

    async def _end_and_wait(self, message: Cancel | Abort) -> None:
        """Tell the agent, and wait for its confirmation: only then may this transfer begin anew."""
        if self._partial is not None:
            self._partial.close()
        if isinstance(self._leaving, LinkLost):
            return
        await self._reply(message)
        while not isinstance(await self._events.get(), Abort | LinkLost):
            pass

    @property
    def _label(self) -> str:
        return shown(str(self.transfer))

    async def _row(
        self,
        verb: Callable[Concatenate[Transfer, int, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Call a verb of the row, as the holder of this epoch, in the database's thread."""
        return await database_sync_to_async(verb)(self.transfer, self.epoch, *args, **kwargs)
