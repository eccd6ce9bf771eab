"""The audit log: who asked for what, why and whence, what became of it, and every change of rights.

Rows are only ever added. Each carries the SHA-256 of itself and of the one before it, so a row that is
changed, removed or slipped in breaks the chain, and the head remembers where the chain ends. Whoever
can write to the database could forge the whole chain anew: `manage.py verify_audit --expect` compares
it with an end that was noted elsewhere.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from django.db import models, transaction
from django.utils import timezone

from agent.wire.display import shown
from transfers.acting import actor

from .compare_and_set import compare_and_set
from .transactions import one_transaction

if TYPE_CHECKING:
    from .client import Client
    from .transfer import Transfer

log = logging.getLogger(__name__)

BEGINNING = "0" * 64
"""What the first row names as the digest of the one before it."""


class Event(models.TextChoices):
    REQUESTED = "requested"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    RATE_LIMITED = "rate_limited"
    LANDED = "landed"
    FAILED = "failed"
    EXPIRED = "expired"
    FETCHED = "fetched"
    HELD = "held"
    RELEASED = "released"
    REMOVED = "removed"
    REFUSED = "refused"

    CLIENT_ADDED = "client_added"
    CODE_MADE = "code_made"
    KEY_MADE = "key_made"
    KEY_REVOKED = "key_revoked"
    CLIENT_ENROLLED = "client_enrolled"
    CLIENT_APPROVED = "client_approved"
    CLIENT_LABELLED = "client_labelled"
    CLIENT_ROTATING = "client_rotating"
    CLIENT_ROTATED = "client_rotated"
    CLIENT_REVOKED = "client_revoked"

    WEBHOOK_CHANGED = "webhook_changed"
    WEBHOOK_REMOVED = "webhook_removed"

    TOKEN_MADE = "token_made"  # noqa: S105
    TOKEN_REVOKED = "token_revoked"  # noqa: S105
    USER_CHANGED = "user_changed"
    USER_REMOVED = "user_removed"
    RIGHTS_CHANGED = "rights_changed"
    LOGGED_IN = "logged_in"
    LOGGED_OUT = "logged_out"
    LOGIN_FAILED = "login_failed"
    LOCKED_OUT = "locked_out"
    AUDIT_EXPORTED = "audit_exported"


class AppendOnly(Exception):
    """Somebody tried to change or remove a row of the audit log."""


class AuditQuerySet(models.QuerySet["AuditRecord"]):
    def update(self, **values: Any) -> NoReturn:
        raise AppendOnly("Rows of the audit log are never changed.")

    def delete(self) -> NoReturn:
        raise AppendOnly("Rows of the audit log are never removed.")


class AuditRecord(models.Model):
    """One thing that happened. Clients, transfers and users are named, not referred to: it outlives them."""

    number = models.PositiveBigIntegerField(primary_key=True)
    """1, 2, 3…, without a gap."""
    at = models.DateTimeField()
    actor = models.CharField(max_length=200)
    address = models.CharField(max_length=64, blank=True)
    event = models.CharField(max_length=32)
    """An `Event`: no choices, or each new one would take a migration."""
    client = models.CharField(max_length=64, blank=True)
    transfer = models.UUIDField(null=True)
    details = models.JSONField(default=dict)
    previous = models.CharField(max_length=64)
    digest = models.CharField(max_length=64)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ("-number",)
        indexes = (
            models.Index(fields=("client", "number")),
            models.Index(fields=("transfer",)),
            models.Index(fields=("event", "number")),
        )

    def __str__(self) -> str:
        return f"{self.number} {self.event}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise AppendOnly("Rows of the audit log are never changed.")
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AppendOnly("Rows of the audit log are never removed.")

    def as_json(self) -> str:
        """The row as one line of JSON, ASCII only: what is exported, and what the digest covers."""
        return json.dumps(
            {
                "number": self.number,
                "at": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
                "actor": self.actor,
                "address": self.address,
                "event": self.event,
                "client": self.client,
                "transfer": str(self.transfer) if self.transfer else None,
                "details": self.details,
                "previous": self.previous,
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    def expected_digest(self) -> str:
        """SHA-256, in hexadecimal, of `as_json`."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()


class AuditHead(models.Model):
    """Where the chain ends: one row, which every writer locks, so that the chain has no branches."""

    number = models.PositiveBigIntegerField(default=0)
    digest = models.CharField(max_length=64, default=BEGINNING)

    def __str__(self) -> str:
        return f"{self.number}:{self.digest}"


def record(
    event: Event,
    *,
    client: "Client | str | None" = None,
    transfer: "Transfer | None" = None,
    **details: Any,
) -> AuditRecord:
    """Add a row about what the present `actor` does, in the transaction of the deed itself.

    It has its number at once, or at the end of what is `recorded_together`.
    `details` are JSON values; empty ones are left out.
    """
    who = actor()
    row = AuditRecord(
        at=timezone.now(),
        actor=shown(who.name)[:200],
        address=shown(who.address)[:64],
        event=event,
        client=str(client or (transfer.client_id if transfer else "")),
        transfer=transfer.pk if transfer else None,
        details={name: _plain(value) for name, value in details.items() if value},
    )
    if (gathered := _gathered.get()) is None:
        _append([row])
    else:
        gathered.append(row)
    return row


_gathered: ContextVar[list[AuditRecord] | None] = ContextVar("gathered", default=None)


@contextmanager
def recorded_together() -> Iterator[None]:
    """What is recorded in here, in one transaction, is added at its end: a thousand rows in three queries.

    A deed that is undone without the transaction must not have been recorded yet.
    """
    rows: list[AuditRecord] = []
    token = _gathered.set(rows)
    try:
        yield
    finally:
        _gathered.reset(token)
    _append(rows)


def _append(rows: Sequence[AuditRecord]) -> None:
    """Add these to the end of the chain."""
    if not rows:
        return
    with one_transaction():
        # First the end that this process has set last: where it is alone, that saves the question.
        if not (_known and _link(rows, _known[0])):
            head, _ = AuditHead.objects.select_for_update().get_or_create(pk=1)
            if not _link(rows, (head.number, head.digest)):
                raise RuntimeError("The end of the audit log moved while it was locked.")
        AuditRecord.objects.bulk_create(rows)
    _known[:] = [(rows[-1].number, rows[-1].digest)]
    transaction.on_commit(partial(_say, rows))


_known: list[tuple[int, str]] = []
"""Number and digest of the last row that this process has added. What the head says is what counts."""


def _link(rows: Sequence[AuditRecord], end: tuple[int, str]) -> bool:
    """Have the chain end with these; whether it ended there. The head is locked from then on."""
    number, digest = end
    for row in rows:
        row.number, row.previous = number + 1, digest
        row.digest = row.expected_digest()
        number, digest = row.number, row.digest
    expected = {"id": 1, "number": end[0], "digest": end[1]}
    return compare_and_set(AuditHead, expected, {"number": number, "digest": digest})


def _say(rows: Sequence[AuditRecord]) -> None:
    for row in rows:
        log.debug("audit %d %s %s %s", row.number, row.event, row.actor, row.digest)


def _plain(value: Any) -> Any:
    """What JSON holds and every database gives back as it was."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return str(value)


@dataclass(frozen=True)
class Verdict:
    """What a check of the chain found: how many rows it has, its end, and what is wrong, if anything."""

    rows: int
    digest: str
    problems: tuple[str, ...]


def verify(expected: tuple[int, str] | None = None) -> Verdict:
    """Check every row against the one before it, and the end against the head. Safe beside writers.

    `expected` is a (number, digest) that was noted earlier: that row must still be there, as it was.
    """
    head = AuditHead.objects.filter(pk=1).first() or AuditHead()
    problems: list[str] = []
    rows, number, digest = 0, 0, BEGINNING
    seen = expected in (None, (0, BEGINNING))
    for row in AuditRecord.objects.filter(number__lte=head.number).order_by("number").iterator():
        problems += _faults(row, number, digest)
        rows, number, digest = rows + 1, row.number, row.digest
        seen = seen or (number, digest) == expected
    if (head.number, head.digest) != (number, digest):
        problems.append(f"the log ends with row {number}, and should end with row {head.number}")
    if beyond := _beyond_the_head():
        problems.append(f"{beyond} rows follow the end of the log")
    if expected and not seen:
        problems.append(
            f"row {expected[0]} is not the one that was noted: the log was written anew"
        )
    return Verdict(rows, digest, tuple(problems))


def last_number() -> int:
    """Of the log's last row; 0: it has none."""
    head = AuditHead.objects.filter(pk=1).first()
    return head.number if head else 0


def note_end() -> None:
    """Put the log's end among the lines of the server, which are often kept elsewhere: for `--expect`."""
    if head := AuditHead.objects.filter(pk=1).first():
        log.info("The audit log ends with %d:%s", head.number, head.digest)


def _faults(row: AuditRecord, number: int, digest: str) -> list[str]:
    """What is wrong with a row that comes after the one of this number and digest."""
    faults = []
    if row.number != number + 1:
        faults.append(f"rows {number + 1} to {row.number - 1}: removed")
    elif row.previous != digest:
        faults.append(f"row {row.number}: does not follow the row before it")
    if row.digest != row.expected_digest():
        faults.append(f"row {row.number}: changed")
    return faults


def _beyond_the_head() -> int:
    with transaction.atomic():  # locked: or a row that is just being written would seem slipped in
        head = AuditHead.objects.select_for_update().filter(pk=1).first() or AuditHead()
        return AuditRecord.objects.filter(number__gt=head.number).count()
