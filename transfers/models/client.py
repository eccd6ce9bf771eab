"""A client: a machine that files are pulled from, its access, and its connection's epoch."""

import logging
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from django.core.validators import RegexValidator
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.utils import timezone

from transfers import dispatch
from transfers.storage import StorageError

from .audit import Event, record
from .label import Label
from .status import FINAL, StatusConflict

log = logging.getLogger(__name__)

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


class ClientQuerySet(models.QuerySet["Client"]):
    def holding(self, digests: Collection[str]) -> "ClientQuerySet":
        """Whose one of these tokens is, or is to be: a rotation has sent it."""
        return self.filter(Q(token_sha256__in=digests) | Q(next_token_sha256__in=digests))

    def holders(self, digests: Collection[str]) -> dict[str | None, "Client"]:
        """Of each of these tokens that is anybody's; of another's next one whoever has it now."""
        clients = list(self.holding(digests)) if digests else []
        to_be = {client.next_token_sha256: client for client in clients}
        return to_be | {client.token_sha256: client for client in clients}

    def with_status(self, status: str) -> "ClientQuerySet":
        """As `Client.status` has it."""
        enrolled = self.filter(revoked_at=None, token_sha256__isnull=False)
        match status:
            case ClientStatus.INVITED:
                return self.filter(revoked_at=None, token_sha256=None)
            case ClientStatus.PENDING:
                return enrolled.filter(approved_at=None)
            case ClientStatus.ACTIVE:
                return enrolled.exclude(approved_at=None)
            case ClientStatus.REVOKED:
                return self.exclude(revoked_at=None)
        raise ValueError(status)

    def online(self) -> "ClientQuerySet":
        """Active ones whose lease lasts."""
        return self.with_status(ClientStatus.ACTIVE).filter(online_until__gt=timezone.now())

    def offline(self) -> "ClientQuerySet":
        """Active ones that have no lease, or whose lease is over."""
        away = Q(online_until=None) | Q(online_until__lte=timezone.now())
        return self.with_status(ClientStatus.ACTIVE).filter(away)

    def end_lease(self) -> None:
        """They are offline from now on; one that was over before stays so, as nothing was heard since."""
        now = timezone.now()
        self.filter(online_until__gt=now).update(online_until=now)


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

    @classmethod
    def standing(cls, pks: Iterable[str]) -> dict[str, Standing]:
        """Of each of these clients."""
        fields = ("epoch", "token_sha256", "revoked_at", "rotate_requested_at")
        rows = cls.objects.filter(pk__in=pks).values_list("pk", *fields)
        return {pk: Standing(*rest) for pk, *rest in rows}

    def went_offline(self, epoch: int) -> None:
        """The connection of this epoch ended; a newer one keeps its lease."""
        Client.objects.filter(pk=self.pk, epoch=epoch).end_lease()

    def label(self, names: Iterable[str]) -> None:
        """Give the client these labels, and no others; new ones are made. Raises ValidationError."""
        wanted = Label.called(names)
        with transaction.atomic():
            self.labels.set(Label.there(wanted))
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
