"""Who is online, by leases that last 45 s from each sign of life; and who was, once they have ended."""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django.db import connection, models, transaction
from django.db.models.functions import Collate
from django.utils import timezone

from agent.wire.display import shown

from .client import Client, ClientConflict

HEARTBEAT = 15
"""Seconds between heartbeats."""

LEASE = timedelta(seconds=3 * HEARTBEAT)
"""A client is online for this long after each sign of life."""

KEPT = timedelta(days=90)
"""For how long it is kept, for people to look at."""

SHORTEST_GAP = timedelta(seconds=15)
"""Who is back so soon, as after a lost link, was not away for anybody who reads it."""

CAME_ONLINE = """
    UPDATE transfers_client SET epoch = %s, online_since = %s, online_until = %s, last_seen = %s,
        platform = %s, hostname = %s, agent_version = %s, renewable = %s
    WHERE id = %s
"""
ALL_SEEN = """
    UPDATE transfers_client SET online_until = %s, last_seen = %s
    WHERE id = %s AND epoch = %s AND revoked_at IS NULL
"""
SEEN_AT_ONCE = 500
"""In one transaction: SQLite has one writer, and who comes online waits for it."""


class Presence(models.Model):
    """A time for which a client was online, which is over."""

    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="presences")
    begun = models.DateTimeField()
    ended = models.DateTimeField()

    class Meta:
        ordering = ("-ended",)
        indexes = (
            models.Index(fields=("client", "ended")),
            models.Index(fields=("ended",)),
        )

    def __str__(self) -> str:
        return f"{self.client_id} from {self.begun} to {self.ended}"

    @classmethod
    def forget_old(cls) -> None:
        """Nobody asks who was online long ago; only since when it was not, of one that came back."""
        old = cls.objects.filter(ended__lt=timezone.now() - KEPT)
        later = old.filter(client=models.OuterRef("client"), ended__gt=models.OuterRef("ended"))
        old.filter(models.Exists(later)).delete()


@dataclass(frozen=True)
class Arrived:
    """A connection that was let in with the token of `client`, and what its agent says of itself."""

    client: Client
    platform: str
    hostname: str
    agent_version: str
    renewable: bool = False


def all_came_online(arrived: Sequence[Arrived]) -> list[Client | ClientConflict]:
    """Connections were accepted: the rows of their clients as they are now, in the order of these.

    Each has an epoch, one higher than any before it; or a conflict, where the token was replaced since
    it was let in: else it would hold what only the new token may.
    """
    now = timezone.now()
    moment = connection.ops.adapt_datetimefield_value
    answers: list[Client | ClientConflict] = []
    updates: list[tuple[Any, ...]] = []
    presences: list[Presence] = []
    with transaction.atomic():
        wanted = {each.client.pk for each in arrived}
        # In one order, that of `all_seen`, or two processes could wait for each other.
        order = Collate("pk", "C") if connection.vendor == "postgresql" else "pk"
        locked = Client.objects.select_for_update().filter(pk__in=wanted).order_by(order)
        rows = {row.pk: row for row in locked}
        for each in arrived:
            row = rows.get(each.client.pk)
            if row is None or row.token_sha256 != each.client.token_sha256:
                detail = f"The token of client {each.client} was replaced."
                answers.append(ClientConflict("replaced", detail))
                continue
            row.epoch += 1
            presences += _ended(row, now)
            row.online_until, row.last_seen = now + LEASE, now
            row.platform = shown(each.platform)[:255]
            row.hostname = shown(each.hostname)[:255]
            row.agent_version = shown(each.agent_version)[:255]
            row.renewable = each.renewable
            answers.append(copy(row))  # an older connection of the same client keeps its own
            updates.append(
                (row.epoch, moment(row.online_since), moment(row.online_until), moment(now),
                 row.platform, row.hostname, row.agent_version, row.renewable, row.pk)
            )  # fmt: skip
        with connection.cursor() as cursor:
            cursor.executemany(CAME_ONLINE, updates)
        Presence.objects.bulk_create(presences)
    return answers


def _ended(client: Client, now: datetime) -> list[Presence]:
    """It comes online: what is over by that, for its history."""
    since, until = client.online_since, client.online_until
    if since is None or until is None:
        client.online_since = now
        return []
    if now <= until + SHORTEST_GAP:
        return []
    client.online_since = now
    return [Presence(client=client, begun=since, ended=until)]


def all_seen(signs: Iterable[tuple[str, int, datetime]]) -> None:
    """Renew the leases of many: the client, its epoch, and when its agent was heard.

    Not where a newer connection holds it, or the client is revoked.
    """
    moment = cache(connection.ops.adapt_datetimefield_value)  # thousands, of a few seconds
    rows = [
        (moment(at + LEASE), moment(at), pk, epoch)
        # In one order, or two processes could wait for each other.
        for pk, epoch, heard in sorted(signs)
        for at in [heard.replace(microsecond=0)]
    ]
    for first in range(0, len(rows), SEEN_AT_ONCE):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany(ALL_SEEN, rows[first : first + SEEN_AT_ONCE])
