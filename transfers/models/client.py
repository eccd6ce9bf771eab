"""A client: a machine that files are pulled from, its presence and its connection's epoch."""

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django.core.validators import RegexValidator
from django.db import IntegrityError, connection, models, transaction
from django.db.models import Q
from django.db.models.functions import Collate
from django.utils import timezone

from agent.wire.display import shown
from transfers import dispatch
from transfers.storage import StorageError

from .audit import Event, record
from .label import Label
from .presence import SHORTEST_GAP, Presence
from .status import FINAL, StatusConflict

log = logging.getLogger(__name__)

HEARTBEAT = 15
"""Seconds between heartbeats."""

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


class ClientStatus(models.TextChoices):
    INVITED = "invited"
    """Registered; no machine has enrolled as it yet."""
    PENDING = "pending"
    """Enrolled itself with a key, and waits to be approved."""
    ACTIVE = "active"
    REVOKED = "revoked"


class ClientConflict(Exception):
    """What was asked for cannot be done with this client; `code` says why."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True)
class Standing:
    """What a connection wants to know of its client's row; the defaults are those of one left in peace."""

    epoch: int
    token_sha256: str | None
    revoked_at: datetime | None = None
    rotate_requested_at: datetime | None = None


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


class ClientQuerySet(models.QuerySet["Client"]):
    def holding(self, digests: Collection[str]) -> "ClientQuerySet":
        """Whose one of these tokens is, or is to be: a rotation has sent it."""
        return self.filter(Q(token_sha256__in=digests) | Q(next_token_sha256__in=digests))

    def holders(self, digests: Collection[str]) -> dict[str | None, "Client"]:
        """Of each of these tokens that is anybody's; of another's next one whoever has it now."""
        clients = list(self.holding(digests)) if digests else []
        to_be = {client.next_token_sha256: client for client in clients}
        return to_be | {client.token_sha256: client for client in clients}


class Client(models.Model):
    """A machine that files are pulled from. Presence is a lease, never a flag that a crash leaves set."""

    id = models.CharField(
        "client id", primary_key=True, max_length=64, validators=[client_id_validator]
    )
    token_sha256 = models.CharField(max_length=64, null=True, unique=True, editable=False)
    next_token_sha256 = models.CharField(max_length=64, null=True, unique=True, editable=False)
    """Of the token that a rotation has sent; the old one is accepted, too, until the agent shows this one."""
    rotate_requested_at = models.DateTimeField(null=True, editable=False)
    renewable = models.BooleanField(default=False, editable=False)
    """Whether its agent can keep a new token: one that was given to it by hand it cannot replace."""
    approved_at = models.DateTimeField(null=True, default=timezone.now, editable=False)
    """Null only for one that enrolled itself with a key."""
    enrolled_at = models.DateTimeField(null=True, editable=False)
    epoch = models.PositiveBigIntegerField(default=0, editable=False)
    online_since = models.DateTimeField(null=True, editable=False)
    """Of the time that its lease ends, or has ended; those before it are its presences."""
    online_until = models.DateTimeField(null=True, editable=False)
    last_seen = models.DateTimeField(null=True, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)
    rung_at = models.DateTimeField(null=True, editable=False, db_index=True)
    """When its connection was last to look at this row: for servers that no doorbell reaches."""
    platform = models.CharField(max_length=255, blank=True, editable=False)
    hostname = models.CharField(max_length=255, blank=True, editable=False)
    agent_version = models.CharField(max_length=255, blank=True, editable=False)
    labels = models.ManyToManyField(Label, blank=True, related_name="clients")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ClientQuerySet.as_manager()

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return self.id

    @property
    def online(self) -> bool:
        return self.online_until is not None and self.online_until > timezone.now()

    @property
    def status(self) -> ClientStatus:
        if self.revoked_at is not None:
            return ClientStatus.REVOKED
        if self.token_sha256 is None:
            return ClientStatus.INVITED
        return ClientStatus.PENDING if self.approved_at is None else ClientStatus.ACTIVE

    def check_served(self) -> None:
        """Raises ClientConflict where no file may be asked of this client.

        An invited one is like one that is offline: what it is asked for waits.
        """
        if self.status is ClientStatus.REVOKED:
            raise ClientConflict("revoked", f"The access of client {self} was revoked.")
        if self.status is ClientStatus.PENDING:
            raise ClientConflict("pending", f"Client {self} waits to be approved.")

    @staticmethod
    def all_came_online(arrived: "Sequence[Arrived]") -> "list[Client | ClientConflict]":
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
                presences += row._end_presence(now)
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

    def _end_presence(self, now: datetime) -> "list[Presence]":
        """It comes online: what is over by that, for its history."""
        since, until = self.online_since, self.online_until
        if since is None or until is None:
            self.online_since = now
            return []
        if now <= until + SHORTEST_GAP:
            return []
        self.online_since = now
        return [Presence(client=self, begun=since, ended=until)]

    @staticmethod
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

    @classmethod
    def standing(cls, pks: Iterable[str]) -> dict[str, Standing]:
        """Of each of these clients."""
        fields = ("epoch", "token_sha256", "revoked_at", "rotate_requested_at")
        rows = cls.objects.filter(pk__in=pks).values_list("pk", *fields)
        return {pk: Standing(*rest) for pk, *rest in rows}

    def went_offline(self, epoch: int) -> None:
        """The connection of this epoch ended; a newer one keeps its lease.

        A lease that was over before stays so: it has not been heard since.
        """
        now = timezone.now()
        held = Client.objects.filter(pk=self.pk, epoch=epoch, online_until__gt=now)
        held.update(online_until=now)

    def label(self, names: Iterable[str]) -> None:
        """Give the client these labels, and no others; new ones are made. Raises ValidationError."""
        wanted = [Label(name=name) for name in dict.fromkeys(names)]
        for each in wanted:
            each.clean_fields()
        with transaction.atomic():
            Label.objects.bulk_create(wanted, ignore_conflicts=True)
            self.labels.set(Label.objects.filter(pk__in=[each.pk for each in wanted]))
            record(Event.CLIENT_LABELLED, client=self, labels=sorted(each.pk for each in wanted))

    # Access ----------------------------------------------------------------------------------

    def approve(self) -> None:
        """Let in a client that enrolled itself. Raises ClientConflict when it is revoked."""
        with transaction.atomic():
            waiting = Client.objects.filter(pk=self.pk, approved_at=None, revoked_at=None)
            if waiting.update(approved_at=timezone.now()):
                record(Event.CLIENT_APPROVED, client=self)
        self.refresh_from_db()
        if self.status is ClientStatus.REVOKED:
            raise ClientConflict("revoked", f"The access of client {self} was revoked.")

    def rotate(self) -> None:
        """Have the agent take a new token, as soon as it is online. Raises ClientConflict."""
        self.check_served()
        if self.status is ClientStatus.INVITED:
            raise ClientConflict("invited", f"No machine has enrolled as client {self} yet.")
        if not self.renewable:
            raise ClientConflict(
                "not_renewable",
                f"The agent of client {self} was given its token by hand, and cannot keep a new one. "
                f"`manage.py add_client {self} --renew` makes a code to enrol it anew.",
            )
        with transaction.atomic():
            # Not while one is under way: its token may be on the agent's disk already.
            idle = Client.objects.filter(pk=self.pk, rotate_requested_at=None)
            if idle.update(rotate_requested_at=timezone.now()):
                record(Event.CLIENT_ROTATING, client=self)
            self.ring()
        self.refresh_from_db()

    def offer_token(self, epoch: int, token_sha256: str) -> bool:
        """The connection of this epoch is about to send a new token, if that is still wanted.

        Only once a connection, before anything else was offered on it: the agent has kept none then, as
        it came with the old token.
        """
        mine = Client.objects.filter(pk=self.pk, epoch=epoch, revoked_at=None)
        wanted = mine.exclude(rotate_requested_at=None)
        return bool(wanted.update(next_token_sha256=token_sha256))

    def take_token(self, token_sha256: str) -> bool:
        """The agent has the new token: from now on it is the only one.

        False: it was not offered last, or is another client's by now; then the next one is offered.
        """
        offered = Client.objects.filter(pk=self.pk, next_token_sha256=token_sha256)
        try:
            with transaction.atomic():
                taken = offered.update(
                    token_sha256=token_sha256, next_token_sha256=None, rotate_requested_at=None
                )
                if taken:
                    record(Event.CLIENT_ROTATED, client=self)
        except IntegrityError:
            taken = 0
            offered.update(next_token_sha256=None)
            log.warning("Client %s was sent a token that another client has: not taken", self)
        self.refresh_from_db()
        return bool(taken)

    def revoke(self) -> None:
        """Refuse this client from now on, close its connection, and fail what it was asked for."""
        now = timezone.now()
        with transaction.atomic():
            # Locked before their client, as an enrolment does it: else the two could wait for each other.
            codes = self.codes.select_for_update().filter(revoked_at=None, uses_left__gt=0)
            numbers = [code.pk for code in codes]
            if Client.objects.filter(pk=self.pk, revoked_at=None).update(revoked_at=now):
                record(Event.CLIENT_REVOKED, client=self)
            self.codes.filter(pk__in=numbers).update(revoked_at=now)
            self.ring()  # with the revocation itself, not after all that follows
        self.refresh_from_db(fields=["revoked_at"])
        self.fail_transfers()

    def fail_transfers(self) -> None:
        """Fail what a revoked client was asked for, and has not landed."""
        for transfer in self.transfers.exclude(status__in=FINAL):
            while not transfer.is_final:
                try:
                    if not transfer.finish_landing():
                        transfer.fail(transfer.epoch, "revoked")
                except StatusConflict:
                    continue  # it just moved on: look again
                except StorageError:
                    break  # it has landed, but that cannot be synced: a sweep tries again

    # The doorbell ----------------------------------------------------------------------------

    def ring(self) -> None:
        """Have its connection look at this row, once the change is committed, in whichever process it is."""
        Client.objects.filter(pk=self.pk).update(rung_at=timezone.now())
        transaction.on_commit(lambda: dispatch.ring_from_sync(self.pk))

    @classmethod
    def rung_since(cls, when: datetime) -> list[str]:
        """The clients whose connections were to look since then."""
        return list(cls.objects.filter(rung_at__gte=when).values_list("pk", flat=True))


@dataclass(frozen=True)
class Arrived:
    """A connection that was let in with the token of `client`, and what its agent says of itself."""

    client: Client
    platform: str
    hostname: str
    agent_version: str
    renewable: bool = False
