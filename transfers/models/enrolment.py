"""Enrolment: a machine exchanges a code for being a client, with a token that it has made itself.

A *code* is a key with one use, for one client that somebody registered. A *key* has many uses, each of
which makes a new client that waits to be approved; it can never become a client that is there already.
The server sees the SHA-256 of a token only.
"""

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, models, transaction
from django.db.models import F
from django.utils import timezone

from agent.wire.display import shown
from transfers.acting import Actor, acting, actor
from transfers.tokens import code_digest, new_code

from .audit import Event, record
from .client import Client, is_client_id
from .label import Label

MAX_USES = 100_000


class EnrolmentRefused(Exception):
    """A code that gives nothing; `code` and `status` are the API's.

    The codes tell expired from used: nobody gets that far by guessing 125 bits, and to an operator a
    used code that should be fresh says that somebody else has enrolled with it.
    """

    def __init__(self, code: str, detail: str, status: int = 403) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.status = status


class TokenTaken(EnrolmentRefused):
    def __init__(self) -> None:
        detail = "Another client has this token. Enrol again, with a new one."
        super().__init__("token_taken", detail, 409)


class EnrolmentKey(models.Model):
    """A code or a key. Only its digest is kept; it is spoken of by its number."""

    digest = models.CharField(max_length=64, unique=True, editable=False)
    client = models.ForeignKey(
        Client, null=True, on_delete=models.CASCADE, related_name="codes", editable=False
    )
    """Whose code it is; null: a key for new clients."""
    uses = models.PositiveIntegerField(default=1, editable=False)
    uses_left = models.PositiveIntegerField(default=1, editable=False)
    labels = models.ManyToManyField(Label, blank=True, related_name="+", editable=False)
    """Of the clients that a key makes."""
    made_by = models.CharField(max_length=200, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("-created_at", "-pk")

    def __str__(self) -> str:
        return f"{'key' if self.client_id is None else 'code'} {self.pk}"

    @property
    def status(self) -> str:
        """`open`, `used`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        if self.uses_left == 0:
            return "used"
        return "expired" if self.expires_at <= timezone.now() else "open"

    def revoke(self) -> None:
        """Nobody enrols with it any more; who has, stays."""
        with transaction.atomic():
            mine = EnrolmentKey.objects.filter(pk=self.pk, revoked_at=None)
            if mine.update(revoked_at=timezone.now()):
                record(Event.KEY_REVOKED, client=self.client, key=str(self))
        self.refresh_from_db()

    def check_open(self) -> None:
        """Raises EnrolmentRefused."""
        sentences = {
            "used": "has been used up",
            "expired": f"was valid until {self.expires_at:%Y-%m-%d %H:%M} UTC",
            "revoked": "was revoked",
        }
        if sentence := sentences.get(self.status):
            detail = f"The enrolment code {sentence}. Ask for a new one."
            raise EnrolmentRefused(f"code_{self.status}", detail)


class Enrolment(models.Model):
    """What one use of a key gave: asked again with the same token, the same is answered."""

    key = models.ForeignKey(EnrolmentKey, on_delete=models.CASCADE, related_name="given")
    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="+")
    token_sha256 = models.CharField(max_length=64)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("key", "token_sha256"), name="one_enrolment_of_a_token"
            ),
        )

    def __str__(self) -> str:
        return f"{self.client_id} by {self.key}"


# Making them ------------------------------------------------------------------------------------


def make_code(client: Client, valid_for: timedelta) -> str:
    """A code for this client, the only one: those made for it earlier are void.

    Its use ends what the client's token can do, and lifts a revocation.
    """
    with transaction.atomic():
        EnrolmentKey.objects.filter(client=client, revoked_at=None, uses_left__gt=0).update(
            revoked_at=timezone.now()
        )
        code, key = _make(valid_for, client=client)
        record(Event.CODE_MADE, client=client, key=str(key), expires=key.expires_at)
    return code


def make_key(uses: int, valid_for: timedelta, labels: Iterable[Label] = ()) -> str:
    """A key for so many new clients, who get these labels."""
    with transaction.atomic():
        key_text, key = _make(valid_for, uses=uses, uses_left=uses)
        labels = Label.there(labels)
        key.labels.set(labels)
        record(
            Event.KEY_MADE,
            key=str(key),
            uses=uses,
            expires=key.expires_at,
            labels=sorted(label.pk for label in labels),
        )
    return key_text


def _make(valid_for: timedelta, **values: Any) -> tuple[str, EnrolmentKey]:
    code = new_code()
    key = EnrolmentKey.objects.create(
        digest=code_digest(code),
        made_by=actor().name[:200],
        expires_at=timezone.now() + valid_for,
        **values,
    )
    return code, key


# Using them -------------------------------------------------------------------------------------


def number_of(code: str) -> int | None:
    """The number of the key that this is the code of, open or not; None: there is none."""
    keys = EnrolmentKey.objects.filter(digest=code_digest(code))
    return keys.values_list("pk", flat=True).first()


def enrol(
    code: str, token_sha256: str, *, wanted: str = "", hostname: str = "", platform: str = ""
) -> Client:
    """The client that whoever holds the code, and a token with this digest, is from now on.

    `wanted` is the id that a key's new client is to have; else its host name. Raises EnrolmentRefused.
    """
    mine = EnrolmentKey.objects.filter(digest=code_digest(code))
    if not mine.exists():  # asked without a lock, or whoever guesses would hold up those who know
        raise EnrolmentRefused("code_unknown", "The enrolment code is not known to this server.")
    try:
        return _enrol(mine, token_sha256, wanted, hostname, platform)
    except EnrolmentRefused as refused:
        record(Event.REFUSED, action="enrol", key=str(mine.get()), code=refused.code)
        raise


def _enrol(
    mine: "models.QuerySet[EnrolmentKey]",
    token_sha256: str,
    wanted: str,
    hostname: str,
    platform: str,
) -> Client:
    try:
        with transaction.atomic():
            key = mine.select_for_update().get()
            given = key.given.filter(token_sha256=token_sha256).select_related("client").first()
            if given is not None:
                return _again(given)
            key.check_open()
            client = _take_up(key, wanted, hostname)
            if Client.objects.holding([token_sha256]).exclude(pk=client.pk).exists():
                raise TokenTaken
            _let_in(key, client, token_sha256, hostname, platform)
    except IntegrityError:  # another enrolment with this token was quicker
        raise TokenTaken from None
    return client


def _again(given: Enrolment) -> Client:
    """The answer was lost; what it gave may have been taken back since. Raises EnrolmentRefused."""
    client = given.client
    if client.token_sha256 != given.token_sha256 or client.revoked_at is not None:
        detail = "The enrolment code has been used, and what it gave is no longer valid."
        raise EnrolmentRefused("code_used", detail)
    return client


def _take_up(key: EnrolmentKey, wanted: str, hostname: str) -> Client:
    """The client that this use of the key is for. Raises EnrolmentRefused."""
    if key.client is not None:
        if wanted not in ("", key.client_id):
            raise EnrolmentRefused("wrong_id", f"The code is not for client {wanted!r}.")
        return key.client
    client_id = wanted or re.sub(r"[^A-Za-z0-9._-]+", "-", hostname).strip("._-")[:64]
    if not is_client_id(client_id):
        detail = (
            "The machine's host name makes no client id. Enrol it with an id of your choice (--id)."
        )
        raise EnrolmentRefused("id_needed", detail, 400)
    if Client.objects.filter(pk=client_id).exists():
        raise EnrolmentRefused(
            "client_exists",
            f"There is a client {client_id} already, and a key makes new ones only. Enrol with another id "
            f"(--id); if it is this machine, `manage.py add_client {client_id} --renew` makes a code.",
            409,
        )
    client = Client(id=client_id, approved_at=None)
    client.save(force_insert=True)
    client.labels.set(key.labels.all())
    return client


def _let_in(
    key: EnrolmentKey, client: Client, token_sha256: str, hostname: str, platform: str
) -> None:
    """The token is the client's, from now on and alone."""
    now = timezone.now()
    lifted, replaced = client.revoked_at is not None, client.token_sha256 is not None
    EnrolmentKey.objects.filter(pk=key.pk).update(uses_left=F("uses_left") - 1)
    Client.objects.filter(pk=client.pk).end_lease()
    Client.objects.filter(pk=client.pk).update(
        token_sha256=token_sha256,
        next_token_sha256=None,
        rotate_requested_at=None,
        renewable=True,
        revoked_at=None,
        enrolled_at=now,
        hostname=shown(hostname)[:255],
        platform=shown(platform)[:255],
        epoch=F("epoch") + 1,  # a connection with the old token writes nothing more
    )
    client.refresh_from_db()
    client.ring()
    Enrolment.objects.create(key=key, client=client, token_sha256=token_sha256, at=now)
    machine = Actor(f"client {client}", actor().address)
    with acting(lambda: machine):
        record(
            Event.CLIENT_ENROLLED,
            client=client,
            key=str(key),
            hostname=client.hostname,
            platform=client.platform,
            labels=sorted(label.pk for label in client.labels.all()),
            status=str(client.status),
            token_replaced=replaced,
            revocation_lifted=lifted,
        )
