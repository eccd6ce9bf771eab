"""The admin's pages of users, labels, API tokens and the audit log: nobody becomes more than they are."""

from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client as Browser
from knox.models import AuthToken

from transfers.access import join_group
from transfers.models import AuditRecord, Client, Event, Label, Scope, record

USERS = "/admin/auth/user/"
HOSTILE = "<script>alert('x')</script>\n\u202egpj.exe"

pytestmark = pytest.mark.django_db


@pytest.fixture
def anna() -> User:
    """A user in the group admin."""
    user = User.objects.create_user("anna", is_staff=True)
    join_group(user, "admin")
    return user


@pytest.fixture
def browser(anna: User) -> Browser:
    browser = Browser()
    browser.force_login(anna)
    return browser


def form(user: User, **values: Any) -> dict[str, Any]:
    """What the page of a user posts."""
    return {
        "username": user.username,
        "is_active": "on",
        "date_joined_0": "2026-11-24",
        "date_joined_1": "00:00:00",
        "scope-TOTAL_FORMS": "0",
        "scope-INITIAL_FORMS": "0",
    } | values


def test_an_admin_gives_groups_and_limits_to_labels(browser: Browser) -> None:
    user = User.objects.create_user("otto")
    operator = Group.objects.get(name="operator")
    Label.objects.create(name="rome")
    values = {
        "groups": [operator.pk],
        "scope-TOTAL_FORMS": "1",
        "scope-0-user": user.pk,
        "scope-0-labels": ["rome"],
    }
    answer = browser.post(f"{USERS}{user.pk}/change/", form(user, **values))
    assert answer.status_code == 302, answer.content.decode()
    assert list(user.groups.all()) == [operator]
    assert [label.pk for label in Scope.objects.get(user=user).labels.all()] == ["rome"]
    said = [row.details for row in AuditRecord.objects.filter(event=Event.RIGHTS_CHANGED)]
    assert {"of": "otto", "what": "groups", "change": "add", "which": ["operator"]} in said
    assert AuditRecord.objects.filter(event=Event.RIGHTS_CHANGED, actor="user anna").exists()


def test_an_admin_cannot_make_a_superuser_or_give_single_rights(
    browser: Browser, anna: User
) -> None:
    for user in (User.objects.create_user("otto"), anna):
        everything = list(Permission.objects.values_list("pk", flat=True))
        values = {"is_superuser": "on", "user_permissions": everything, "is_staff": "on"}
        browser.post(f"{USERS}{user.pk}/change/", form(user, **values))
        user.refresh_from_db()
        assert user.is_superuser is False
        assert not user.user_permissions.exists()


def test_an_admin_cannot_change_a_superuser_or_their_password(browser: Browser) -> None:
    root = User.objects.create_superuser("root", password="correct horse")
    browser.post(f"{USERS}{root.pk}/change/", form(root, username="eve"))
    browser.post(
        f"{USERS}{root.pk}/password/",
        {"password1": "battery staple", "password2": "battery staple"},
    )
    root.refresh_from_db()
    assert root.username == "root"
    assert root.check_password("correct horse")


def test_an_admin_who_is_limited_cannot_widen_their_own_limits(
    browser: Browser, anna: User
) -> None:
    Label.objects.create(name="rome")
    Scope.objects.create(user=anna)
    for url in (
        USERS,
        f"{USERS}{anna.pk}/change/",
        f"{USERS}add/",
        "/admin/transfers/auditrecord/",
    ):
        assert browser.get(url).status_code == 403
    answer = browser.post(f"{USERS}{anna.pk}/change/", form(anna, **{"scope-0-labels": ["rome"]}))
    assert answer.status_code == 403
    assert not Scope.objects.get(user=anna).labels.exists()


def test_users_are_made_inactive_and_not_removed(browser: Browser) -> None:
    user = User.objects.create_user("otto")
    selected = {"action": "delete_selected", "_selected_action": user.pk, "post": "yes"}
    browser.post(USERS, selected)
    browser.post(f"{USERS}{user.pk}/delete/", {"post": "yes"})
    assert User.objects.filter(pk=user.pk).exists()
    browser.post(f"{USERS}{user.pk}/change/", form(user, is_active=""))
    assert User.objects.get(pk=user.pk).is_active is False


def test_a_token_is_listed_without_its_secret_and_revoked(browser: Browser, operator: User) -> None:
    made, token = AuthToken.objects.create(operator)
    page = browser.get("/admin/knox/authtoken/").content.decode()
    assert made.token_key in page
    assert token not in page
    browser.post(f"/admin/knox/authtoken/{made.pk}/delete/", {"post": "yes"})
    assert not AuthToken.objects.exists()
    row = AuditRecord.objects.get(event=Event.TOKEN_REVOKED)
    assert (row.actor, row.details["user"]) == ("user anna", "olga")


def test_an_admin_does_not_see_a_superusers_tokens(browser: Browser) -> None:
    made, _ = AuthToken.objects.create(User.objects.create_superuser("root"))
    assert made.token_key not in browser.get("/admin/knox/authtoken/").content.decode()
    browser.post(f"/admin/knox/authtoken/{made.pk}/delete/", {"post": "yes"})
    assert AuthToken.objects.exists()


def test_a_label_that_is_removed_limits_its_users_to_less(browser: Browser, operator: User) -> None:
    Scope.objects.create(user=operator).labels.add(Label.objects.create(name="rome"))
    browser.post("/admin/transfers/label/rome/delete/", {"post": "yes"})
    assert not Label.objects.exists()
    assert not Scope.objects.get(user=operator).labels.exists()  # no label: no client


def test_the_audit_log_shows_hostile_names_safely(browser: Browser) -> None:
    record(Event.FAILED, client="till", detail=HOSTILE, path=HOSTILE)
    for url in ("/admin/transfers/auditrecord/", "/admin/transfers/auditrecord/1/change/"):
        page = browser.get(url, {"q": "till"} if url.endswith("record/") else {}).content.decode()
        assert "<script>alert" not in page
        assert "\u202e" not in page


def test_clients_are_labelled_on_a_page_between(browser: Browser, client1: Client) -> None:
    url, selected = "/admin/transfers/client/", {"action": "label", "_selected_action": "client1"}
    assert "replace the present ones" in browser.post(url, selected).content.decode()
    again = browser.post(url, {**selected, "ask": "1", "labels": "no good!"}).content.decode()
    assert "A label has 1 to 64 letters" in again
    browser.post(url, {**selected, "ask": "1", "labels": "rome,berlin  kiosk"})
    assert [label.pk for label in client1.labels.all()] == ["berlin", "kiosk", "rome"]
