"""Asking for a file: the one way to make a transfer. What is asked twice is one transfer.

The same file of the same client, while it is under way, is not asked for again, unless the caller
says `duplicate`. A user's idempotency key gives the transfer that its first use was answered with,
whatever has become of it.
"""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import IntegrityError, models, transaction

from .audit import Event, record
from .client import Client
from .row import path_key
from .transfer import Transfer


class RequestKey(models.Model):
    """An `Idempotency-Key` that a user's request carried, and the transfer that answered it."""

    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, related_name="+"
    )
    key = models.CharField(max_length=255)
    transfer = models.ForeignKey(Transfer, on_delete=models.CASCADE, related_name="+")

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("requested_by", "key"), name="one_transfer_per_idempotency_key"
            ),
        )

    def __str__(self) -> str:
        return self.key


def asked_before(requested_by: Any, idempotency_key: str) -> Transfer | None:
    """What this user's first request with this key was answered with."""
    used = RequestKey.objects.filter(requested_by=requested_by, key=idempotency_key)
    known = used.select_related("transfer__requested_by").first()
    return known.transfer if known else None


def request_file(
    client: Client,
    path: str | None = None,
    *,
    requested_by: Any = None,
    deadline: datetime | None = None,
    idempotency_key: str | None = None,
    duplicate: bool = False,
    reason: str = "",
    rate_limit: int | None = None,
) -> Transfer:
    """The transfer that is to bring this file: a new one, or the one that is under way already."""
    wanted = Transfer(
        client=client,
        path=path,
        requested_by=requested_by,
        deadline=deadline,
        duplicate=duplicate,
        reason=reason,
        rate_limit=rate_limit,
    )
    try:
        return _answer(wanted, idempotency_key)
    except IntegrityError:  # somebody asked for the same in this very moment, so now it is there
        return _answer(wanted, idempotency_key)


def _answer(wanted: Transfer, idempotency_key: str | None) -> Transfer:
    user = wanted.requested_by
    if idempotency_key and (known := asked_before(user, idempotency_key)):
        return known
    with transaction.atomic():
        transfer = (None if wanted.duplicate else _under_way(wanted)) or wanted
        if transfer is wanted:
            wanted.save(force_insert=True)
            wanted.ring()
        record(
            Event.REQUESTED,
            transfer=transfer,
            path=wanted.path,
            reason=wanted.reason,
            deadline=wanted.deadline,
            rate_limit=wanted.rate_limit,
            under_way=transfer is not wanted,
        )
        if idempotency_key:
            RequestKey.objects.create(requested_by=user, key=idempotency_key, transfer=transfer)
    return transfer


def _under_way(wanted: Transfer) -> Transfer | None:
    same = Transfer.objects.live().filter(
        client=wanted.client, path_key=path_key(wanted.path), duplicate=False
    )
    transfer = same.select_related("requested_by").first()
    if transfer is not None and transfer.deadline is not None:
        _extend(transfer, wanted.deadline)
    return transfer


def _extend(transfer: Transfer, deadline: datetime | None) -> None:
    """Who is answered with somebody else's transfer has it for as long as they asked for."""
    if deadline is None or (transfer.deadline is not None and deadline > transfer.deadline):
        transfer.deadline = deadline
        transfer.save(update_fields=["deadline"])
