"""How often a user may do what is recorded, and what is on record of what was refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.utils import timezone
from knox.models import AuthToken
from pytest_django import Settings
from rest_framework.test import APIClient

from transfers import rates
from transfers.access import join_group
from transfers.models import AuditRecord, Client, Event, Label, Scope, Transfer
from transfers.throttle import Allowances

FROZEN = 1.0


@pytest.fixture(autouse=True)
def time_stands_still(monkeypatch: pytest.MonkeyPatch, fresh_rates: None) -> None:
    for name, burst in (("deeds", 120), ("refusals", 100)):
        monkeypatch.setattr(rates, name, Allowances(burst, 0.1, clock=lambda: FROZEN))


def program_of(user: User) -> APIClient:
    _, token = AuthToken.objects.create(user)
    return APIClient(headers={"Authorization": f"Token {token}"})


@pytest.fixture
def viewer(db: None) -> User:
    user = User.objects.create_user("vera", is_staff=True)
    join_group(user, "viewer")
    return user


@pytest.fixture
def elsewhere(operator: User) -> User:
    """An operator who is limited to Rome, where there is no client."""
    User.objects.filter(pk=operator.pk).update(is_staff=True)
    Scope.objects.create(user=operator).labels.add(Label.objects.create(name="rome"))
    return operator


@pytest.fixture
def landed(client1: Client, data_dir: Path) -> Transfer:
    (data_dir / "downloads/landed.db").write_bytes(b"landed")
    return Transfer.objects.create(
        client=client1,
        status="completed",
        file="landed.db",
        sha256="ab" * 32,
        finished_at=timezone.now(),
    )


def rows(event: Event = Event.REFUSED) -> list[dict[str, Any]]:
    found = AuditRecord.objects.filter(event=event).order_by("number")
    return [row.details | {"actor": row.actor} for row in found]


# The rate ----------------------------------------------------------------------------------------


def test_a_burst_of_a_hundred_files_is_fetched(operator: User, landed: Transfer) -> None:
    api = program_of(operator)
    url = f"/api/v1/transfers/{landed.pk}/content/"
    assert [api.get(url).status_code for _ in range(100)] == [200] * 100
    assert len(rows(Event.FETCHED)) == 100


def test_beyond_the_rate_nothing_is_served_and_nothing_recorded(
    operator: User, landed: Transfer, caplog: pytest.LogCaptureFixture
) -> None:
    api = program_of(operator)
    url = f"/api/v1/transfers/{landed.pk}/content/"
    answers = [api.get(url) for _ in range(150)]
    served = [answer.status_code for answer in answers].count(200)
    assert (served, len(rows(Event.FETCHED))) == (120, 120)
    assert answers[-1].status_code == 429
    assert answers[-1].json()["code"] == "throttled"
    assert answers[-1]["Retry-After"] == "10"
    assert caplog.text.count("olga has made too many calls") == 1
    assert "Too Many Requests" not in caplog.text
    assert api.get(f"/api/v1/transfers/{landed.pk}/").status_code == 200, "looking leaves no row"


def test_each_user_has_their_own(operator: User, viewer: User, client1: Client) -> None:
    first, second = program_of(viewer), program_of(operator)
    for _ in range(120):
        first.post("/download/client1")
    assert first.post("/download/client1").status_code == 429
    assert second.post("/download/client1").status_code == 202


def test_who_is_refused_cannot_fill_the_log(viewer: User, client1: Client) -> None:
    api = program_of(viewer)
    answers = [api.post("/api/v1/clients/client1/revoke/").status_code for _ in range(150)]
    assert answers == [403] * 100 + [429] * 50
    assert len(rows()) == 100
    assert api.get("/api/v1/clients/client1/").status_code == 200


def test_the_admins_actions_count_as_well(landed: Transfer) -> None:
    """Each form for one, and each row that it is about."""
    browser = Browser()
    browser.force_login(User.objects.create_superuser("root"))
    form = {"action": "hold", "_selected_action": str(landed.pk)}
    answers = [browser.post("/admin/transfers/transfer/", form) for _ in range(61)]
    assert [answer.status_code for answer in answers] == [302] * 60 + [429]
    assert answers[-1]["Retry-After"] == "10"


def test_so_do_logins_and_all_other_forms_of_the_admin(
    viewer: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    monkeypatch.setattr(rates, "deeds", Allowances(5, 0.1, clock=lambda: FROZEN))
    viewer.set_password("correct horse")
    viewer.save()
    browser, form = Browser(), {"username": "vera", "password": "correct horse"}

    def log_in() -> int:
        browser.post("/admin/logout/")
        return browser.post("/admin/login/", form).status_code

    assert [log_in() for _ in range(4)] == [302] * 4
    assert browser.post("/admin/password_change/", {}).status_code == 200
    assert browser.post("/admin/password_change/", {}).status_code == 429
    assert log_in() == 429
    assert browser.get("/admin/").status_code == 302, "nobody is logged in"
    assert len(rows(Event.LOGGED_IN)) == 4


# What is on record -------------------------------------------------------------------------------


def test_what_is_outside_of_a_scope_or_not_there_is_answered_and_recorded_alike(
    elsewhere: User, landed: Transfer
) -> None:
    api = program_of(elsewhere)
    for client in ("client1", "nobody"):
        assert api.get(f"/api/v1/clients/{client}/").status_code == 404
        assert api.post(f"/download/{client}").status_code == 404
    assert api.get(f"/api/v1/transfers/{landed.pk}/content/").status_code == 404
    assert [row["action"] for row in rows()] == [
        "retrieve", "download", "retrieve", "download", "content",
    ]  # fmt: skip
    assert {row["actor"] for row in rows()} == {"user olga"}


def test_a_slip_of_who_is_not_limited_is_none(operator: User, client1: Client) -> None:
    assert program_of(operator).post("/download/nobody").status_code == 404
    assert rows() == []


PAGES: list[tuple[str, Callable[[Browser], Any], int]] = [
    ("a page", lambda browser: browser.get("/admin/auth/user/"), 403),
    ("an action", lambda browser: browser.post(
        "/admin/transfers/client/", {"action": "revoke", "_selected_action": "client1"}), 403),
    ("a column", lambda browser: browser.get("/admin/transfers/client/?token_sha256__gt=a"), 400),
]  # fmt: skip


@pytest.mark.parametrize(("what", "ask", "status"), PAGES, ids=[page[0] for page in PAGES])
def test_what_the_admin_refuses_is_recorded_within_the_same_rate(
    viewer: User, client1: Client, what: str, ask: Callable[[Browser], Any], status: int
) -> None:
    browser = Browser()
    browser.force_login(viewer)
    assert [ask(browser).status_code for _ in range(101)] == [status] * 100 + [429]
    assert len(rows()) == 100
    assert rows()[0]["path"].startswith("/admin/")
    assert rows()[0]["actor"] == "user vera"
    assert Client.objects.get(pk="client1").revoked_at is None


def test_so_is_what_is_outside_of_the_scope(elsewhere: User, landed: Transfer) -> None:
    browser = Browser()
    browser.force_login(elsewhere)
    for page in (f"transfer/{landed.pk}", "client/client1", "client/nobody"):
        browser.get(f"/admin/transfers/{page}/change/")
    assert len(rows()) == 3


@pytest.mark.django_db
def test_a_stranger_leaves_no_row(client1: Client) -> None:
    APIClient().post("/api/v1/clients/client1/revoke/")
    APIClient().get("/api/v1/clients/client1/", headers={"Authorization": "Token " + "a" * 64})
    Browser().get("/admin/auth/user/")
    Browser().get("/ws/agent/client1/", headers={"authorization": "Bearer guess"})
    assert not AuditRecord.objects.exists()
