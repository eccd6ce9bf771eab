"""A transfer: one request for one file, and the only ways to change its status.

Nobody outside this file assigns a status. Every change is a compare-and-set: it names the status
(and, for whoever holds a connection, the epoch) that it expects, and when the row says otherwise
somebody else got there first, `StatusConflict` says so, and nothing has changed.
"""

import logging
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from agent.wire.display import shown
from agent.wire.errors import ERRORS
from transfers import counters, dispatch, storage

from .audit import Event, record
from .compare_and_set import COMPUTED, Plus, SameAs, compare_and_set
from .history import LINK_LOST, MOST_SETBACKS, Measured, Setback, earlier_points, keep_course
from .queries import TransferQuerySet
from .row import Source, TransferRow
from .status import ACTIVE, ALLOWED, FINAL, Status, StatusConflict
from .transactions import one_transaction
from .usage import Usage, tomorrow

log = logging.getLogger(__name__)

MAX_SOURCE_CHANGES = 3
"""Fresh starts after the source changed under the reader."""

PAUSE_GROWTH = 3
"""Each pause before a new attempt is so many times as long as the one before it."""


class Transfer(TransferRow):
    """One request for one file: lives from the request until it has landed or failed."""

    objects = TransferQuerySet.as_manager()

    _progress: Measured | None = None
    """Of the attempt that this object holds, from its offer on."""

    class Meta(TransferRow.Meta):
        abstract = False

    # Changes of status -----------------------------------------------------------------------

    def _move(
        self,
        wanted: Status,
        *,
        holder: int | None = None,
        unique: str | None = None,
        **values: Any,
    ) -> None:
        """Compare-and-set from the status this object was loaded with. Raises StatusConflict.

        With `holder`, the row must still belong to the connection of that epoch; with `unique`, no other must
        have what that field is set to.
        """
        expected = {"id": self.pk, "status": self.status}
        if holder is not None:
            expected["epoch"] = holder
        allowed = wanted in ALLOWED[Status(self.status)]
        changed = {"status": wanted, **values}
        if not allowed or not compare_and_set(Transfer, expected, changed, unique=unique):
            self.refresh_from_db()
            raise self._conflict(wanted)
        if holder is None:
            self.refresh_from_db()
        else:
            self._take(changed)
        if wanted in FINAL:
            ended = counters.ENDED.labels(wanted, values.get("error_code", ""))
            transaction.on_commit(ended.inc)

    def _take(self, values: dict[str, Any]) -> None:
        """What has changed of a row that its holder knows.

        What others may change meanwhile (rate limit, deadline, hold), whoever needs it reads anew. What the
        database computed is read from there once somebody asks for it.
        """
        for name, value in values.items():
            if isinstance(value, COMPUTED):
                self.__dict__.pop(name, None)  # as `defer` leaves it
            else:
                setattr(self, name, value)

    def _conflict(self, wanted: Status, why: str = "") -> StatusConflict:
        return StatusConflict(self.pk, self.status, wanted, why)

    def claim(self, epoch: int) -> None:
        """The connection of this epoch takes the transfer on, to ask its agent. Raises StatusConflict.

        A row that an older connection left active is let go first, unless it needs no agent any more.
        """
        if epoch < self.epoch:
            raise self._conflict(Status.REQUESTED)
        try:
            landed = self.status == Status.VERIFYING and (
                self.is_being_written or self.finish_landing()
            )
        except storage.StorageError as error:  # a later look tries again
            raise self._conflict(Status.REQUESTED, str(error)) from error
        if landed:
            raise self._conflict(Status.REQUESTED)
        if self.status in ACTIVE:
            self.link_lost(self.epoch)
        self._move(Status.REQUESTED, holder=self.epoch, epoch=epoch, attempts=self.attempts + 1)

    def link_lost(self, epoch: int) -> None:
        """The connection ended: wait for the client to come back."""
        wanted = Status.INTERRUPTED if self._has_bytes else Status.QUEUED
        received = self.received
        with one_transaction():
            self._move(
                wanted, holder=epoch, received=SameAs("checkpoint")
            )  # the rest is asked for again
            self._note(LINK_LOST, "", received)

    def _note(self, code: str, detail: str, received: int) -> None:
        """This attempt has ended without the file."""
        transaction.on_commit(counters.SET_BACK.labels(code).inc)
        if self.attempts % MOST_SETBACKS == 0:
            Setback.objects.filter(
                transfer=self, attempt__lt=self.attempts - MOST_SETBACKS
            ).delete()
        Setback.objects.create(
            transfer_id=self.pk,
            at=timezone.now(),
            attempt=self.attempts,
            code=code,
            detail=detail,
            received=received,
        )

    @property
    def _has_bytes(self) -> bool:
        return self.checkpoint > 0 or self.status == Status.VERIFYING

    def check_held(self, epoch: int) -> None:
        """Raises StatusConflict when the row is not this connection's any more."""
        if not Transfer.objects.filter(pk=self.pk, epoch=epoch, status=self.status).exists():
            self.refresh_from_db()
            raise self._conflict(Status.RECEIVING)

    def offered(self, epoch: int, source: Source, checkpoint: int = 0) -> None:
        """The agent opened the source; bytes from `checkpoint` on are about to come."""
        values = self._of(source) | {"checkpoint": checkpoint, "received": checkpoint}
        values |= {"rate": None, "rated_at": source.at}  # those of the last attempt say nothing
        if self.checkpoint > 0 and self.fingerprint != source.fingerprint:
            values["source_changes"] = Plus(1)
        self._move(Status.RECEIVING, holder=epoch, **values)
        self._progress = Measured(source.at, checkpoint)

    def _of(self, source: Source) -> dict[str, Any]:
        return {
            "name": source.name,
            "size": source.size,
            "fingerprint": source.fingerprint,
            "error_code": "",
            "error_detail": "",
            "next_attempt_at": None,
            "started_at": self.started_at or source.at,
        }

    def progressed(
        self, epoch: int, *, received: int, checkpoint: int, written: int = 0, wire: int = 0
    ) -> None:
        """Record what has arrived and what is on disk for certain. Raises StatusConflict.

        `written` bytes count for today, as `wire` bytes they came since it was called last; in one
        transaction, so that none counts twice or not at all.
        """
        # Verifying, too: what a full disk at the landing leaves is on record before the failure is.
        arriving = self.status in (Status.RECEIVING, Status.VERIFYING)
        expected = {"id": self.pk, "epoch": epoch, "status": self.status}
        now = timezone.now()
        with one_transaction():
            progress = self._come_along()
            rate = progress.add(now, received)
            values = {
                "received": received,
                "checkpoint": checkpoint,
                "wire_bytes": Plus(wire),
                "rate": rate,
                "rated_at": now,
            }
            held = arriving and compare_and_set(Transfer, expected, values)
            if held:
                keep_course(self, progress.points)
            if held and written:
                Usage.add(self.client_id, written)
        if not held:
            self.refresh_from_db()
            raise self._conflict(Status.RECEIVING)
        self.received, self.checkpoint = received, checkpoint

    def _come_along(self) -> Measured:
        """How this attempt has come along, after those before it."""
        if self._progress is None:
            self._progress = Measured(timezone.now(), self.received)
        if len(self._progress.points) == 1:
            self._progress.points[:0] = earlier_points(self)
        return self._progress

    def count_wire(self, epoch: int, wire: int) -> None:
        """So many bytes came over the wire, whatever became of them; nothing once it is another's."""
        compare_and_set(Transfer, {"id": self.pk, "epoch": epoch}, {"wire_bytes": Plus(wire)})

    def source_changed(self, epoch: int, detail: str) -> None:
        """Start again from 0, or fail once that happened too often."""
        if self.source_changes >= MAX_SOURCE_CHANGES:
            self._give_up(epoch, self._error("source_changed", detail))
            return
        received = self.received
        with one_transaction():
            self._move(
                Status.QUEUED, holder=epoch, source_changes=Plus(1), checkpoint=0, received=0
            )
            self._note("source_changed", detail, received)

    def verified(
        self, epoch: int, *, sha256: str, wire: int = 0, source: Source | None = None
    ) -> Path:
        """Digest and size agree: reserve the name it lands under; the path. Raises StatusConflict.

        `source` is what came whole at once, and was not `offered` before.

        The name is on the row before the rename, so that a crash between the two is told apart from
        one before the rename.
        """
        stamp = timezone.now().strftime("%Y%m%dT%H%M%SZ")
        values: dict[str, Any] = {"source_sha256": sha256, "wire_bytes": Plus(wire)}
        name, size = self.name, self.size
        if source is not None:
            name, size = source.name, source.size
            values |= self._of(source)
        for number in range(1, 10_000):
            file = storage.landed_name(self.client_id, stamp, name, number)
            if (settings.DOWNLOADS_DIR / file).exists():
                continue
            try:  # without a savepoint, which is two queries more: files of one name are common
                self._move(
                    Status.VERIFYING,
                    holder=epoch,
                    unique="file",
                    file=file,
                    received=size,
                    **values,
                )
            except StatusConflict:
                if not Transfer.objects.filter(file=file).exists():
                    raise
                continue  # another transfer has reserved this name
            except IntegrityError:  # a transaction of another process was about to
                if connection.in_atomic_block:
                    raise  # which ends ours, too: each of its verbs is called again, alone
                continue
            return Path(settings.DOWNLOADS_DIR / file)
        raise RuntimeError(f"no free name for {self} in {settings.DOWNLOADS_DIR}")

    def landed(self, epoch: int, *, written: int = 0) -> None:
        """The file is in its place, verified and synced; `written` bytes count for today, as above."""
        now = timezone.now()
        with one_transaction():
            self._move(
                Status.COMPLETED,
                holder=epoch,
                sha256=self.source_sha256,
                checkpoint=self.size,
                finished_at=now,
            )
            if written:
                Usage.add(self.client_id, written)
            record(Event.LANDED, transfer=self, file=self.file, size=self.size, sha256=self.sha256)
        seconds = (now - (self.started_at or now)).total_seconds()
        transaction.on_commit(partial(counters.landed, seconds, self.size or 0))

    def finish_landing(self) -> bool:
        """Complete a row whose writer died between the rename and this row's last change; whether.

        The rename comes only after verifying and syncing, so a file under the reserved name whose
        partial file is gone has landed; but the writer may have died before it synced the directory.
        Raises StorageError when that fails: the row stays as it is, to be looked at again.
        """
        path = self.landed_path
        if (
            self.status != Status.VERIFYING
            or path is None
            or self.partial_path.exists()
            or not path.exists()
            or self.is_being_written  # its writer lives, and may yet fail to sync it
        ):
            return False
        try:
            storage.sync_directory(path.parent)  # or a power loss takes the name of a completed row
        except OSError as error:
            log.warning("%s: %s has landed, but cannot be synced: %s", self, path, error)
            raise storage.StorageError(error) from error
        self.landed(self.epoch)
        return True

    def fail(self, epoch: int, code: str, detail: str = "", *, keep: bool = True) -> None:
        """End this attempt with an error of the table; without `keep` the partial file is not resumed.

        An error that may pass is tried again after a pause, and the next time after a longer one, up to
        `SILENTMODE_RETRIES` times; any other fails the transfer. A day's quota that is used up only waits
        for the next day.
        """
        values: dict[str, Any] = self._error(code, detail)
        if not keep:
            values |= {"checkpoint": 0, "received": 0}
        now, resume = timezone.now(), keep and self.checkpoint > 0
        if code == "quota_exceeded":
            self._set_back(epoch, tomorrow(now), resume=resume, values=values)
        elif code == "busy":  # its turn comes, however long those before it take
            pause = timedelta(seconds=settings.RETRY_PAUSE)
            self._set_back(epoch, now + pause, resume=resume, values=values)
        elif ERRORS[code].retryable and self.setbacks < settings.RETRIES:
            pause = timedelta(seconds=settings.RETRY_PAUSE * PAUSE_GROWTH**self.setbacks)
            values["setbacks"] = Plus(1)
            self._set_back(epoch, now + pause, resume=resume, values=values)
        else:
            self._give_up(epoch, values)

    def _give_up(self, epoch: int, values: dict[str, Any]) -> None:
        received, was_attempted = self.received, self.status in ACTIVE
        with transaction.atomic():
            self._move(Status.FAILED, holder=epoch, **values)
            if was_attempted:
                self._note(self.error_code, self.error_detail, received)
            record(
                Event.FAILED, transfer=self, code=self.error_code, detail=shown(self.error_detail)
            )

    def _set_back(
        self, epoch: int, until: datetime, *, resume: bool, values: dict[str, Any]
    ) -> None:
        values |= {
            "received": SameAs("checkpoint") if resume else 0,
            "finished_at": None,
            "next_attempt_at": until,
        }
        received = self.received
        with one_transaction():
            self._move(Status.INTERRUPTED if resume else Status.QUEUED, holder=epoch, **values)
            self._note(values["error_code"], values["error_detail"], received)

    @staticmethod
    def _error(code: str, detail: str = "") -> dict[str, Any]:
        info = ERRORS[code]
        return {
            "error_code": code,
            "error_detail": detail or info.sentence,
            "finished_at": timezone.now(),
            "next_attempt_at": None,
        }

    def cancel(self) -> None:
        """An operator wants it no more. Raises StatusConflict when it is final already."""
        self._end_as(Status.CANCELLED, "cancelled")

    def _end_as(self, wanted: Status, code: str, detail: str = "") -> None:
        """End it, whatever it has just moved on to. Raises StatusConflict when it is final already."""
        while True:
            values = self._error(code, detail)
            try:
                with transaction.atomic():
                    self._move(wanted, **values)
                    record(Event(wanted), transfer=self)
            except StatusConflict:
                if self.is_final:
                    raise
            else:
                break
        self._withdraw()

    def expire(self) -> None:
        """Its deadline is over. Raises StatusConflict when it is final already."""
        detail = ERRORS["expired"].sentence
        if self.error_code:  # it is between two attempts
            detail += f" The last attempt ended with {self.error_code}: {self.error_detail}"
        self._end_as(Status.EXPIRED, "expired", detail)

    def retry(self) -> None:
        """A new start of a failed transfer. Raises StatusConflict."""
        if self.status != Status.FAILED:  # the table lets others become queued, for a lost link
            raise self._conflict(Status.QUEUED)
        if self.client.revoked_at is not None:
            raise self._conflict(Status.QUEUED, f"the access of {self.client_id} was revoked")
        if self.deadline is not None and self.deadline <= timezone.now():
            raise self._conflict(Status.QUEUED, "its deadline has passed; ask for the file anew")
        try:
            with transaction.atomic():
                self._move(
                    Status.QUEUED,
                    error_code="",
                    error_detail="",
                    finished_at=None,
                    source_changes=0,
                    setbacks=0,
                    sha256="",
                )
                record(Event.RETRIED, transfer=self)
        except IntegrityError:
            why = "another transfer of the same file is under way"
            raise self._conflict(Status.QUEUED, why) from None
        self.ring()

    def limit_rate(self, rate_limit: int | None) -> None:
        """From now on so many bytes a second at most; None: no limit. Raises StatusConflict.

        Also in the middle: its agent is told at once.
        """
        with transaction.atomic():
            row = Transfer.objects.filter(pk=self.pk).exclude(status__in=FINAL)
            known = row.update(rate_limit=rate_limit)
            if known and rate_limit != self.rate_limit:
                record(
                    Event.RATE_LIMITED,
                    transfer=self,
                    rate_limit=rate_limit or "none",
                    before=self.rate_limit or "none",
                )
                self.ring()
            self.refresh_from_db()
        if not known:
            raise StatusConflict(self.pk, self.status, "slower or faster", "it has ended")

    # Landed files ----------------------------------------------------------------------------

    def hold(self, *, held: bool) -> None:
        """Keep the landed file however old it grows, or no longer. Raises StatusConflict."""
        with transaction.atomic():
            row = Transfer.objects.filter(
                pk=self.pk, status=Status.COMPLETED, removed_at=None, held=not held
            )
            changed = row.update(held=held)
            if changed:
                record(Event.HELD if held else Event.RELEASED, transfer=self, file=self.file)
            self.refresh_from_db()
        if not changed and (self.status != Status.COMPLETED or self.removed_at is not None):
            raise StatusConflict(self.pk, self.status, "held", "there is no landed file")

    def remove_landed(self, landed_before: datetime) -> bool:
        """Remove a landed file that nobody holds, once it is that old; whether it was removed.

        Raises OSError: the row stays as it is.
        """
        with transaction.atomic():
            due = Transfer.objects.landed_before(landed_before).filter(pk=self.pk)
            if not due.update(removed_at=timezone.now()):
                return False
            self.refresh_from_db()
            record(Event.REMOVED, transfer=self, file=self.file)
            # In the transaction: a row that says "removed" while the file is there would hide it for ever.
            if self.landed_path is not None:
                self.landed_path.unlink(missing_ok=True)
        return True

    def _withdraw(self) -> None:
        """Nobody wants it: tell its connection, if it has one, and remove what has arrived."""
        self.ring()
        transaction.on_commit(self._discard_files)

    def _discard_files(self) -> None:
        """Remove what has arrived, unless a live connection has it open, which then does it."""
        for path in filter(None, (self.partial_path, self.landed_path)):
            try:
                storage.discard(path)
            except storage.PartialBusy:
                log.info("%s is in use: its connection removes it", path)
            except storage.StorageError as error:
                log.info("%s could not be removed, and is left to a sweep: %s", path, error)

    def ring(self) -> None:
        """Have its client's connection look at the rows, once this change is committed."""
        transaction.on_commit(lambda: dispatch.ring_from_sync(self.client_id))
