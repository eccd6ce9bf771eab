"""Who may do what to which client: permissions, groups, scopes of labels."""

from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView

from transfers.access import (
    GROUPS,
    OVER_ALL,
    Action,
    MayOperate,
    clients_of,
    join_group,
    may,
    transfers_of,
)
from transfers.models import AuditRecord, Client, Event, Label, Scope, Transfer


def client(name: str, *labels: str) -> Client:
    made = Client.objects.create(id=name, token_sha256=name)
    made.label(labels)
    return made


def limit(user: User, *labels: str) -> None:
    wanted = [Label.objects.get_or_create(name=name)[0] for name in labels]
    Scope.objects.create(user=user).labels.set(wanted)


# Rights ------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("name", GROUPS)
def test_a_group_that_a_migration_made_gives_its_rights_and_no_others(name: str) -> None:
    user = User.objects.create_user("otto")
    join_group(user, name)
    join_group(user, name)  # twice is allowed
    assert {action for action in Action if may(user, action)} == set(GROUPS[name])
    permissions = Permission.objects.filter(group__name=name)
    named = {f"{each.content_type.app_label}.{each.codename}" for each in permissions}
    assert named >= {str(action) for action in GROUPS[name]}
    assert named - {str(action) for action in GROUPS[name]} <= {"auth.add_user", "auth.view_user"}


@pytest.mark.django_db
def test_a_new_user_may_do_nothing() -> None:
    otto = User.objects.create_user("otto")
    assert not any(may(otto, action) for action in Action)
    assert not any(may(AnonymousUser(), action) for action in Action)


@pytest.mark.django_db
def test_a_superuser_may_do_all() -> None:
    root = User.objects.create_superuser("root")
    assert all(may(root, action) for action in Action)


@pytest.mark.django_db
def test_a_group_gives_rights() -> None:
    user, group = User.objects.create_user("otto"), Group.objects.create(name="auditors")
    group.permissions.set(Permission.objects.filter(codename="view_transfer"))
    user.groups.add(group)
    assert {action for action in Action if may(user, action)} == {Action.SEE_TRANSFER}


def test_a_deactivated_user_may_do_nothing(operator: User) -> None:
    operator.is_active = False
    assert not any(may(operator, action) for action in Action)
    root = User(is_superuser=True, is_active=False)
    assert not any(may(root, action) for action in Action)


@pytest.mark.django_db
def test_every_action_is_a_permission_that_exists() -> None:
    for action in Action:
        app, codename = action.split(".")
        assert Permission.objects.filter(content_type__app_label=app, codename=codename).exists()


@pytest.mark.django_db
@pytest.mark.parametrize("attributes", [{"action": "list"}, {"action": "list", "takes": {}}])
def test_a_view_that_says_nothing_about_rights_is_for_nobody(attributes: dict[str, Any]) -> None:
    request = Request(APIRequestFactory().get("/"))
    request.user = User.objects.create_superuser("root")
    view = type("View", (APIView,), attributes)()
    assert MayOperate().has_permission(request, view) is False


@pytest.mark.django_db
@pytest.mark.parametrize("attributes", [{}, {"action": None}])
def test_a_method_that_a_view_does_not_have_is_told_to_whoever_is_known(
    attributes: dict[str, Any],
) -> None:
    request = Request(APIRequestFactory().put("/"))
    view = type("View", (APIView,), attributes)()
    request.user = AnonymousUser()
    assert MayOperate().has_permission(request, view) is False
    request.user = User.objects.create_user("otto")
    with pytest.raises(MethodNotAllowed, match="PUT"):
        MayOperate().has_permission(request, view)


# Scopes ------------------------------------------------------------------------------------------


def test_a_user_without_a_scope_may_deal_with_every_client(operator: User) -> None:
    assert may(operator, Action.REQUEST_FILE, client("a", "berlin"))
    assert may(operator, Action.REQUEST_FILE, client("b"))


def test_a_scope_limits_a_user_to_clients_with_one_of_its_labels(operator: User) -> None:
    berlin, rome = client("a", "berlin", "kiosk"), client("b", "rome")
    both, neither = client("c", "berlin", "rome"), client("d")
    limit(operator, "berlin", "kiosk")
    allowed = {
        each.pk for each in (berlin, rome, both, neither) if may(operator, Action.SEE_CLIENT, each)
    }
    assert allowed == {"a", "c"} == {each.pk for each in clients_of(operator)}


def test_a_client_with_two_of_the_labels_comes_once(operator: User) -> None:
    client("a", "berlin", "kiosk")
    limit(operator, "berlin", "kiosk")
    assert clients_of(operator).count() == 1


def test_transfers_are_within_the_scope_of_their_clients(operator: User) -> None:
    mine = Transfer.objects.create(client=client("a", "berlin"))
    Transfer.objects.create(client=client("b", "rome"))
    limit(operator, "berlin")
    assert [each.pk for each in transfers_of(operator)] == [mine.pk]


def test_a_scope_without_labels_is_for_no_client(operator: User) -> None:
    limit(operator)
    assert not may(operator, Action.SEE_CLIENT, client("a"))
    assert not may(operator, Action.SEE_CLIENT, client("b", "berlin"))


@pytest.mark.django_db
def test_a_scope_gives_no_right() -> None:
    user = User.objects.create_user("otto")
    limit(user, "berlin")
    assert not any(may(user, action, client(f"c{n}", "berlin")) for n, action in enumerate(Action))


@pytest.mark.django_db
def test_what_concerns_all_clients_takes_a_user_who_is_not_limited() -> None:
    user = User.objects.create_user("otto")
    join_group(user, "admin")
    assert all(may(user, action) for action in OVER_ALL)
    limit(user, "berlin")
    assert not any(may(user, action) for action in OVER_ALL)
    assert may(user, Action.MANAGE_CLIENT, client("a", "berlin"))


@pytest.mark.django_db
def test_a_superuser_has_no_bounds() -> None:
    root = User.objects.create_superuser("root")
    limit(root, "berlin")
    assert may(root, Action.SEE_CLIENT, client("b", "rome"))


def test_a_refusal_is_on_record_and_the_passing_by_of_nobody_is_not(operator: User) -> None:
    view = type(
        "View", (APIView,), {"action": "revoke", "takes": {"revoke": Action.MANAGE_CLIENT}}
    )()
    request = Request(APIRequestFactory().post("/x"))
    request.user = AnonymousUser()
    assert MayOperate().has_permission(request, view) is False
    assert not AuditRecord.objects.filter(event=Event.REFUSED).exists()
    request.user = operator
    assert MayOperate().has_permission(request, view) is False
    refused = AuditRecord.objects.get(event=Event.REFUSED)
    assert refused.details == {"action": "revoke", "path": "/x"}


def test_a_limited_admin_labels_no_client() -> None:
    """Else a hostile machine could be put before another's operators."""
    assert Action.LABEL_CLIENT in OVER_ALL
