"""Putting right what a crash left behind: at start-up, every few seconds, and in `manage.py sweep`."""

import logging
import time
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.core.checks import ERROR, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError
from django.utils import timezone

from . import retention, storage
from .models import (
    ACTIVE,
    FINAL,
    Client,
    Status,
    StatusConflict,
    Transfer,
    note_end,
)

ORPHAN_SECONDS = 24 * 3600
"""A partial file that no transfer needs is removed after this long without a write."""

log = logging.getLogger(__name__)


@dataclass
class Report:
    """What a sweep has done and found."""

    interrupted: int = 0
    completed: int = 0
    expired: int = 0
    removed: int = 0
    aged: int = 0
    """Landed files that were removed because they were kept for `SILENTMODE_KEEP_DAYS`."""
    missing: tuple[str, ...] = ()
    """Files of `completed` transfers that are not in the downloads any more."""

    def __str__(self) -> str:
        return (
            f"{self.interrupted} interrupted, {self.completed} completed, {self.expired} expired, "
            f"{self.removed} leftover files removed, {self.aged} old landed files removed, "
            f"{len(self.missing)} landed files missing"
        )


def at_start() -> None:
    """Before the first connection: stop on a deploy mistake, have the directories on disk, and sweep.

    Raises ImproperlyConfigured: the sentence says what to do.
    """
    problems = [problem for problem in run_checks(tags=["silentmode"]) if problem.level >= ERROR]
    if problems:
        raise ImproperlyConfigured(
            " ".join(f"{problem.msg} {problem.hint}" for problem in problems)
        )
    _sync_data_directory()
    try:
        report = sweep()
    except DatabaseError as error:
        raise ImproperlyConfigured(
            f"The database is not ready ({error}). Run `manage.py migrate`."
        ) from None
    if report != Report():
        log.info("Put right at start-up: %s", report)


def tend() -> Report:
    """What a running server does for clients that are not connected, every few seconds.

    Connected clients have their `Attendant`.
    """
    report = Report(expired=Transfer.objects.expire_due())
    _revoke_late()
    left = Transfer.objects.filter(status__in=ACTIVE, client__online_until__lte=timezone.now())
    for transfer in left.select_related("client"):
        _settle(transfer, report)
    return report


def _sync_data_directory() -> None:
    """The settings make it, what is in it and what it is in: else a power loss takes all of that."""
    for directory in (settings.DATA_DIR, *settings.DATA_DIR.parents):
        try:
            storage.sync_directory(directory)
        except PermissionError:
            return  # not ours, so nor did we make what is in it
        except OSError as error:
            raise ImproperlyConfigured(
                f"The directory {directory} cannot be synced: {error.strerror}. Set SILENTMODE_DATA_DIR "
                "to a directory on a disk."
            ) from None
        if directory.is_mount():
            return  # the rest was there before us


def sweep() -> Report:
    """Put every row and every partial file right. Safe beside running servers."""
    report = Report(expired=Transfer.objects.expire_due())
    _revoke_late()
    for transfer in Transfer.objects.filter(status__in=ACTIVE).select_related("client"):
        _settle(transfer, report)
    report.aged = retention.remove_aged()
    kept = Transfer.objects.filter(status=Status.COMPLETED, removed_at=None)
    report.missing = tuple(
        transfer.file or ""
        for transfer in kept.iterator()
        if transfer.landed_path is None or not transfer.landed_path.is_file()
    )
    for name in report.missing:
        log.warning("%s is on record as landed, but is not in %s", name, settings.DOWNLOADS_DIR)
    report.removed = _remove_orphans() + _remove_unlanded()
    retention.forget_old()
    note_end()
    return report


def _revoke_late() -> None:
    """Fail what was asked of a client in the very moment of its revocation."""
    revoked = Client.objects.exclude(revoked_at=None)
    for client in revoked.filter(transfers__in=Transfer.objects.live()).distinct():
        client.fail_transfers()


def _settle(transfer: Transfer, report: Report) -> None:
    """An active row whose connection is gone waits for its client again, or has landed."""
    if transfer.is_being_written:
        return  # a live connection, in this or another process
    try:
        if transfer.status == Status.VERIFYING and transfer.finish_landing():
            report.completed += 1
        elif not (_is_beginning(transfer) and transfer.client.online):
            transfer.link_lost(transfer.epoch)
            report.interrupted += 1
    except StatusConflict as conflict:
        log.info("sweep: %s", conflict)  # a connection has just taken it on
    except storage.StorageError:
        pass  # it has landed, but that cannot be synced: a later look or sweep tries again


def _is_beginning(transfer: Transfer) -> bool:
    """Whether a connection may be at it that has no file open yet."""
    begun = transfer.checkpoint > 0 or transfer.received > 0  # what else is there may be a leftover
    return transfer.status == Status.REQUESTED or (
        transfer.status == Status.RECEIVING and not begun
    )


def _remove_orphans() -> int:
    """Remove partial files that have no row, or whose row is final, after a day."""
    removed = 0
    oldest = time.time() - ORPHAN_SECONDS
    for path in settings.PARTIAL_DIR.glob("*.part"):
        try:
            if path.lstat().st_mtime > oldest or _is_needed(path.stem):
                continue
            removed += storage.discard(path)
        except (OSError, storage.PartialBusy, storage.StorageError) as reason:
            log.info("sweep: left %s: %r", path.name, reason)
    return removed


def _remove_unlanded() -> int:
    """Remove what was renamed for a transfer that then ended otherwise: a crash may have kept it."""
    removed = 0
    ended = Transfer.objects.filter(status__in=FINAL - {Status.COMPLETED}).exclude(file=None)
    for path in filter(None, (transfer.landed_path for transfer in ended)):
        try:
            removed += storage.discard(path)
        except (storage.PartialBusy, storage.StorageError) as reason:
            log.info("sweep: left %s: %r", path.name, reason)
    return removed


def _is_needed(stem: str) -> bool:
    try:
        pk = UUID(stem)
    except ValueError:
        return False
    return Transfer.objects.filter(pk=pk).exclude(status__in=FINAL).exists()
