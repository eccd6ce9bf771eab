"""Webhooks: each event once to each address, signed, again and again until it is taken."""

import hashlib
import hmac
import json
import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.utils import timezone

from tests.end_to_end.harness import PATIENCE, eventually
from tests.receiver import Receiver
from transfers import recovery, webhooks
from transfers.models import (
    AuditHead,
    AuditRecord,
    Client,
    Delivery,
    Event,
    Transfer,
    Webhook,
    record,
)
from transfers.models.webhook import KEPT, MOST_ATTEMPTS

pytestmark = pytest.mark.django_db(transaction=True)

DELIVERIES = "/admin/transfers/delivery/"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def webhook(receiver: Receiver) -> Webhook:
    return Webhook.objects.create(url=receiver.url, secret="the secret")


@pytest.fixture
def transfer(client1: Client) -> Transfer:
    return Transfer.objects.create(client=client1, path="/x")


def tell() -> None:
    for thread in webhooks.tell():
        thread.join()


def wait_no_longer() -> None:
    Delivery.objects.exclude(next_attempt_at=None).update(next_attempt_at=timezone.now())


def test_a_receiver_that_fails_three_times_gets_its_message_signed_once_it_answers(
    receiver: Receiver, webhook: Webhook, transfer: Transfer
) -> None:
    receiver.answers = [(500, {}), (503, {}), (429, {})]
    record(Event.LANDED, transfer=transfer, sha256="ab" * 32)
    for attempt in range(1, 4):
        before = timezone.now()
        tell()
        delivery = Delivery.objects.get()
        assert (delivery.attempts, delivery.delivered_at) == (attempt, None)
        assert delivery.next_attempt_at is not None
        assert delivery.next_attempt_at - before >= timedelta(seconds=5 * 3 ** (attempt - 1))
        tell()
        assert len(receiver.heard) == attempt, "not before its time"
        wait_no_longer()
    assert (delivery.status, delivery.answer) == (429, "no, \\x1b[31mnot now")
    tell()
    delivery.refresh_from_db()
    assert (delivery.status, delivery.attempts, delivery.next_attempt_at) == (204, 4, None)
    assert delivery.delivered_at is not None
    tell()
    assert len(receiver.heard) == 4
    headers, body = receiver.heard[-1]
    moment, signature = (
        part.partition("=")[2] for part in headers["Silentmode-Signature"].split(",")
    )
    expected = hmac.new(b"the secret", moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert signature == expected
    assert (headers["Silentmode-Event"], headers["Silentmode-Delivery"]) == (
        "landed",
        str(delivery.pk),
    )
    said = json.loads(body)
    assert (said["event"], said["transfer"], said["client"]) == (
        "landed",
        str(transfer.pk),
        "client1",
    )
    assert said["details"] == {"sha256": "ab" * 32}
    assert {body for _, body in receiver.heard} == {receiver.heard[0][1]}, "the same, each time"


def test_what_was_before_and_what_was_not_chosen_is_not_told(
    receiver: Receiver, transfer: Transfer
) -> None:
    record(Event.LANDED, transfer=transfer)
    webhook = Webhook.objects.create(url=receiver.url, landed=False)
    for event in (Event.REQUESTED, Event.LANDED, Event.FAILED, Event.EXPIRED, Event.CANCELLED):
        record(event, transfer=transfer)
    tell()
    assert sorted(json.loads(body)["event"] for _, body in receiver.heard) == ["expired", "failed"]
    webhook.refresh_from_db()
    assert webhook.told == AuditRecord.objects.count()
    webhook.active = False
    webhook.save()
    record(Event.FAILED, transfer=transfer)
    tell()
    assert len(receiver.heard) == 2


def test_two_processes_make_and_send_each_delivery_once(
    receiver: Receiver, webhook: Webhook, transfer: Transfer
) -> None:
    other = Webhook.objects.get()
    record(Event.LANDED, transfer=transfer)
    webhook.collect()
    other.collect()
    assert Delivery.objects.count() == 1
    one, same = Delivery.objects.get(), Delivery.objects.get()
    assert (one.claim(), same.claim()) == (True, False)
    tell()
    assert receiver.heard == [], "whoever claimed it is at it"


def test_more_events_than_are_looked_at_at_once_are_all_told(
    receiver: Receiver, webhook: Webhook, transfer: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfers.models.webhook.MOST_AT_ONCE", 2)
    monkeypatch.setattr(webhooks, "MOST_AT_ONCE", 2)
    for _ in range(5):
        record(Event.LANDED, transfer=transfer)
    tell()
    assert len(receiver.heard) == 5


def test_what_comes_while_it_is_looked_is_told_once(
    webhook: Webhook, transfer: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(Event.LANDED, transfer=transfer)
    head = AuditHead.objects.get()
    record(Event.FAILED, transfer=transfer)
    with monkeypatch.context() as patch:
        patch.setattr(
            AuditHead.objects, "filter", lambda pk: AuditHead.objects.none() or Found(head)
        )
        webhook.collect()
    assert Delivery.objects.count() == 1
    webhook.collect()
    assert Delivery.objects.count() == 2


class Found:
    """A query that has found this."""

    def __init__(self, head: AuditHead) -> None:
        self._head = head

    def first(self) -> AuditHead:
        return self._head


def test_an_address_that_hangs_holds_up_no_other(
    receiver: Receiver, webhook: Webhook, transfer: Transfer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        Webhook.objects.create(url=f"http://127.0.0.1:{silent.getsockname()[1]}/")
        record(Event.LANDED, transfer=transfer)
        threads = webhooks.tell()
        eventually("the other one to be told", lambda: receiver.heard)
        record(Event.FAILED, transfer=transfer)
        more = webhooks.tell()
        eventually("and told on", lambda: len(receiver.heard) == 2)
        assert sum(thread.is_alive() for thread in threads) == 1
        assert all(thread.daemon for thread in threads)
    for thread in (*threads, *more):
        thread.join(PATIENCE)


def test_how_far_an_address_was_told_is_not_set_back_by_who_edits_it(
    webhook: Webhook, transfer: Transfer
) -> None:
    record(Event.LANDED, transfer=transfer)
    told = Webhook.objects.get()
    told.collect()
    webhook.failed = False
    webhook.save()
    again = Webhook.objects.get()
    assert (again.failed, again.told) == (False, told.told)
    assert told.told > webhook.told


def test_a_row_that_nobody_can_send_is_given_up_like_any_other(
    webhook: Webhook, transfer: Transfer
) -> None:
    Webhook.objects.update(url="file:///etc/passwd")
    record(Event.LANDED, transfer=transfer)
    tell()
    delivery = Delivery.objects.get()
    assert (delivery.attempts, delivery.status) == (1, None)
    assert "Enter a valid URL" in delivery.answer


def test_a_redirect_is_not_followed(
    receiver: Receiver, webhook: Webhook, transfer: Transfer
) -> None:
    receiver.answers = [(307, {"Location": receiver.url + "/elsewhere"})]
    record(Event.LANDED, transfer=transfer)
    tell()
    assert len(receiver.heard) == 1
    assert Delivery.objects.get().status == 307


def test_who_is_not_there_is_tried_for_two_days_and_then_given_up(
    webhook: Webhook, transfer: Transfer, receiver: Receiver
) -> None:
    Webhook.objects.update(url="http://127.0.0.1:1/")
    record(Event.LANDED, transfer=transfer)
    waited = timedelta()
    for _ in range(MOST_ATTEMPTS):
        begun = timezone.now()
        tell()
        delivery = Delivery.objects.get()
        waited += (delivery.next_attempt_at or begun) - begun
        wait_no_longer()
    assert timedelta(hours=30) < waited < timedelta(hours=72)
    assert (delivery.attempts, delivery.next_attempt_at, delivery.status) == (
        MOST_ATTEMPTS,
        None,
        None,
    )
    assert "Connection refused" in delivery.answer
    Delivery.objects.update(created_at=timezone.now() - KEPT - timedelta(hours=1))
    recovery.sweep()
    assert not Delivery.objects.exists()


# In the admin ------------------------------------------------------------------------------------


def browser_of(group: str) -> Browser:
    user = User.objects.create_user(f"a-{group}", is_staff=True)
    if group == "boss":
        User.objects.filter(pk=user.pk).update(is_superuser=True)
    browser = Browser()
    browser.force_login(User.objects.get(pk=user.pk))
    return browser


def test_the_admin_makes_one_and_the_audit_log_says_so_without_its_secret(client1: Client) -> None:
    browser = browser_of("boss")
    form = {"url": "ftp://x", "secret": "the secret", "landed": "on", "active": "on"}
    assert (
        "Enter a valid URL" in browser.post("/admin/transfers/webhook/add/", form).content.decode()
    )
    form["url"] = "https://hooks.example.com/silentmode"
    assert browser.post("/admin/transfers/webhook/add/", form).status_code == 302
    webhook = Webhook.objects.get()
    assert (webhook.landed, webhook.failed) == (True, False)
    row = AuditRecord.objects.get(event="webhook_changed")
    assert row.details == {"url": form["url"], "told": ["active", "landed"]}
    browser.post(f"/admin/transfers/webhook/{webhook.pk}/delete/", {"post": "yes"})
    assert AuditRecord.objects.filter(event="webhook_removed").exists()


def test_the_admin_lists_what_was_sent_with_its_answer_and_sends_it_again(
    receiver: Receiver, webhook: Webhook, transfer: Transfer
) -> None:
    receiver.answers = [(418, {})]
    record(Event.LANDED, transfer=transfer)
    tell()
    browser = browser_of("boss")
    page = browser.get(DELIVERIES).content.decode()
    assert "418" in page
    assert "no, \\x1b[31mnot now" in page
    form = {"action": "send_again", "_selected_action": str(Delivery.objects.get().pk)}
    browser.post(DELIVERIES, form)
    tell()
    assert Delivery.objects.get().status == 204
