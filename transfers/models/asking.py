"""Asking for files: the one way to make a transfer. What is asked twice is one transfer.

The same file of the same client, while it is under way, is not asked for again, unless the caller
says `duplicate`. A user's idempotency key gives the transfer that its first use was answered with,
whatever has become of it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import IntegrityError, models, transaction

from .audit import Event, record, recorded_together
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


def asked_before(requested_by: Any, idempotency_key: str, count: int = 1) -> list[Transfer] | None:
    """What this user's first request with this key was answered with; None: there was none.

    `count`: how many files are asked for with it. Where there were more, there is one more in the answer.
    """
    keys = _keys(idempotency_key, count + 1)
    used = RequestKey.objects.filter(requested_by=requested_by, key__in=keys)
    known = {
        each.key: each.transfer
        for each in used.select_related("transfer__requested_by", "transfer__client")
    }
    return [known[key] for key in keys if key in known] if keys[0] in known else None


def _keys(idempotency_key: str, count: int) -> list[str]:
    """A key for each file, of 255 characters at most; the first is the one that was sent."""
    digest = hashlib.sha256(idempotency_key.encode()).hexdigest()
    return [idempotency_key, *(f"{digest} {number}" for number in range(1, count))]


@dataclass(frozen=True)
class Terms:
    """How files are asked for."""

    requested_by: Any = None
    deadline: datetime | None = None
    idempotency_key: str | None = None
    duplicate: bool = False
    reason: str = ""
    rate_limit: int | None = None


def request_file(client: Client, path: str | None = None, **terms: Any) -> Transfer:
    """The transfer that is to bring this file: a new one, or the one that is under way already.

    The terms are those of `Terms`.
    """
    return request_files(client, [path], **terms)[0]


def request_files(client: Client, paths: Sequence[str | None], **terms: Any) -> list[Transfer]:
    """As `request_file`, for many files, in their order; either all of them are asked for, or none."""
    wanted = Terms(**terms)
    try:
        return _answer(client, paths, wanted)
    except IntegrityError:  # somebody asked for the same in this very moment, so now it is there
        return _answer(client, paths, wanted)


def _answer(client: Client, paths: Sequence[str | None], terms: Terms) -> list[Transfer]:
    key = terms.idempotency_key
    if key and (known := asked_before(terms.requested_by, key, len(paths))):
        return known
    with transaction.atomic(), recorded_together():
        there = {} if terms.duplicate else _under_way(client, paths, terms.deadline)
        new = {path: _new(client, path, terms) for path in paths if path not in there}
        # In one order, or two requests could wait for each other.
        Transfer.objects.bulk_create(sorted(new.values(), key=lambda each: each.path_key))
        if new:
            next(iter(new.values())).ring()
        transfers = [there.get(path) or new[path] for path in paths]
        for path, transfer in zip(paths, transfers, strict=True):
            record(
                Event.REQUESTED,
                transfer=transfer,
                path=path,
                reason=terms.reason,
                deadline=terms.deadline,
                rate_limit=terms.rate_limit,
                under_way=path in there,
            )
        if key:
            used = zip(_keys(key, len(paths)), transfers, strict=True)
            RequestKey.objects.bulk_create(
                RequestKey(requested_by=terms.requested_by, key=each, transfer=transfer)
                for each, transfer in used
            )
    return transfers


def _new(client: Client, path: str | None, terms: Terms) -> Transfer:
    return Transfer(
        client=client,
        path=path,
        path_key=path_key(path),  # `save` is not asked for it
        requested_by=terms.requested_by,
        deadline=terms.deadline,
        duplicate=terms.duplicate,
        reason=terms.reason,
        rate_limit=terms.rate_limit,
    )


def _under_way(
    client: Client, paths: Sequence[str | None], deadline: datetime | None
) -> dict[str | None, Transfer]:
    """Those of these files that are asked for already, for as long as this caller wants them, too."""
    keys = {path_key(path) for path in paths}
    same = Transfer.objects.live().filter(client=client, path_key__in=keys, duplicate=False)
    rows = same.select_related("requested_by", "client").order_by("pk")
    known = {transfer.path: transfer for transfer in rows}
    for transfer in known.values():
        if transfer.deadline is not None:
            _extend(transfer, deadline)
    return known


def _extend(transfer: Transfer, deadline: datetime | None) -> None:
    """Who is answered with somebody else's transfer has it for as long as they asked for."""
    if deadline is None or (transfer.deadline is not None and deadline > transfer.deadline):
        transfer.deadline = deadline
        transfer.save(update_fields=["deadline"])
