"""Who may do what: agents by their token, operators by theirs."""

import hashlib
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView

from transfers.auth import (
    OPERATOR,
    Action,
    AgentRefused,
    MayOperate,
    authenticate_agent,
    digest,
    make_operator,
    may,
    new_token,
)
from transfers.models import Client


def refusal(client_id: str, headers: dict[str, str]) -> AgentRefused:
    with pytest.raises(AgentRefused) as refused:
        authenticate_agent(client_id, headers)
    assert str(refused.value) == refused.value.detail
    assert refused.value.detail.endswith(".")
    return refused.value


# Agents ------------------------------------------------------------------------------------------


def test_tokens_are_256_random_bits() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert {len(token) for token in tokens} == {43}


def test_of_a_token_only_its_sha256_is_stored() -> None:
    assert digest("secret") == hashlib.sha256(b"secret").hexdigest()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_says_which_client_it_is(client1: Client, token: str, scheme: str) -> None:
    assert authenticate_agent("client1", {"authorization": f"{scheme} {token}"}) == client1


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "{token}", "Basic {token}", "Bearer {token}x", "Bearer  {token}",
     "Bearer {token} ", "Bearer {digest}", "Bearer \xff\xfe"],
)  # fmt: skip
def test_what_is_no_known_token_is_unauthorized(token: str, authorization: str) -> None:
    sent = authorization.format(token=token, digest=digest(token))
    refused = refusal("client1", {"authorization": sent})
    assert (refused.code, refused.status) == ("unauthorized", 401)
    assert token not in refused.detail


@pytest.mark.django_db
def test_no_header_at_all_is_unauthorized() -> None:
    assert refusal("client1", {}).code == "unauthorized"


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize("client_id", ["client2", "CLIENT1", "client1 ", "", "clïent"])
def test_a_token_is_for_its_own_client_id_only(token: str, client_id: str) -> None:
    refused = refusal(client_id, {"authorization": f"Bearer {token}"})
    assert (refused.code, refused.status) == ("wrong_id", 403)


def test_a_wrong_token_learns_nothing_about_client_ids(client1: Client) -> None:
    wrong = {"authorization": "Bearer wrong"}
    assert refusal("client1", wrong).detail == refusal("client2", wrong).detail


def test_a_revoked_client_is_refused(client1: Client, token: str) -> None:
    client1.revoke()
    refused = refusal("client1", {"authorization": f"Bearer {token}"})
    assert (refused.code, refused.status) == ("revoked", 403)


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize("origin", ["https://evil.example", "null", ""])
def test_a_browser_is_refused_though_it_has_the_token(token: str, origin: str) -> None:
    refused = refusal("client1", {"authorization": f"Bearer {token}", "origin": origin})
    assert (refused.code, refused.status) == ("forbidden", 403)


# Operators ---------------------------------------------------------------------------------------


def test_an_operator_may_look_ask_and_steer_and_not_revoke(operator: User) -> None:
    assert {action for action in Action if may(operator, action)} == set(OPERATOR)
    assert set(Action) - set(OPERATOR) == {Action.REVOKE_CLIENT}


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
    assert {action for action in Action if may(user, action)} == {Action.SEE_TRANSFERS}


def test_a_deactivated_user_may_do_nothing(operator: User) -> None:
    operator.is_active = False
    assert not any(may(operator, action) for action in Action)
    root = User(is_superuser=True, is_active=False)
    assert not any(may(root, action) for action in Action)


def test_making_an_operator_twice_is_allowed(operator: User) -> None:
    make_operator(operator)
    assert operator.user_permissions.count() == len(OPERATOR)


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
