"""Sending what webhooks are told: each process looks, and whoever claims a delivery sends it."""

import logging
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.db import connection
from django.utils import timezone

from agent.wire.display import shown

from .models import Delivery, Webhook
from .models.webhook import KEPT, LONGEST_ANSWER, http_url

SEND_SECONDS = 10.0
"""For the receiver's answer."""

MOST_AT_ONCE = 8
"""Messages that are on their way: a receiver that hangs must not hold up the others for long."""

log = logging.getLogger(__name__)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is signed for one address is for that address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_opener = urllib.request.build_opener(NoRedirect)


def tell() -> None:
    """Find what is new for each address, and send what is due."""
    for webhook in Webhook.objects.all():
        webhook.collect()
    while due := [each for each in Delivery.due(MOST_AT_ONCE) if each.claim()]:
        with ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="webhook") as threads:
            list(threads.map(send, due))


def send(delivery: Delivery) -> None:
    """One try; what came of it is on the row."""
    try:
        status, answer = _post(delivery)
        delivery.answered(status, answer)
        if delivery.delivered_at is None:
            log.warning(
                "Webhook %s did not take %s (attempt %d): %s %s",
                delivery.webhook, delivery.pk, delivery.attempts, status or "no answer", shown(answer[:200]),
            )  # fmt: skip
    finally:
        connection.close()  # of this thread, which ends


def _post(delivery: Delivery) -> tuple[int | None, str]:
    now = int(time.time())
    request = urllib.request.Request(  # noqa: S310  # `http_url` has looked at it
        delivery.webhook.url,
        delivery.body.encode(),
        {
            "Content-Type": "application/json",
            "User-Agent": "Silentmode",
            "Silentmode-Event": delivery.event,
            "Silentmode-Delivery": str(delivery.pk),
            "Silentmode-Signature": f"t={now},v1={delivery.signature(now)}",
        },
        method="POST",
    )
    try:
        http_url(delivery.webhook.url)  # again: a row is not only made by the admin
        with _opener.open(request, timeout=SEND_SECONDS) as answer:
            return answer.status, _text(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, _text(refused)
    except Exception as error:  # whatever the address, the network or the receiver came up with
        return None, f"{type(error).__name__}: {error}"


def _text(answer: Any) -> str:
    data: bytes = answer.read(4 * LONGEST_ANSWER)
    return shown(data.decode("utf-8", "replace"))


def forget_old() -> None:
    """Remove what was sent long ago, or given up."""
    Delivery.objects.filter(next_attempt_at=None, created_at__lt=timezone.now() - KEPT).delete()
