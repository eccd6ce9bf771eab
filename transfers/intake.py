"""One transfer arriving: wire events in; bytes, checkpoints and replies out. No socket in it.

An `Intake` is fed by the connection (`receive`, `leave`, `call_off`) and works in a task of its own
(`run`), which always ends with the row in the right status and the partial file closed. The credit
given to the agent is what bounds the memory: at most one window of bytes is ever waiting to be
written.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from django.conf import settings

from agent.wire.display import shown
from agent.wire.messages import CODEC_RAW, Ack, Cancel, Chunk, End, Landed, Offer, Request, Start

from . import counters, under_way
from .arrival import Arrival, in_thread
from .attempt import Attempt, Refused
from .claim import Claim
from .dialogue import Dialogue, HangUp, Pulse, Reply
from .inbox import Broken, FromAgent, Reason, Withdrawn
from .limits import Limits
from .models import MAX_SOURCE_CHANGES, Source, StatusConflict, Transfer
from .progress import Progress
from .storage import Buffer, PartialBusy
from .turns import Turn
from .unpacking import BadFrame, unpacked

log = logging.getLogger(__name__)


class Intake:
    """One transfer, claimed by a connection; see `Dialogue` for its agent's side.

    `codec` is what its agent may send chunks in.
    """

    def __init__(
        self,
        claim: Claim,
        reply: Reply,
        hang_up: HangUp,
        pulse: Pulse,
        *,
        turn: Turn,
        codec: str = CODEC_RAW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        transfer = self.transfer = claim.transfer
        self._codec = codec
        self._clock = clock
        self._claim = claim
        self._limits = Limits(transfer, clock)
        self._turn = turn
        least_rate = settings.MIN_RATE / settings.MAX_ACTIVE_PER_CLIENT
        self._dialogue = Dialogue(transfer.pk, reply, hang_up, pulse, clock, least_rate=least_rate)
        self._attempt = Attempt(self._claim, self._dialogue)
        self._source: Source | None = None
        """What was offered, for as long as the row does not say so: a small file is there before that would
        be of use to anybody, and each step of the row costs as much as the file."""
        self._ack: Ack | None = None
        """The last one, once it was started; `start` itself counts as one."""

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

    async def limit_rate(self, rate_limit: int | None) -> None:
        """What the row says now: the agent is told at once, or with `start`."""
        if rate_limit == self.transfer.rate_limit:
            return
        self.transfer.rate_limit = rate_limit
        if self._ack is not None:
            await self._acknowledge(replace(self._ack, rate_limit=rate_limit))

    # Works in a task of its own -----------------------------------------------------------------

    async def run(self) -> None:
        """Ask for the file and see it through, to one end or another. Never raises."""
        with under_way.here(self.transfer.pk) as self._received:
            await self._attempt.see_through(self._transfer)

    async def _transfer(self) -> None:
        try:
            await self._see_through()
        except PartialBusy:
            raise self._dialogue.leaving or Refused(
                "storage_error", "Another process holds the partial file."
            ) from None

    async def _see_through(self) -> None:
        offer = await self._ask()
        arrival = await self._open(offer)
        begin = arrival.begin
        await self._may_begin(arrival, offer.size - begin)
        log.info(
            "Start receiving %s from %s (%d bytes%s)",
            shown(offer.name),
            self.transfer.client_id,
            offer.size,
            f", from byte {begin}" if begin else "",
        )
        await self._start(begin, offer.size - begin)
        with Progress(offer.name, self.transfer.client_id, offer.size, begin) as progress:
            await self._rehash(arrival)
            end = await self._receive(offer, arrival, progress)
            progress.finish()
        self._attempt.all_sent = True
        await self._land(arrival, offer, end)

    async def _may_begin(self, arrival: Arrival, rest: int) -> None:
        if not self._limits.spares(rest):
            await self._offered()
            await arrival.begin_anew()  # what is there may fill the disk, and is of no use
            await self._limits.may_begin(rest)

    async def _start(self, begin: int, length: int) -> None:
        pk, rate_limit = self.transfer.pk, self.transfer.rate_limit
        self._ack = Ack(pk, 0, settings.WINDOW, begin, rate_limit)
        self._dialogue.limit_rate(rate_limit)
        await self._dialogue.start(
            Start(pk, ((begin, length),), settings.WINDOW, self._codec, rate_limit)
        )

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
        arrival = self._attempt.arrival = Arrival(
            transfer.partial_path,
            self._record,
            # Before the file of whoever holds it is touched, however long that was waited for.
            check=lambda: self._claim.do(Transfer.check_held),
            give_up=lambda: self._dialogue.leaving is not None,
            clock=self._clock,
        )
        self._source = Source(offer.name, offer.size, offer.fingerprint)
        if transfer.checkpoint and same:
            await arrival.resume(transfer.checkpoint)
            await self._offered(arrival.begin)
        elif transfer.checkpoint:
            await self._offered()  # the row says that what is there is of no use, before it goes
            await arrival.begin_anew()
        return arrival

    async def _offered(self, begin: int = 0) -> None:
        """Have the row say what is about to come; does nothing where it does."""
        source, self._source = self._source, None
        if source is not None:
            await self._claim.do(Transfer.offered, source, begin)

    async def _rehash(self, arrival: Arrival) -> None:
        """Feed the digest with what an earlier attempt left, while the agent does the same."""
        while not arrival.hashed:
            if self._dialogue.leaving:
                raise self._dialogue.leaving
            await arrival.rehash()

    async def _receive(self, offer: Offer, arrival: Arrival, progress: Progress) -> End:
        """Write chunks as they come, until `end`; give new credit for what is written."""
        while True:
            chunks, last = await self._dialogue.next_batch(arrival.checkpoint_in())
            if not isinstance(last, End):
                await self._offered()
            if chunks:
                before = arrival.offset
                await arrival.write(await self._unpack(chunks))
                wire = sum(len(chunk.payload) for chunk in chunks)
                self._attempt.uncounted_wire += wire
                counters.RECEIVED.inc(arrival.offset - before)
                counters.WIRE.inc(wire)
                progress.update(arrival.offset)
                self._received.count = arrival.offset
            await arrival.keep_books()
            if isinstance(last, End):
                return last
            if last is not None:
                raise last
            await self._limits.may_go_on(offer.size - arrival.offset)
            self._turn.go_on(sum(chunk.length for chunk in chunks))
            if chunks:
                written = arrival.offset - arrival.begin
                await self._acknowledge(
                    Ack(
                        self.transfer.pk,
                        written,
                        written + settings.WINDOW,
                        arrival.checkpointed,
                        self.transfer.rate_limit,
                    )
                )

    async def _unpack(self, chunks: list[Chunk]) -> list[Buffer]:
        """The source bytes of a batch. Raises Broken, and has ended the conversation with that."""
        if all(chunk.codec == CODEC_RAW for chunk in chunks):
            return [chunk.payload for chunk in chunks]
        try:
            return await in_thread(unpacked, chunks)
        except BadFrame as bad:
            await self._dialogue.break_off(str(bad))
            raise Broken(str(bad)) from None

    async def _acknowledge(self, ack: Ack) -> None:
        self._ack = ack
        self._dialogue.limit_rate(ack.rate_limit)
        await self._dialogue.acknowledge(ack)

    async def _record(self, received: int, checkpoint: int, written: int) -> None:
        await self._offered()
        wire = self._attempt.uncounted_wire
        await self._claim.do(
            Transfer.progressed,
            received=received,
            checkpoint=checkpoint,
            written=written,
            wire=wire,
        )
        self._attempt.uncounted_wire -= wire

    async def _land(self, arrival: Arrival, offer: Offer, end: End) -> None:
        """Verify, sync, rename, and only then say so."""
        if refusal := self._refusal(arrival, offer, end):
            await self._offered()
            raise refusal
        await arrival.begin_anew()  # an empty file, which nobody would hold while it is verified
        wire, (source, self._source) = self._attempt.uncounted_wire, (self._source, None)
        final = await self._claim.do(Transfer.verified, sha256=end.sha256, wire=wire, source=source)
        self._attempt.uncounted_wire -= wire
        await arrival.land(final)
        self._attempt.in_place = True
        await self._landed(arrival)
        log.info("Finished receiving from %s", self.transfer.client_id)
        log.info("Final SHA256: %s", end.sha256)
        log.info("✅ Hash verified successfully")
        log.info("Saved %s", final)
        await self._dialogue.land(Landed(self.transfer.pk, end.sha256))

    @staticmethod
    def _refusal(arrival: Arrival, offer: Offer, end: End) -> Refused | None:
        """Why what has come is not the file."""
        if end.fingerprint != offer.fingerprint:
            return Refused("source_changed", "The file changed while it was read.", keep=False)
        if arrival.hexdigest() != end.sha256:
            return Refused(
                "checksum_mismatch",
                f"{offer.name}: the agent read {end.sha256}, {arrival.hexdigest()} arrived.",
                keep=False,
            )
        return None

    async def _landed(self, arrival: Arrival) -> None:
        """The row says so, and what was written last counts with it: not twice, if the answer is lost."""
        written, arrival.uncounted = arrival.uncounted, 0
        try:
            await self._claim.do(Transfer.landed, written=written)
        except StatusConflict:
            arrival.uncounted = written
            raise
