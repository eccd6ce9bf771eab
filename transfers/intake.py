"""One transfer arriving: wire events in; bytes, checkpoints and replies out. No socket in it.

An `Intake` is fed by the connection (`receive`, `leave`, `call_off`) and works in a task of its own
(`run`), which always ends with the row in the right status and the partial file closed. The credit
given to the agent is what bounds the memory: at most one window of bytes is ever waiting to be
written.
"""

import logging
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django.conf import settings
from django.db import InterfaceError, OperationalError

from agent.wire.display import shown
from agent.wire.messages import MAX_DETAIL, Abort, Ack, Cancel, End, Landed, Offer, Request, Start

from . import storage
from .arrival import Arrival, in_thread
from .dialogue import Dialogue, HangUp, Pulse, Reply, Silence
from .inbox import AgentAborted, Broken, FromAgent, LinkLost, Reason, Withdrawn
from .models import MAX_SOURCE_CHANGES, Status, StatusConflict, Transfer
from .progress import Progress
from .storage import PartialBusy, StorageError

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class Refused(Exception):
    """We end the attempt: `code` is from the table of error codes."""

    def __init__(self, code: str, detail: str, *, keep: bool = True) -> None:
        super().__init__(detail)
        self.code = code
        self.keep = keep


class Intake:
    """One transfer, claimed by the connection of `epoch`; see `Dialogue` for its agent's side."""

    def __init__(
        self,
        transfer: Transfer,
        epoch: int,
        reply: Reply,
        hang_up: HangUp,
        pulse: Pulse,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transfer = transfer
        self.epoch = epoch
        self._clock = clock
        self._dialogue = Dialogue(transfer.pk, reply, hang_up, pulse, clock)
        self._arrival: Arrival | None = None
        self._ended = False
        self._in_place = False
        """The file has its final name, verified and synced: whatever fails now, it stays."""

    # Fed by the connection ----------------------------------------------------------------------

    def receive(self, message: FromAgent) -> None:
        """A message of the agent about this transfer, judged already; only enqueues."""
        self._dialogue.hear(message)

    def leave(self, reason: Reason) -> None:
        """A reason to stop; what arrived before it is still written and checkpointed. Only enqueues."""
        self._dialogue.leave(reason)

    async def call_off(self) -> None:
        """Nobody wants it any more: tell the agent at once, whatever the disk is busy with."""
        self._dialogue.leave(Withdrawn())
        await self._dialogue.stop(Cancel(self.transfer.pk))

    # Works in a task of its own -----------------------------------------------------------------

    async def run(self) -> None:
        """Ask for the file and see it through. Never raises."""
        try:
            await self._run_to_an_end()
        except (OperationalError, InterfaceError):
            # The database is away: the row stays as it is, and a later look takes it up again.
            log.warning("%s: the database is away; leaving it", self.transfer, exc_info=True)
            await self._end(Cancel(self.transfer.pk))
        except Exception:
            log.exception("%s: failed inside", self.transfer)
            await self._fail_inside()
        finally:
            if self._arrival is not None:
                self._arrival.close()

    async def _run_to_an_end(self) -> None:
        try:
            await self._transfer_and_keep()
        except LinkLost:
            await self._interrupted()
        except (Withdrawn, StatusConflict):
            await self._withdrawn()
        except AgentAborted as aborted:
            await self._aborted(aborted.abort)
        except Broken as broken:
            await self._refuse("protocol_error", str(broken), keep=True)
        except Silence as silence:
            await self._refuse("timed_out", str(silence), keep=True)
        except Refused as refused:
            await self._refuse(refused.code, str(refused), keep=refused.keep)
        except StorageError as error:
            # A disk that is full has lost nothing; one that fails may have lost what it took before.
            await self._refuse(error.code, str(error), keep=error.code == "storage_full")

    async def _transfer_and_keep(self) -> None:
        """The transfer; when it is cut short, what has arrived is on disk for certain."""
        try:
            await self._transfer()
        except (LinkLost, Broken, Silence):
            await self._keep()
            raise

    async def _keep(self) -> None:
        if self._arrival is not None:
            await self._arrival.checkpoint()

    async def _transfer(self) -> None:
        offer = await self._ask()
        await self._row(Transfer.check_held)  # before the file of whoever holds it is touched
        arrival = self._arrival = await self._open(offer)
        begin = arrival.begin
        await self._row(
            Transfer.offered,
            name=offer.name,
            size=offer.size,
            fingerprint=offer.fingerprint,
            checkpoint=begin,
        )
        await self._check_room(offer)
        log.info(
            "Start receiving %s from %s (%d bytes%s)",
            shown(offer.name),
            self.transfer.client_id,
            offer.size,
            f", from byte {begin}" if begin else "",
        )
        rest = (begin, offer.size - begin)
        await self._dialogue.start(Start(self.transfer.pk, (rest,), limit=settings.WINDOW))
        with Progress(offer.name, self.transfer.client_id, offer.size, begin) as progress:
            await self._rehash(arrival)
            end = await self._receive(arrival, progress)
            progress.finish()
        self._ended = True
        await self._land(arrival, offer, end)

    async def _ask(self) -> Offer:
        fingerprint = self.transfer.fingerprint if self.transfer.checkpoint else None
        log.info("Sending request_file to %s", self.transfer.client_id)
        offer = await self._dialogue.ask(
            Request(self.transfer.pk, self.transfer.path, fingerprint or None)
        )
        if offer.size > settings.MAX_FILE_SIZE:
            raise Refused(
                "too_large",
                f"{offer.name} has {offer.size} bytes; this server takes up to {settings.MAX_FILE_SIZE} "
                "(SILENTMODE_MAX_FILE_SIZE).",
            )
        return offer

    # The bytes ----------------------------------------------------------------------------------

    async def _open(self, offer: Offer) -> Arrival:
        """The partial file to go on with: the earlier attempt's where the source is still the same."""
        transfer = self.transfer
        same = (transfer.fingerprint, transfer.size) == (offer.fingerprint, offer.size)
        if transfer.checkpoint and not same and transfer.source_changes >= MAX_SOURCE_CHANGES:
            detail = "The file changed between attempts, again and again."
            raise Refused("source_changed", detail, keep=False)
        try:
            return await Arrival.open(
                transfer.partial_path,
                transfer.checkpoint if same else 0,
                self._record,
                give_up=lambda: self._dialogue.leaving is not None,
                clock=self._clock,
            )
        except PartialBusy:
            raise self._dialogue.leaving or Refused(
                "storage_error", "Another process holds the partial file."
            ) from None

    async def _check_room(self, offer: Offer) -> None:
        """Whether the disk has room for what is still to come, of this file and of all others."""
        free = await in_thread(storage.free_space, settings.PARTIAL_DIR)
        to_come = await database_sync_to_async(Transfer.objects.bytes_to_come)()
        if free - to_come < settings.MIN_FREE_SPACE:
            raise Refused(
                "storage_full",
                f"No room for {offer.name}: {free} bytes are free, {to_come} are still to come, of this "
                f"file and others, and {settings.MIN_FREE_SPACE} stay free (SILENTMODE_MIN_FREE_SPACE).",
            )

    async def _rehash(self, arrival: Arrival) -> None:
        """Feed the digest with what an earlier attempt left, while the agent does the same."""
        while not arrival.hashed:
            if self._dialogue.leaving:
                raise self._dialogue.leaving
            await arrival.rehash()

    async def _receive(self, arrival: Arrival, progress: Progress) -> End:
        """Write chunks as they come, until `end`; give new credit for what is written."""
        while True:
            chunks, last = await self._dialogue.next_batch(arrival.checkpoint_in())
            if chunks:
                await arrival.write([chunk.payload for chunk in chunks])
                progress.update(arrival.offset)
            await arrival.keep_books()
            if isinstance(last, End):
                return last
            if last is not None:
                raise last
            if chunks:
                await self._acknowledge(arrival)

    async def _acknowledge(self, arrival: Arrival) -> None:
        written = arrival.offset - arrival.begin
        limit = written + settings.WINDOW
        ack = Ack(self.transfer.pk, written, limit, arrival.checkpointed)
        await self._dialogue.acknowledge(ack)

    async def _record(self, received: int, checkpoint: int) -> None:
        await self._row(Transfer.progressed, received=received, checkpoint=checkpoint)

    async def _land(self, arrival: Arrival, offer: Offer, end: End) -> None:
        """Verify, sync, rename, and only then say so."""
        if end.fingerprint != offer.fingerprint:
            raise Refused("source_changed", "The file changed while it was read.", keep=False)
        if arrival.hexdigest() != end.sha256:
            raise Refused(
                "checksum_mismatch",
                f"{offer.name}: the agent read {end.sha256}, {arrival.hexdigest()} arrived.",
                keep=False,
            )
        final = await self._row(Transfer.verified, sha256=end.sha256)
        await arrival.land(final)
        self._in_place = True
        await self._row(Transfer.landed)
        log.info("Finished receiving from %s", self.transfer.client_id)
        log.info("Final SHA256: %s", end.sha256)
        log.info("✅ Hash verified successfully")
        log.info("Saved %s", final)
        await self._dialogue.land(Landed(self.transfer.pk, end.sha256))

    # The ways it can end without landing --------------------------------------------------------

    async def _interrupted(self) -> None:
        """The link is lost, and all that arrived is kept."""
        try:
            await self._row(Transfer.link_lost)
        except StatusConflict:
            await self._withdrawn()
            return
        log.info("%s: the link is lost; waiting for the client to come back", self.transfer)

    async def _withdrawn(self) -> None:
        """Somebody else decided: an operator ended it, or a newer connection took over."""
        transfer = self.transfer
        await database_sync_to_async(transfer.refresh_from_db)()
        log.info("%s: is %s now; this connection leaves it", self.transfer, transfer.status)
        if transfer.status == Status.COMPLETED and self._ended:
            await self._dialogue.land(Landed(transfer.pk, transfer.sha256))
            return
        await self._discard_unwanted()
        await self._end(Cancel(transfer.pk))

    async def _discard_unwanted(self) -> None:
        """Remove what arrived for a transfer that ended without a file; the row is fresh.

        Also where it was ended between the rename and the row.
        """
        if not self.transfer.is_final or self.transfer.status == Status.COMPLETED:
            return
        if self._arrival is not None:
            await self._arrival.give_back(keep=False)
        if self.transfer.landed_path is not None:
            await in_thread(self.transfer.landed_path.unlink, missing_ok=True)

    async def _aborted(self, abort: Abort) -> None:
        """The agent gave up; it sends nothing more, and waits for nothing."""
        log.info("%s: the agent says %s: %s", self.transfer, abort.code, shown(abort.detail))
        try:
            if abort.code != "source_changed":
                await self._keep()
            elif self._arrival is not None:  # what came is of a version that is no more
                await self._arrival.give_back(keep=False)
            await self._fail(abort.code, abort.detail)
        except StatusConflict:
            await database_sync_to_async(self.transfer.refresh_from_db)()
            await self._discard_unwanted()
        except StorageError as error:
            await self._refuse(error.code, str(error), keep=error.code == "storage_full")

    async def _refuse(self, code: str, detail: str, *, keep: bool) -> None:
        """We give this attempt up: the row first, then the agent."""
        log.warning("%s: %s: %s", self.transfer, code, shown(detail))
        if self._arrival is not None:  # before the row: its database may be on the same full disk
            try:
                await self._arrival.give_back(keep=keep)
            except StorageError as error:  # it fails twice; the first time is what counts
                log.warning("%s: could not give its space back: %s", self.transfer, error)
        try:
            await self._fail(code, detail, keep=keep)
        except StatusConflict:
            await self._withdrawn()
            return
        await self._end(Abort(self.transfer.pk, code, detail[:MAX_DETAIL]))

    async def _fail(self, code: str, detail: str, *, keep: bool = True) -> None:
        if code == "source_changed":  # may begin again
            await self._row(Transfer.source_changed, detail)
        else:
            await self._row(Transfer.fail, code, detail, keep=keep)

    async def _fail_inside(self) -> None:
        try:
            if not self._in_place:  # else the row waits for a look or a sweep to complete it
                await self._row(Transfer.fail, "internal")
        except Exception:  # the row stays as it is, and is asked for again at a later heartbeat
            log.exception("%s: its failure could not be recorded", self.transfer)
        await self._end(Abort(self.transfer.pk, "internal"))

    async def _end(self, message: Cancel | Abort) -> None:
        """Let go of the partial file, and have the agent confirm that it sends no more."""
        if self._arrival is not None:
            self._arrival.close()
        await self._dialogue.end(message)

    async def _row(
        self,
        verb: Callable[Concatenate[Transfer, int, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Call a verb of the row, as the holder of this epoch, in the database's thread."""
        return await database_sync_to_async(verb)(self.transfer, self.epoch, *args, **kwargs)
