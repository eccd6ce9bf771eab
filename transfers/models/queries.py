"""Looking for transfers: whose turn it is, what is due, what is still to come."""

from datetime import datetime
from typing import TYPE_CHECKING

from django.db.models import F, Min, Q, QuerySet, Sum
from django.utils import timezone

from .status import ACTIVE, LIVE, PENDING, Status, StatusConflict

if TYPE_CHECKING:
    from .transfer import Transfer  # noqa: F401  # named as a string below


class TransferQuerySet(QuerySet["Transfer"]):
    """Transfers. Every look-up that more than one place needs is here."""

    def live(self) -> "TransferQuerySet":
        """Neither landed nor given up."""
        return self.filter(status__in=LIVE)

    def waiting_for(self, client_id: str, epoch: int) -> "TransferQuerySet":
        """What the connection of this epoch should ask for, oldest first.

        That is also what an older connection left active; and what this one did, unless it is at it.
        """
        rested = Q(next_attempt_at=None) | Q(next_attempt_at__lte=timezone.now())
        pending = Q(status__in=PENDING) & rested
        left_behind = Q(status__in=ACTIVE, epoch__lte=epoch)
        return self.filter(pending | left_behind, client_id=client_id).order_by("created_at")

    def next_event(self, client_id: str) -> datetime | None:
        """When the next pause or deadline of this client's transfers is over, if there is one ahead."""
        now = timezone.now()
        firsts = (
            self.live()
            .filter(client_id=client_id)
            .aggregate(
                attempt=Min("next_attempt_at", filter=Q(next_attempt_at__gt=now)),
                deadline=Min("deadline", filter=Q(deadline__gt=now)),
            )
        )
        return min(filter(None, firsts.values()), default=None)

    def bytes_to_come(self, asked_by: datetime) -> int:
        """What is still to come of transfers that have begun, or were asked for by then.

        Not of later ones that are about to begin: or two that fit one by one would both give way.
        """
        rest = F("size") - F("received")
        before = Q(created_at__lte=asked_by) | Q(received__gt=0)
        receiving = self.filter(before, status=Status.RECEIVING).aggregate(rest=Sum(rest))
        return receiving["rest"] or 0

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
