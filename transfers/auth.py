"""Who may do what: agents by their token, operators by theirs or by a session.

Tokens are 256 random bits, stored as SHA-256 only, and travel only in a header.
"""

import hashlib
import secrets
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import AnonymousUser, Permission, User
from django.utils.crypto import constant_time_compare
from knox.auth import TokenAuthentication as KnoxTokenAuthentication
from rest_framework import exceptions
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from .models import Client

if TYPE_CHECKING:  # DRF's settings name this module, and its views read them when imported
    from rest_framework.views import APIView

# Agents -----------------------------------------------------------------------------------------


class AgentRefused(Exception):
    """This handshake is not to be accepted.

    `code` and `status` are what the agent is told when it asks over plain HTTP, because the refusal
    of a WebSocket handshake can carry neither (daphne answers 403 and no more).
    """

    def __init__(self, code: str, status: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status
        self.detail = detail


def new_token() -> str:
    """A token for a client: 256 random bits."""
    return secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def authenticate_agent(client_id: str, headers: Mapping[str, str]) -> Client:
    """The client that the token in these handshake headers (lower-case names) belongs to.

    The identity comes from the token alone; `client_id`, from the path, must match it. Raises
    AgentRefused.
    """
    if "origin" in headers:
        raise AgentRefused("forbidden", 403, "Browsers may not connect here: it is for agents.")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    # Looked up by its hash, so that the time it takes tells nothing about the token.
    client = Client.objects.filter(token_sha256=digest(token)).first()
    if scheme.lower() != "bearer" or client is None:
        raise AgentRefused("unauthorized", 401, "The token is not known to this server.")
    if not constant_time_compare(client.pk, client_id):
        raise AgentRefused("wrong_id", 403, f"The token does not belong to client {client_id!r}.")
    if client.revoked_at is not None:
        raise AgentRefused("revoked", 403, f"The access of client {client.pk} was revoked.")
    return client


# Operators --------------------------------------------------------------------------------------


class Action(StrEnum):
    """What an operator can want to do; the value is the Django permission it takes."""

    SEE_CLIENTS = "transfers.view_client"
    SEE_TRANSFERS = "transfers.view_transfer"
    REQUEST_FILE = "transfers.add_transfer"
    STEER_TRANSFER = "transfers.change_transfer"
    REVOKE_CLIENT = "transfers.change_client"


OPERATOR = (
    Action.SEE_CLIENTS,
    Action.SEE_TRANSFERS,
    Action.REQUEST_FILE,
    Action.STEER_TRANSFER,
)
"""What a user made by `manage.py add_api_token` may do."""


def may(user: User | AnonymousUser, action: Action) -> bool:
    """Whether this user may do this: the one place that decides, for API, admin and web."""
    return user.is_active and user.has_perm(action)


def make_operator(user: User) -> None:
    """Give a user what an operator needs."""
    codenames = [action.rpartition(".")[2] for action in OPERATOR]
    permissions = Permission.objects.filter(
        content_type__app_label="transfers", codename__in=codenames
    )
    user.user_permissions.add(*permissions)


class TokenAuthentication(KnoxTokenAuthentication):  # type: ignore[misc]  # knox has no types
    """`Authorization: Token …`, looked up by hash."""

    def authenticate_credentials(self, token: bytes) -> Any:
        try:
            token.decode("ascii")
        except UnicodeDecodeError:  # knox 5.1.0 would answer 500
            raise exceptions.AuthenticationFailed("Invalid token.") from None
        return super().authenticate_credentials(token)


class MayOperate(BasePermission):
    """Asks `may` for what the view set says in `takes`: its actions' names to `Action`s."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        takes: Mapping[str, Action] = getattr(view, "takes", {})
        name = getattr(view, "action", None)
        if name is None and request.user.is_authenticated:
            raise exceptions.MethodNotAllowed(request.method or "")
        action = takes.get(name or "")
        return action is not None and may(request.user, action)
