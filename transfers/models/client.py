"""A client: a machine that files are pulled from, its presence and its connection's epoch."""

import re
from datetime import datetime, timedelta

from django.core.validators import RegexValidator
from django.db import models, transaction
from django.db.models import F
from django.utils import timezone

from agent.wire.display import shown
from transfers import dispatch
from transfers.storage import StorageError

from .status import FINAL, StatusConflict

HEARTBEAT = 15
"""Seconds between heartbeats: under daphne's 20 s of silence before it sends a ping of its own."""

LEASE = timedelta(seconds=3 * HEARTBEAT)
"""A client is online for this long after each sign of life."""

CLIENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Only what may stand in a URL, a file name and the name of a channel-layer group."""

client_id_validator = RegexValidator(
    rf"\A{CLIENT_ID.pattern}\Z",
    "A client id has 1 to 64 letters, digits, dots, dashes or underscores, and begins with a letter or "
    "a digit.",
)


def is_client_id(name: str) -> bool:
    return CLIENT_ID.fullmatch(name) is not None


class Client(models.Model):
    """A machine that files are pulled from. Presence is a lease, never a flag that a crash leaves set."""

    id = models.CharField(
        "client id", primary_key=True, max_length=64, validators=[client_id_validator]
    )
    token_sha256 = models.CharField(max_length=64, unique=True, editable=False)
    epoch = models.PositiveBigIntegerField(default=0, editable=False)
    online_until = models.DateTimeField(null=True, editable=False)
    last_seen = models.DateTimeField(null=True, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)
    platform = models.CharField(max_length=255, blank=True, editable=False)
    hostname = models.CharField(max_length=255, blank=True, editable=False)
    agent_version = models.CharField(max_length=255, blank=True, editable=False)
    labels = models.JSONField(default=list, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return self.id

    @property
    def online(self) -> bool:
        return self.online_until is not None and self.online_until > timezone.now()

    def came_online(self, *, platform: str, hostname: str, agent_version: str) -> int:
        """A connection was accepted: its epoch, one higher than any before it."""
        now = timezone.now()
        with transaction.atomic():
            Client.objects.filter(pk=self.pk).update(
                epoch=F("epoch") + 1,
                online_until=now + LEASE,
                last_seen=now,
                platform=shown(platform)[:255],
                hostname=shown(hostname)[:255],
                agent_version=shown(agent_version)[:255],
            )
            self.refresh_from_db()
        return self.epoch

    def seen(self, epoch: int, at: datetime) -> bool:
        """Renew the lease, from when its agent was heard.

        False: a newer connection holds it, or the client is revoked.
        """
        mine = Client.objects.filter(pk=self.pk, epoch=epoch, revoked_at=None)
        return bool(mine.update(online_until=at + LEASE, last_seen=at))

    def went_offline(self, epoch: int) -> None:
        """The connection of this epoch ended; a newer one keeps its lease."""
        now = timezone.now()
        Client.objects.filter(pk=self.pk, epoch=epoch).update(online_until=now)

    def revoke(self) -> None:
        """Refuse this client from now on, close its connection, and fail what it was asked for."""
        now = timezone.now()
        Client.objects.filter(pk=self.pk, revoked_at=None).update(revoked_at=now)
        self.refresh_from_db(fields=["revoked_at"])
        for transfer in self.transfers.exclude(status__in=FINAL):
            while not transfer.is_final:
                try:
                    if not transfer.finish_landing():
                        transfer.fail(transfer.epoch, "revoked")
                except StatusConflict:
                    continue  # it just moved on: look again
                except StorageError:
                    break  # it has landed, but that cannot be synced: a sweep tries again
        transaction.on_commit(lambda: dispatch.ring_from_sync(self.pk))
