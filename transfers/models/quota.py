"""How much a day may bring: of one client, and of all together."""

import logging

from django.conf import settings

from . import usage
from .transfer import Transfer

log = logging.getLogger(__name__)


class QuotaExceeded(Exception):
    """This transfer does not fit into a day: `code` is from the table of error codes."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def check_quota(transfer: Transfer, to_come: int) -> None:
    """Whether `to_come` bytes more of this offered transfer fit into today. Raises QuotaExceeded.

    What its own client has promised before goes first. What others have promised does not count, only
    what they have brought: a day that is used up costs time and no bytes, and promises are cheap.
    """
    _check(transfer, to_come, "BYTES_PER_DAY_PER_CLIENT", transfer.client_id)
    _check(transfer, to_come, "BYTES_PER_DAY", None)


def _check(transfer: Transfer, to_come: int, setting: str, client_id: str | None) -> None:
    most = getattr(settings, setting)
    size = transfer.size or 0
    if not most:
        return
    if size > most:
        raise QuotaExceeded(
            "too_large",
            f"{transfer} has {size} bytes; this server takes up to {most} a day (SILENTMODE_{setting}).",
        )
    written = usage.written_today(client_id)
    promised = Transfer.objects.promised_before(transfer)
    if written + promised + to_come > most:
        log.warning(
            "%s has to wait: %d bytes came today, %d are promised before it, %d are still to come of it, "
            "and %d a day are allowed (SILENTMODE_%s)",
            transfer, written, promised, to_come, most, setting,
        )  # fmt: skip
        raise QuotaExceeded(
            "quota_exceeded",
            f"{transfer} waits for the next day (UTC): it does not fit into what is left of this one "
            f"(SILENTMODE_{setting}).",
        )
