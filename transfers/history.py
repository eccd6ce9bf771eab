"""All that happened to a transfer, in order: deeds of people, attempts that ended, the landing."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.wire.errors import ERRORS
from transfers.models import LINK_LOST, AuditRecord, Event, Setback, Transfer
from transfers.units import rate, size

DEEDS: Mapping[str, str] = {
    Event.REQUESTED: "Asked for by {actor}",
    Event.CANCELLED: "Cancelled by {actor}",
    Event.RETRIED: "Asked for again by {actor}",
    Event.RATE_LIMITED: "Made slower or faster by {actor}",
    Event.LANDED: "Landed: verified, synced and in its place",
    Event.FAILED: "Given up",
    Event.EXPIRED: "Expired",
    Event.FETCHED: "Downloaded by {actor}",
    Event.HELD: "Kept from now on, says {actor}",
    Event.RELEASED: "Kept no longer than others, says {actor}",
    Event.REMOVED: "Removed from the server",
}
"""What a person reads of a row of the audit log."""


STARTED = "started"

MOST_STEPS = 100
"""Of each kind: an uplink that drops every few seconds makes thousands, and nobody reads them."""


@dataclass(frozen=True)
class Step:
    """One thing that happened."""

    at: datetime
    event: str
    """Of the audit log, or the code that an attempt ended with, or `started`."""
    what: str
    detail: str = ""
    """What was said about it, by people or by agents."""


def history(transfer: Transfer) -> list[Step]:
    """The steps, the oldest first: the newest of each kind. Addresses stay in the audit log."""
    deeds = AuditRecord.objects.filter(transfer=transfer.pk).order_by("-number")
    steps = [_deed(row) for row in deeds[:MOST_STEPS]]
    steps += [_setback(row) for row in transfer.setback_rows.order_by("-at", "-id")[:MOST_STEPS]]
    if transfer.started_at is not None:
        steps.append(Step(transfer.started_at, STARTED, "The first byte was on its way"))
    return sorted(steps, key=lambda step: step.at)


def _deed(row: AuditRecord) -> Step:
    what = DEEDS.get(row.event, row.event).format(actor=row.actor.removeprefix("user "))
    details: dict[str, Any] = row.details
    if row.event == Event.RATE_LIMITED:
        return Step(
            row.at,
            row.event,
            what,
            f"from {_limit(details['before'])} to {_limit(details['rate_limit'])}",
        )
    return Step(row.at, row.event, what, str(details.get("reason", "")))


def _limit(said: int | str) -> str:
    return rate(said) if isinstance(said, int) else "no limit"


def _setback(row: Setback) -> Step:
    why = "the link was lost" if row.code == LINK_LOST else ERRORS[row.code].sentence.rstrip(".")
    what = f"Attempt {row.attempt} ended after {size(row.received)}: {why} ({row.code})"
    return Step(row.at, row.code, what, "" if row.detail == f"{why}." else row.detail)
