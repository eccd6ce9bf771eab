"""Looking for transfers: whose turn it is, what is due, what is still to come."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from django.db.models import Count, F, Min, Q, QuerySet, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from .row import foreseen
from .status import ACTIVE, LIVE, PENDING, Status, StatusConflict

if TYPE_CHECKING:
    from .transfer import Transfer  # named as a string below


@dataclass(frozen=True)
class Outlook:
    """How many transfers are live, how many of them past their deadline, and what is ahead."""

    live: int
    due: int
    attempt: datetime | None
    deadline: datetime | None

    @property
    def next_event(self) -> datetime | None:
        """When the next pause or deadline is over, if there is one ahead."""
        return min(filter(None, (self.attempt, self.deadline)), default=None)


class TransferQuerySet(QuerySet["Transfer"]):
    """Transfers. Every look-up that more than one place needs is here."""

    def live(self) -> "TransferQuerySet":
        """Neither landed nor given up."""
        return self.filter(status__in=LIVE)

    def live_clients(self, pks: Iterable[str]) -> set[str]:
        """Those of these clients that have something to send, or will have."""
        live = self.live().filter(client_id__in=pks)
        return set(live.order_by().values_list("client_id", flat=True).distinct())

    def waiting_for(self, client_id: str, epoch: int) -> "TransferQuerySet":
        """What the connection of this epoch should ask for, first what has waited the longest.

        That is also what an older connection left active; and what this one did, unless it is at it.
        """
        rested = Q(next_attempt_at=None) | Q(next_attempt_at__lte=timezone.now())
        pending = Q(status__in=PENDING) & rested
        left_behind = Q(status__in=ACTIVE, epoch__lte=epoch)
        return self.filter(pending | left_behind, client_id=client_id).order_by(
            Coalesce("next_attempt_at", "created_at"), "created_at"
        )

    def outlook(self, client_id: str) -> "Outlook":
        """What is ahead of this client's transfers."""
        now = timezone.now()
        live = self.live().filter(client_id=client_id)
        return Outlook(
            **live.aggregate(
                live=Count("pk"),
                due=Count("pk", filter=Q(deadline__lte=now)),
                attempt=Min("next_attempt_at", filter=Q(next_attempt_at__gt=now)),
                deadline=Min("deadline", filter=Q(deadline__gt=now)),
            )
        )

    def begun_before(self, transfer: "Transfer") -> "TransferQuerySet":
        """Those under way that began before this one. An order: of two, one goes first."""
        return self.filter(status=Status.RECEIVING, started_at__lt=transfer.started_at)

    def promised_before(self, transfer: "Transfer") -> int:
        """What is still to come of those that its own client began before, in bytes."""
        rows = self.begun_before(transfer).filter(client_id=transfer.client_id)
        return rows.aggregate(rest=Sum(F("size") - F("received")))["rest"] or 0

    def foreseen_before(self, transfer: "Transfer") -> int:
        """What all that began before this one will bring, as far as it can be foreseen, in bytes."""
        now = timezone.now()
        begun = self.begun_before(transfer).order_by()  # no objects: all look at all, now and then
        rows = begun.values_list("started_at", "size", "received")
        return sum(
            foreseen(started_at, size, received, now)
            for started_at, size, received in rows.iterator()
            if started_at is not None and size is not None  # as all that receive have them
        )

    def landed_before(self, when: datetime) -> "TransferQuerySet":
        """Landed files of that age which are still there, and which nobody holds."""
        return self.filter(
            status=Status.COMPLETED, removed_at=None, held=False, finished_at__lt=when
        )

    def expire_due(self) -> int:
        """Expire what is past its deadline; how many."""
        expired = 0
        for transfer in self.live().filter(deadline__lte=timezone.now()):
            try:
                transfer.expire()
            except StatusConflict:
                continue  # it just landed, or was cancelled
            expired += 1
        return expired
