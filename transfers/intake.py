"""One transfer arriving: wire events in; bytes, checkpoints and replies out. No socket in it.

An `Intake` is fed by the connection (`receive`, `leave`, `call_off`) and works in a task of its own
(`run`), which always ends with the row in the right status and the partial file closed. The credit
given to the agent is what bounds the memory: at most one window of bytes is ever waiting to be
written.
"""

import logging
import time
from collections.abc import Callable

from channels.db import database_sync_to_async
from django.conf import settings

from agent.wire.display import shown
from agent.wire.messages import Ack, Cancel, End, Landed, Offer, Request, Start

from . import storage
from .arrival import Arrival, in_thread
from .attempt import Attempt, Refused
from .claim import Claim
from .dialogue import Dialogue, HangUp, Pulse, Reply
from .inbox import FromAgent, Reason, Withdrawn
from .models import MAX_SOURCE_CHANGES, Transfer
from .progress import Progress
from .storage import PartialBusy

log = logging.getLogger(__name__)


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
        self._clock = clock
        self._claim = Claim(transfer, epoch)
        self._dialogue = Dialogue(transfer.pk, reply, hang_up, pulse, clock)
        self._attempt = Attempt(self._claim, self._dialogue)

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
        """Ask for the file and see it through, to one end or another. Never raises."""
        await self._attempt.see_through(self._transfer)

    async def _transfer(self) -> None:
        offer = await self._ask()
        arrival = self._attempt.arrival = await self._open(offer)
        begin = arrival.begin
        await self._claim.do(
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
        self._attempt.all_sent = True
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
                # Before the file of whoever holds it is touched, however long that was waited for.
                check=lambda: self._claim.do(Transfer.check_held),
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
        to_come = await database_sync_to_async(Transfer.objects.bytes_to_come)(
            self.transfer.created_at
        )
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
        await self._claim.do(Transfer.progressed, received=received, checkpoint=checkpoint)

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
        final = await self._claim.do(Transfer.verified, sha256=end.sha256)
        await arrival.land(final)
        self._attempt.in_place = True
        await self._claim.do(Transfer.landed)
        log.info("Finished receiving from %s", self.transfer.client_id)
        log.info("Final SHA256: %s", end.sha256)
        log.info("✅ Hash verified successfully")
        log.info("Saved %s", final)
        await self._dialogue.land(Landed(self.transfer.pk, end.sha256))
