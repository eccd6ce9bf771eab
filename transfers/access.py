"""Who may do what to which client: the one place that decides, for API, admin and every page.

What a user may do at all comes from Django's permissions, usually through one of the groups *viewer*,
*operator* and *admin*; with which clients, from the user's `Scope` of labels.
"""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import AnonymousUser, Group, User
from django.db.models import Q, QuerySet
from rest_framework import exceptions
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from .models import Client, ClientQuerySet, Scope, Transfer
from .rates import count_deed, refused

if TYPE_CHECKING:  # DRF's settings name this module, and its views read them when imported
    from rest_framework.views import APIView

Somebody = User | AnonymousUser


class Action(StrEnum):
    """What a user can want to do; the value is the Django permission that it takes."""

    SEE_CLIENT = "transfers.view_client"
    SEE_TRANSFER = "transfers.view_transfer"
    REQUEST_FILE = "transfers.add_transfer"
    STEER_TRANSFER = "transfers.change_transfer"
    """Cancel, retry, hold, release, limit its rate."""
    FETCH_FILE = "transfers.fetch_file"
    MANAGE_CLIENT = "transfers.change_client"
    """Approve, rotate its token, revoke."""
    LABEL_CLIENT = "transfers.change_label"
    """Labels decide who may deal with a client."""
    ADD_CLIENT = "transfers.add_client"
    """Make enrolment codes and keys."""
    READ_AUDIT = "transfers.view_auditrecord"
    MANAGE_WEBHOOKS = "transfers.change_webhook"
    """Who is told what has landed or failed, of all clients."""
    MANAGE_USERS = "auth.change_user"
    """Users, their groups, scopes and API tokens."""


OVER_ALL = frozenset(
    {
        Action.ADD_CLIENT,
        Action.LABEL_CLIENT,
        Action.READ_AUDIT,
        Action.MANAGE_WEBHOOKS,
        Action.MANAGE_USERS,
    }
)
"""What concerns all clients, and so takes a user who is not limited to some."""

VIEWER = frozenset({Action.SEE_CLIENT, Action.SEE_TRANSFER})
OPERATOR = VIEWER | {Action.REQUEST_FILE, Action.STEER_TRANSFER, Action.FETCH_FILE}
ADMIN = frozenset(Action)

GROUPS: Mapping[str, Collection[Action]] = {
    "viewer": VIEWER,
    "operator": OPERATOR,
    "admin": ADMIN,
}
"""The groups that a migration makes, and what their members may do."""


def may(user: Somebody, action: Action, client: Client | None = None) -> bool:
    """Whether this user may do this: to this client, or at all."""
    if not (user.is_active and user.has_perm(action)):
        return False
    if client is not None:
        return clients_of(user).filter(pk=client.pk).exists()
    return action not in OVER_ALL or _scope(user) is None


def clients_of(user: Somebody) -> ClientQuerySet:
    """The clients that are within the user's scope."""
    scope = _scope(user)
    return Client.objects.all() if scope is None else Client.objects.filter(_within(scope))


def transfers_of(user: Somebody) -> "QuerySet[Transfer]":
    """The transfers of the clients that are within the user's scope."""
    scope = _scope(user)
    if scope is None:
        return Transfer.objects.all()
    return Transfer.objects.filter(client__in=Client.objects.filter(_within(scope)))


def is_limited(user: Somebody) -> bool:
    """Whether there may be clients that are not within the user's scope."""
    return _scope(user) is not None


def _scope(user: Somebody) -> Scope | None:
    """None: all clients. A superuser has no bounds."""
    if not user.is_authenticated or user.is_superuser:
        return None
    try:
        return user.scope  # Django remembers it, for as long as the request has this user
    except Scope.DoesNotExist:
        return None


def _within(scope: Scope) -> Q:
    # A subquery, not a join: a client with two of the labels must not come twice.
    return Q(pk__in=Client.labels.through.objects.filter(label__scopes=scope).values("client"))


def missed(user: Somebody, *, action: str, path: str) -> None:
    """What this user named is not there, or outside of their scope: for who has one, that is on record.

    Both alike: else the time that a row takes, or the bound of the rows, would tell what there is.
    Raises TooMuch.
    """
    if is_limited(user):
        refused(user, action=action, path=path)


def join_group(user: User, name: str) -> None:
    """Give a user the rights of one of `GROUPS`."""
    user.groups.add(Group.objects.get(name=name))


class MayOperate(BasePermission):
    """Asks `may` for what the view set says in `takes`: its actions' names to `Action`s.

    Objects outside of the user's scope are not in the view set's query, so they are answered as if
    they did not exist.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        name: str | None = getattr(view, "action", None)
        if name is None and request.user.is_authenticated:
            raise exceptions.MethodNotAllowed(request.method or "")
        action = self._wanted(view)
        if action is None or not may(request.user, action):
            if request.user.is_authenticated:
                refused(request.user, action=name or "", path=request.path)
            return False
        if action not in VIEWER:  # looking leaves no row
            count_deed(request.user)
        return True

    def has_object_permission(self, request: Request, view: "APIView", obj: Any) -> bool:
        action = self._wanted(view)
        client = obj.client if isinstance(obj, Transfer) else obj
        return action is not None and may(request.user, action, client)

    @staticmethod
    def _wanted(view: "APIView") -> Action | None:
        takes: Mapping[str, Action] = getattr(view, "takes", {})
        return takes.get(getattr(view, "action", None) or "")


class MaySeeAll(BasePermission):
    """For what is about all clients at once: whoever sees them all."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        allowed = may(request.user, Action.SEE_TRANSFER) and _scope(request.user) is None
        if not allowed and request.user.is_authenticated:
            refused(request.user, action="see all", path=request.path)
        return allowed
