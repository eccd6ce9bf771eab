"""Sending what webhooks are told: each process looks, and whoever claims a delivery sends it."""

import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from django.db import connection

from agent.wire.display import shown

from .models import Delivery, Webhook
from .models.webhook import LONGEST_ANSWER, MOST_AT_ONCE, http_url
from .redirects import NoRedirect

SEND_SECONDS = 10.0
"""For the receiver's answer."""

MOST_IN_A_ROW = 200
"""Deliveries that one thread sends to one address, before it is looked anew."""

log = logging.getLogger(__name__)


_opener = urllib.request.build_opener(NoRedirect)


_busy: set[int] = set()
"""Addresses that a thread of this process is telling: one each, so that one that hangs holds up no other."""


def tell(is_stopping: Callable[[], bool] = lambda: False) -> list[threading.Thread]:
    """Begin to send what is due, in threads that the end of the process does not wait for; these."""
    active = list(Webhook.objects.filter(active=True))
    for webhook in active:
        while webhook.collect() >= MOST_AT_ONCE:
            pass
    if not active:  # as in most places: one query each time, and no more
        return []
    threads = []
    for pk in set(Delivery.due().order_by().values_list("webhook_id", flat=True)) - _busy:
        _busy.add(pk)
        threads.append(
            threading.Thread(target=_serve, args=(pk, is_stopping), name="webhook", daemon=True)
        )
        threads[-1].start()
    return threads


def _serve(pk: int, is_stopping: Callable[[], bool]) -> None:
    """Send what is due to one address, in order, for as long as it answers."""
    try:
        for delivery in Delivery.due().filter(webhook=pk)[:MOST_IN_A_ROW]:
            if is_stopping():
                break
            if delivery.claim() and not send(delivery):
                break
    except Exception:  # say, the database restarts: what was claimed is sent when its lease is over
        log.exception("could not send to webhook %s", pk)
    finally:
        _busy.discard(pk)
        connection.close()  # of this thread, which ends


def send(delivery: Delivery) -> bool:
    """One try; what came of it is on the row. False where nobody answered."""
    connection.close()  # for as long as the receiver takes: there are few
    status, answer = _post(delivery)
    delivery.answered(status, answer)
    if delivery.delivered_at is None:
        log.warning(
            "Webhook %s did not take %s (attempt %d): %s %s",
            delivery.webhook, delivery.pk, delivery.attempts, status or "no answer", answer[:200],
        )  # fmt: skip
    return status is not None


def _post(delivery: Delivery) -> tuple[int | None, str]:
    now = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Silentmode",
        "Silentmode-Event": delivery.event,
        "Silentmode-Delivery": str(delivery.pk),
        "Silentmode-Signature": f"t={now},v1={delivery.signature(now)}",
    }
    try:
        http_url(delivery.webhook.url)  # again: a row is not only made by the admin
        request = urllib.request.Request(  # noqa: S310  # as it was looked at
            delivery.webhook.url, delivery.body.encode(), headers, method="POST"
        )
        with _opener.open(request, timeout=SEND_SECONDS) as answer:
            return answer.status, _text(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, _text(refused)
    except Exception as error:  # whatever the address, the network or the receiver came up with
        return None, shown(f"{type(error).__name__}: {error}")


def _text(answer: Any) -> str:
    data: bytes = answer.read(4 * LONGEST_ANSWER)
    return shown(data.decode("utf-8", "replace"))
