"""The admin's pages about letting machines in: clients, codes and keys."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client as Browser

from transfers.access import join_group
from transfers.models import AuditRecord, Client, EnrolmentKey, Scope, enrol, make_code, make_key
from transfers.tokens import digest

HOUR = timedelta(hours=1)
CLIENTS, KEYS = "/admin/transfers/client/", "/admin/transfers/enrolmentkey/"
MODEL = "django.contrib.auth.backends.ModelBackend"


def browser(group: str) -> Browser:
    user = User.objects.create_user(group, is_staff=True)
    join_group(user, group)
    browser = Browser()
    browser.force_login(user, backend=MODEL)
    return browser


@pytest.fixture
def boss(db: None) -> Browser:
    return browser("admin")


@pytest.fixture
def pending(db: None) -> Client:
    return enrol(make_key(3, HOUR), digest("one"), wanted="till-1", hostname="<b>till</b>")


def act(browser: Browser, url: str, action: str, *rows: Any, **more: str) -> str:
    answer = browser.post(
        url, {"action": action, "_selected_action": [row.pk for row in rows], **more}, follow=True
    )
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_the_list_says_each_clients_status_and_can_be_filtered(
    boss: Browser, client1: Client, pending: Client
) -> None:
    Client.objects.create(id="invited-1")
    Client.objects.create(id="revoked-1", token_sha256="9").revoke()
    for status, name in (
        ("active", "client1"), ("pending", "till-1"), ("invited", "invited-1"), ("revoked", "revoked-1"),
    ):  # fmt: skip
        page = boss.get(CLIENTS, {"status": status}).content.decode()
        shown = {
            each for each in ("client1", "till-1", "invited-1", "revoked-1") if f"{each}<" in page
        }
        assert shown == {name}
        assert f'<td class="field-state">{status}</td>' in page


def test_what_a_machine_says_of_itself_is_escaped(boss: Browser, pending: Client) -> None:
    for url in (CLIENTS, f"{CLIENTS}{pending.pk}/change/", KEYS):
        page = boss.get(url).content.decode()
        assert "<b>till</b>" not in page


def test_pending_clients_are_approved(boss: Browser, pending: Client) -> None:
    assert "Approved: till-1." in act(boss, CLIENTS, "approve", pending)
    assert Client.objects.get().status == "active"
    assert AuditRecord.objects.get(event="client_approved").actor == "user admin"


def test_a_pending_client_is_asked_for_nothing(boss: Browser, pending: Client) -> None:
    said = act(boss, CLIENTS, "request_file", pending, ask="Request file", path="", reason="")
    assert "waits to be approved" in said
    assert not pending.transfers.exists()


def test_a_new_token_is_sent_where_that_can_be_done(
    boss: Browser, client1: Client, pending: Client
) -> None:
    pending.approve()
    said = act(boss, CLIENTS, "rotate", client1, pending)
    assert "client1 was given its token by hand" in said
    assert "A new token goes to till-1." in said
    assert Client.objects.get(pk="till-1").rotate_requested_at is not None


def test_a_code_is_shown_once_and_works(boss: Browser, client1: Client) -> None:
    asked = act(boss, CLIENTS, "make_code", client1)
    assert "present token" in asked
    assert not EnrolmentKey.objects.exists()
    page = act(boss, CLIENTS, "make_code", client1, ask="Make", valid_for="30m")
    code = page.split("<dd><code>")[1].split("</code>")[0]
    for url in (CLIENTS, f"{CLIENTS}client1/change/", KEYS, "/admin/"):
        assert code not in boss.get(url).content.decode()
    assert enrol(code, digest("one")).pk == "client1"
    assert EnrolmentKey.objects.get().made_by == "user admin"


def test_a_time_that_makes_no_sense_makes_no_code(boss: Browser, client1: Client) -> None:
    page = act(boss, CLIENTS, "make_code", client1, ask="Make", valid_for="soon")
    assert "no span of time" in page
    assert not EnrolmentKey.objects.exists()


def test_keys_are_listed_with_what_they_gave_and_revoked(boss: Browser, pending: Client) -> None:
    key = EnrolmentKey.objects.get()
    page = boss.get(f"{KEYS}{key.pk}/change/").content.decode()
    assert "till-1" in page
    assert key.digest not in page
    assert f"Nobody enrols any more with key {key.pk}." in act(boss, KEYS, "revoke", key)
    assert EnrolmentKey.objects.get().status == "revoked"
    assert '<td class="field-state">revoked</td>' in boss.get(KEYS).content.decode()


@pytest.mark.parametrize("group", ["viewer", "operator"])
def test_who_may_not_let_in_is_shown_neither_keys_nor_actions(
    client1: Client, pending: Client, group: str
) -> None:
    other = browser(group)
    assert other.get(KEYS).status_code == 403
    page = other.get(CLIENTS).content.decode()
    for action in ("approve", "rotate", "make_code", "revoke"):
        assert f'value="{action}"' not in page
        form = {"action": action, "_selected_action": [pending.pk], "ask": "x", "valid_for": "1h"}
        assert other.post(CLIENTS, form).status_code == 403
    assert Client.objects.get(pk="till-1").status == "pending"
    assert EnrolmentKey.objects.count() == 1


def test_who_is_limited_to_labels_makes_no_codes(client1: Client) -> None:
    """A code is for a client of all; keys make new ones, which have no label yet."""
    limited = browser("admin")
    Scope.objects.create(user=User.objects.get(username="admin"))
    assert limited.get(KEYS).status_code == 403
    assert 'value="make_code"' not in limited.get(CLIENTS).content.decode()


def test_an_open_code_is_listed_with_its_client(boss: Browser, client1: Client) -> None:
    make_code(client1, HOUR)
    page = boss.get(KEYS).content.decode()
    assert "client1" in page
    assert '<td class="field-state">open</td>' in page
