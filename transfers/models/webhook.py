"""Who is told when a transfer ends: addresses, and what was sent to each.

What is to be sent is found in the audit log, behind the number up to which an address was told. So a landing
waits for no webhook, and every event is sent to each address at least once, whatever restarts meanwhile.
"""

import hashlib
import hmac
import json
import secrets
import uuid
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.db import models, transaction
from django.db.models import QuerySet
from django.utils import timezone

from .audit import AuditRecord, Event, last_number
from .compare_and_set import compare_and_set

TOLD = {Event.LANDED: "landed", Event.FAILED: "failed", Event.EXPIRED: "expired"}
"""The events that are sent, and the fields that choose them."""

MOST_AT_ONCE = 200
"""Events that are looked at in one go."""

PAUSE_GROWTH = 3
LONGEST_PAUSE = timedelta(hours=6)
MOST_ATTEMPTS = 14
"""5 s, 15 s, 45 s … 6 hours, by default: for some two days."""

LEASE = timedelta(seconds=60)
"""A process that sends has so long for it; then another one may try."""

KEPT = timedelta(days=30)
"""For how long what was sent can be looked at."""

LONGEST_ANSWER = 500


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def http_url(value: str) -> None:
    """Raises ValidationError for what is no address of a web server."""
    URLValidator(schemes=["http", "https"])(value)


class Webhook(models.Model):
    """An address that is told."""

    url = models.CharField("URL", max_length=500)
    secret = models.CharField(max_length=100, default=new_secret)
    """Signs what is sent, so that the receiver knows whose it is."""
    landed = models.BooleanField(default=True)
    failed = models.BooleanField(default=True)
    expired = models.BooleanField(default=True)
    active = models.BooleanField(default=True)
    told = models.PositiveBigIntegerField(default=0, editable=False)
    """The number of the last row of the audit log that was looked at for it."""
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return self.url

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self._state.adding:  # what has happened before is not news
            self.told = last_number()
        else:  # how far it was told is not for whoever changes it to say
            mine = [field.name for field in self._meta.concrete_fields if not field.primary_key]
            kwargs.setdefault("update_fields", [name for name in mine if name != "told"])
        super().save(*args, **kwargs)

    def clean(self) -> None:
        http_url(self.url)
        if not self.secret:
            raise ValidationError({"secret": "Without one, nobody can tell whose message it is."})

    def collect(self) -> int:
        """Make deliveries of the events that it was not told of yet; how many rows were looked at."""
        wanted = [event for event, name in TOLD.items() if getattr(self, name) and self.active]
        end = last_number()
        # No further than that: what comes meanwhile would be made again the next time.
        news = AuditRecord.objects.filter(number__gt=self.told, number__lte=end, event__in=wanted)
        rows = list(news.order_by("number")[:MOST_AT_ONCE])
        upto = rows[-1].number if len(rows) == MOST_AT_ONCE else end
        if upto <= self.told:
            return 0
        with transaction.atomic():
            # Another process may be at it: whoever moves the number makes the deliveries.
            if compare_and_set(Webhook, {"id": self.pk, "told": self.told}, {"told": upto}):
                Delivery.objects.bulk_create(Delivery.of(self, row) for row in rows)
        self.told = upto
        return len(rows)


class Delivery(models.Model):
    """One event for one address, and what came of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=32)
    transfer = models.UUIDField(null=True)
    body = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, db_index=True)
    """Null: it was taken, or given up."""
    delivered_at = models.DateTimeField(null=True)
    status = models.PositiveIntegerField(null=True)
    """Of the last answer, if there was one."""
    answer = models.TextField(blank=True)
    """How the last answer begins, or why there was none."""

    class Meta:
        ordering = ("-created_at",)
        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return f"{self.event} of {self.transfer} to {self.webhook_id}"

    @classmethod
    def of(cls, webhook: Webhook, row: AuditRecord) -> "Delivery":
        pk = uuid.uuid4()
        body = {
            "id": str(pk),
            "event": row.event,
            "at": row.at.isoformat(),
            "transfer": str(row.transfer),
            "client": row.client,
            "details": row.details,
        }
        return cls(
            id=pk,
            webhook=webhook,
            event=row.event,
            transfer=row.transfer,
            body=json.dumps(body),
            next_attempt_at=timezone.now(),
        )

    @classmethod
    def due(cls) -> "QuerySet[Delivery]":
        """Those whose time has come, first what has waited the longest."""
        rows = cls.objects.filter(
            next_attempt_at__lte=timezone.now(), webhook__active=True, attempts__lt=MOST_ATTEMPTS
        )
        return rows.select_related("webhook").order_by("next_attempt_at", "created_at")

    @classmethod
    def forget_old(cls) -> None:
        """Remove what was sent, or given up, long ago."""
        cls.objects.filter(created_at__lt=timezone.now() - KEPT).delete()

    def claim(self) -> bool:
        """Whether this process may send it now."""
        mine = Delivery.objects.filter(pk=self.pk, next_attempt_at=self.next_attempt_at)
        until = timezone.now() + LEASE
        if not mine.update(next_attempt_at=until, attempts=models.F("attempts") + 1):
            return False
        self.attempts, self.next_attempt_at = self.attempts + 1, until
        return True

    def answered(self, status: int | None, answer: str) -> None:
        """What the receiver said; None: nothing. Anything but a 2xx is tried again."""
        now = timezone.now()
        self.status, self.answer = status, answer[:LONGEST_ANSWER]
        self.next_attempt_at = self._next(now)
        if status is not None and 200 <= status < 300:
            self.delivered_at, self.next_attempt_at = now, None
        self.save(update_fields=["status", "answer", "next_attempt_at", "delivered_at"])

    def _next(self, now: datetime) -> datetime | None:
        if self.attempts >= MOST_ATTEMPTS:
            return None
        pause = timedelta(seconds=settings.WEBHOOK_PAUSE * PAUSE_GROWTH ** (self.attempts - 1))
        return now + min(pause, LONGEST_PAUSE)

    def signature(self, seconds: int) -> str:
        """HMAC-SHA256 (RFC 2104), in hexadecimal, of the moment and the body."""
        signed = f"{seconds}.{self.body}".encode()
        return hmac.new(self.webhook.secret.encode(), signed, hashlib.sha256).hexdigest()
