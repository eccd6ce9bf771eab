"""The status table: every state of a transfer, and every move between them.

::

    queued ──> requested ──> receiving ──> verifying ──> completed
       ^            │             │             │
       └────────────┴─ set back ──┴─────────────┴─> interrupted ──(client is back)──> requested
    any of these ──> failed | cancelled | expired          failed ──(retry)──> queued

What comes whole at once, as a small file does, goes from `requested` to `verifying`. A lost link and an
error that may pass set a transfer back: without bytes to `queued`, with some to `interrupted`.
"""

from collections.abc import Mapping
from uuid import UUID

from django.db import models


class Status(models.TextChoices):
    QUEUED = "queued"
    REQUESTED = "requested"
    RECEIVING = "receiving"
    INTERRUPTED = "interrupted"
    VERIFYING = "verifying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


PENDING = frozenset({Status.QUEUED, Status.INTERRUPTED})
"""Waits for its client."""

ACTIVE = frozenset({Status.REQUESTED, Status.RECEIVING, Status.VERIFYING})
"""A connection works on it."""

LIVE = PENDING | ACTIVE

FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})

_ENDS = frozenset({Status.FAILED, Status.CANCELLED, Status.EXPIRED})

ALLOWED: Mapping[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.REQUESTED}) | _ENDS,
    Status.REQUESTED: frozenset(
        {Status.RECEIVING, Status.VERIFYING, Status.QUEUED, Status.INTERRUPTED}
    )
    | _ENDS,
    Status.RECEIVING: frozenset({Status.VERIFYING, Status.QUEUED, Status.INTERRUPTED}) | _ENDS,
    Status.INTERRUPTED: frozenset({Status.REQUESTED}) | _ENDS,
    # A crash may leave a row here with its file already landed, or not yet: see `recovery`.
    Status.VERIFYING: frozenset({Status.COMPLETED, Status.QUEUED, Status.INTERRUPTED}) | _ENDS,
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset({Status.QUEUED}),
    Status.CANCELLED: frozenset(),
    Status.EXPIRED: frozenset(),
}


class StatusConflict(Exception):
    """The table does not allow this change, or somebody else changed the row first."""

    def __init__(self, transfer: UUID, status: str, wanted: str, why: str = "") -> None:
        self.status = status
        sentence = f"Transfer {transfer} is {status}; it cannot become {wanted}"
        super().__init__(f"{sentence}: {why}." if why else f"{sentence}.")
