"""Users, what they are limited to, and their API tokens.

Who may change users must not become more than they are by it: rights are given by the groups, and only a
superuser makes or changes superusers.
"""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest
from knox.models import AuthToken

from transfers.access import Action, may
from transfers.models import Label, Scope

from .base import NarrowAdmin, ReadOnlyAdmin

if TYPE_CHECKING:
    UserAdminBase = DjangoUserAdmin[User]
    Inline = admin.StackedInline[Scope, User]
else:  # generic for type checkers only
    UserAdminBase = DjangoUserAdmin
    Inline = admin.StackedInline

for model in (User, Group, AuthToken):
    admin.site.unregister(model)


def _may_manage(request: HttpRequest, user: User | None) -> bool:
    above = user is not None and user.is_superuser and not request.user.is_superuser
    return may(request.user, Action.MANAGE_USERS) and not above


class ScopeInline(Inline):
    model = Scope
    extra = 0
    filter_horizontal = ("labels",)
    verbose_name = "limit to labels"
    verbose_name_plural = "limit to labels (without it: all clients; with no label: none)"

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_manage(request, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_manage(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_manage(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_manage(request, obj)


@admin.register(User)
class UserAdmin(NarrowAdmin, UserAdminBase):
    inlines = (ScopeInline,)
    list_display = ("username", "email", "is_staff", "is_superuser", "is_active", "last_login")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return _may_manage(request, None)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_manage(request, None)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return _may_manage(request, None)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_manage(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # what they did is on record under their name: make them inactive

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        own = () if request.user.is_superuser else ("is_superuser", "user_permissions")
        return (*super().get_readonly_fields(request, obj), *own)


@admin.register(Label)
class LabelAdmin(NarrowAdmin):
    """Made with the first client that gets it; here only to remove."""

    search_fields = ("name",)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Action.MANAGE_USERS)

    has_view_permission = has_delete_permission = lambda self, request, obj=None: may(
        request.user, Action.MANAGE_USERS
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Action.MANAGE_USERS)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # its name is what it is


@admin.register(AuthToken)
class TokenAdmin(ReadOnlyAdmin):
    """API tokens: deleting one revokes it."""

    sees = Action.MANAGE_USERS
    list_display = ("token_key", "user", "created", "expiry")
    list_filter = ("expiry",)
    search_fields = ("token_key", "user__username")
    fields = readonly_fields = ("token_key", "user", "created", "expiry")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_manage(request, obj.user if obj else None)

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuthToken]:
        tokens = super().get_queryset(request).select_related("user")
        return tokens if request.user.is_superuser else tokens.exclude(user__is_superuser=True)
