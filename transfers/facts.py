"""What a person reads in a transfer's row: how far it is, how fast, how long still, and what to do.

For the console, the API and `manage.py pull`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from transfers import under_way
from transfers.models import ACTIVE, LINK_LOST, PENDING, Status, Transfer

STALLED = timedelta(seconds=15)
"""A rate that was measured earlier than that says nothing any more: a link that brings bytes measures anew
every few seconds."""

NEXT_ATTEMPT = "the next attempt"
"""What a transfer waits for after an error that may pass."""

ADVICE: dict[str, str] = {
    "not_found": "Look whether the path is right, as the client writes it.",
    "forbidden": "On the client, `python -m agent check-policy PATH` says which rule refuses it.",
    "not_a_file": "Ask for a file: folders, devices and pipes are not sent.",
    "unreadable": "Look at the file's permissions on the client; a retry can help once they are right.",
    "source_changed": "Ask for it when nothing writes to it, or for a copy of it.",
    "too_large": "Raise the server's SILENTMODE_MAX_FILE_SIZE or the agent's max_file_size.",
    "busy": "Nothing to do: it goes on by itself when it is its turn.",
    "checksum_mismatch": "Retry. If it comes again, the client's memory, disk or network is broken.",
    "storage_full": "Make room on the server's disk, then retry.",
    "storage_error": "Look at the server's disk and its log, then retry.",
    "quota_exceeded": "Nothing to do: it goes on by itself tomorrow (UTC).",
    "protocol_error": "Retry. If it comes again, look at the agent's version and at proxies on the way.",
    "timed_out": "Look whether the client is overloaded, then retry.",
    "cancelled": "Ask for the file anew, if it is wanted after all.",
    "expired": "Ask for the file anew, with a later deadline or none.",
    "revoked": "Enrol the machine anew, if it is to be trusted again.",
    "internal": "The server's log has the details. Please report it.",
    LINK_LOST: "Nothing to do: it goes on by itself when the client is back.",
}
"""What to do about each way in which a transfer can fail."""

WORDS: dict[str, str] = {
    Status.QUEUED: "Waiting",
    Status.REQUESTED: "Asking",
    Status.RECEIVING: "Receiving",
    Status.VERIFYING: "Verifying",
    Status.INTERRUPTED: "Interrupted",
    Status.COMPLETED: "Landed",
    Status.FAILED: "Failed",
    Status.CANCELLED: "Cancelled",
    Status.EXPIRED: "Expired",
}


def spared(wire: int, received: int) -> float | None:
    """What compression has spared the link, of the bytes that came; None: nothing."""
    return 100 * (1 - wire / received) if 0 < wire < received else None


def facts_of(transfer: Transfer) -> "Facts":
    """As of now."""
    return Facts(transfer, timezone.now())


@dataclass(frozen=True)
class Facts:
    """Of one transfer at one moment."""

    transfer: Transfer
    now: datetime

    @property
    def word(self) -> str:
        return WORDS[self.transfer.status]

    @property
    def tone(self) -> str:
        """How the word is coloured: good, bad, busy, or calm."""
        status = self.transfer.status
        if status == Status.COMPLETED:
            return "good"
        if status == Status.FAILED:
            return "bad"
        return "busy" if status in ACTIVE else "calm"

    @property
    def received(self) -> int:
        """Bytes by now, as far as this process knows."""
        transfer = self.transfer
        if transfer.status == Status.COMPLETED:
            return transfer.size or 0
        if transfer.status == Status.RECEIVING:
            return max(transfer.received, under_way.received(transfer.pk))
        return transfer.received

    @property
    def percent(self) -> float | None:
        """None: nobody knows how large it is yet."""
        size = self.transfer.size
        if size is None:
            return None
        if not size:
            return 100.0 if self.transfer.status == Status.COMPLETED else 0.0
        return 100 * self.received / size

    @property
    def is_stalled(self) -> bool:
        """It has brought nothing for some time."""
        measured = self.transfer.rated_at or self.transfer.started_at
        receiving = self.transfer.status == Status.RECEIVING
        return receiving and measured is not None and self.now - measured > STALLED

    @property
    def rate(self) -> int | None:
        """Bytes a second: now while it comes, the average over all once it has landed."""
        transfer = self.transfer
        if transfer.status == Status.RECEIVING:
            return 0 if self.is_stalled else transfer.rate
        if transfer.status == Status.COMPLETED and (seconds := self.seconds):
            return int((transfer.size or 0) / seconds)
        return None

    @property
    def seconds(self) -> float | None:
        """From the first byte to the end, pauses and all."""
        begun, ended = self.transfer.started_at, self.transfer.finished_at
        return max((ended - begun).total_seconds(), 0.001) if begun and ended else None

    @property
    def seconds_left(self) -> float | None:
        """At the rate of now."""
        size = self.transfer.size
        if self.transfer.status != Status.RECEIVING or size is None or not self.rate:
            return None
        return (size - self.received) / self.rate

    @property
    def saved_percent(self) -> float | None:
        # Both of the row, which were recorded at one moment.
        return spared(self.transfer.wire_bytes, self.transfer.received)

    @property
    def advice(self) -> str:
        """What to do about its error; empty where there is none."""
        return ADVICE.get(self.transfer.error_code, "")

    @property
    def next_attempt(self) -> datetime | None:
        """When it is tried again; None: nothing but its client or its turn is waited for."""
        at = self.transfer.next_attempt_at
        return at if at is not None and at > self.now else None

    @property
    def waits_for(self) -> str:
        """What a transfer that is not under way waits for; empty where it is, or has ended."""
        transfer = self.transfer
        if transfer.status not in PENDING:
            return ""
        if self.next_attempt is not None:
            return NEXT_ATTEMPT
        return "its turn" if transfer.client.online else f"{transfer.client_id} to come online"

    @property
    def can_be_cancelled(self) -> bool:
        return not self.transfer.is_final

    @property
    def can_be_retried(self) -> bool:
        return self.transfer.status == Status.FAILED

    @property
    def can_be_fetched(self) -> bool:
        return self.transfer.status == Status.COMPLETED and self.transfer.removed_at is None
