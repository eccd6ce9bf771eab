"""What a transfer's row has, and where its files are; `transfer` has the ways to change it."""

import hashlib
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from agent.wire.display import shown
from transfers import storage

from .client import Client
from .status import FINAL, LIVE, Status

MAX_REASON = 500
"""Characters of why a file is asked for."""

FORESEEN = timedelta(days=1)
"""How far ahead a transfer's rate is believed: a slow till brings its gigabyte in less."""

RATED_OVER = timedelta(hours=6)
"""A rate is that of so long at least: or a burst would count for a day's work. So a promise counts for
four times what has come of it at the most, and for less when that took longer."""


def path_key(path: str | None) -> str:
    """What a unique index can hold of a path: its SHA-256 (PostgreSQL's takes 2,700 bytes)."""
    return "" if path is None else hashlib.sha256(path.encode()).hexdigest()


def foreseen(begun: datetime, size: int, received: int, now: datetime) -> int:
    """What a transfer will bring in a day by the rate it has shown, in bytes, and not more than it promised.

    What it has credit for may come at once.
    """
    by_rate = int(received * (FORESEEN / max(now - begun, RATED_OVER)))
    return min(size - received, max(by_rate, settings.WINDOW))


@dataclass(frozen=True)
class Source:
    """What the agent has opened, and when it said so."""

    name: str
    size: int
    fingerprint: str
    at: datetime = field(default_factory=timezone.now)


class TransferRow(models.Model):
    """The fields of a transfer."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    client = models.ForeignKey(Client, on_delete=models.PROTECT, related_name="transfers")
    path = models.TextField(null=True)
    """On the client; null stands for the agent's own `--file`."""
    path_key = models.CharField(max_length=64, blank=True, editable=False)
    reason = models.CharField(max_length=MAX_REASON, blank=True)
    """Why it was asked for, in the words of whoever did."""
    duplicate = models.BooleanField(default=False)
    """Asked for although another one of the same file may be under way."""
    status = models.CharField(max_length=16, choices=Status, default=Status.QUEUED)
    epoch = models.PositiveBigIntegerField(default=0)
    attempts = models.PositiveIntegerField(default=0)
    source_changes = models.PositiveSmallIntegerField(default=0)
    setbacks = models.PositiveSmallIntegerField(default=0)
    """Errors that may pass, so far."""
    next_attempt_at = models.DateTimeField(null=True)
    """Not before; null: as soon as its client is there."""
    rate_limit = models.BigIntegerField(null=True)
    """Bytes a second that its agent is to send at most; null: no limit."""

    name = models.CharField(max_length=255, blank=True)
    size = models.BigIntegerField(null=True)
    fingerprint = models.CharField(max_length=200, blank=True)
    received = models.BigIntegerField(default=0)
    checkpoint = models.BigIntegerField(default=0)
    wire_bytes = models.BigIntegerField(default=0)
    """Bytes of payloads as they came over the wire, of all attempts together."""
    rate = models.BigIntegerField(null=True)
    """Bytes a second that it came with when that was measured last, at `rated_at`."""
    rated_at = models.DateTimeField(null=True)
    source_sha256 = models.CharField(max_length=64, blank=True)
    sha256 = models.CharField(max_length=64, blank=True)
    file = models.CharField(max_length=255, null=True, unique=True)

    error_code = models.CharField(max_length=32, blank=True)
    """From the table of `agent.wire.errors`: no choices, or each new one would take a migration."""
    error_detail = models.TextField(blank=True)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    deadline = models.DateTimeField(null=True)
    held = models.BooleanField(default=False)
    """Its landed file is kept, however old it grows."""
    removed_at = models.DateTimeField(null=True)
    """When its landed file was removed for its age."""

    class Meta:
        abstract = True
        ordering = ("-created_at", "-id")
        permissions = (("fetch_file", "Can fetch landed files"),)
        constraints = (
            models.UniqueConstraint(
                fields=("client", "path_key"),
                condition=Q(duplicate=False, status__in=sorted(LIVE)),
                name="one_live_transfer_of_a_file",
            ),
        )
        indexes = (
            models.Index(fields=("client", "status")),
            models.Index(fields=("status", "deadline")),
            models.Index(fields=("-created_at", "-id")),
        )

    def __str__(self) -> str:
        """What and whence, safe to show: in log lines, messages and the admin."""
        return shown(f"{self.name or self.path or 'the default file'} from {self.client_id}")

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.path_key = path_key(self.path)
        super().save(*args, **kwargs)

    @property
    def partial_path(self) -> Path:
        return settings.PARTIAL_DIR / f"{self.pk}.part"

    @property
    def landed_path(self) -> Path | None:
        """Where the landed file is; None before a name was reserved."""
        return settings.DOWNLOADS_DIR / self.file if self.file else None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def is_being_written(self) -> bool:
        """Whether a live connection, in any process, has the partial file open."""
        paths = filter(None, (self.partial_path, self.landed_path))  # a landing renames it first
        return any(storage.is_busy(path) for path in paths)
