"""What each client makes this server write on one day (UTC)."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime, time, timedelta

from django.db import IntegrityError, models, transaction
from django.db.models import Sum
from django.utils import timezone

from .client import Client
from .compare_and_set import Plus, compare_and_set

KEPT = timedelta(days=90)
"""For how long it is kept what was written on a day, for people to look at."""


class Usage(models.Model):
    """Bytes of one client that were written on one day, those sent again after a lost link too."""

    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="usage")
    day = models.DateField()
    written = models.BigIntegerField(default=0)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("client", "day"), name="one_usage_of_a_day"),
        )
        indexes = (models.Index(fields=("day",)),)

    def __str__(self) -> str:
        return f"{self.written} bytes from {self.client_id} on {self.day}"

    @classmethod
    def add(cls, client_id: str, written: int) -> None:
        """So many bytes more were written today."""
        if (gathered := _gathered.get()) is None:
            _add(client_id, written)
        else:
            gathered[client_id] += written

    @classmethod
    def forget_old(cls) -> None:
        """Nobody asks what was written on days long past."""
        cls.objects.filter(day__lt=_today() - KEPT).delete()


_gathered: ContextVar[Counter[str] | None] = ContextVar("gathered", default=None)


@contextmanager
def counted_together() -> Iterator[None]:
    """What is counted in here, in one transaction, is added at its end: of each client in one query."""
    written: Counter[str] = Counter()
    token = _gathered.set(written)
    try:
        yield
    finally:
        _gathered.reset(token)
    for client_id in sorted(written):  # in one order, or two processes could wait for each other
        _add(client_id, written[client_id])


def _add(client_id: str, written: int) -> None:
    day = _today()
    today, more = {"client": client_id, "day": day}, {"written": Plus(written)}
    if compare_and_set(Usage, today, more):
        return
    try:
        with transaction.atomic():
            Usage.objects.create(client_id=client_id, day=day, written=written)
    except IntegrityError:  # another transfer of this client was first
        compare_and_set(Usage, today, more)


def written_today(client_id: str | None = None) -> int:
    """Bytes of this client that were written today, or of all of them."""
    rows = Usage.objects.filter(day=_today())
    if client_id is not None:
        rows = rows.filter(client_id=client_id)
    return rows.aggregate(sum=Sum("written"))["sum"] or 0


def _today() -> date:
    return timezone.now().astimezone(UTC).date()


def tomorrow(now: datetime) -> datetime:
    """When the next day begins (UTC)."""
    day = now.astimezone(UTC).date() + timedelta(days=1)
    return datetime.combine(day, time(), UTC)
