"""What all pages of the admin share: nobody edits or deletes by hand what changes by its verbs only."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.utils import get_fields_from_path
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from transfers.access import Action, may, missed
from transfers.models import Client, ClientConflict, StatusConflict
from transfers.rates import count_deed

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:  # generic for type checkers only
    ModelAdmin = admin.ModelAdmin


class KnownValues(admin.SimpleListFilter):
    """By all values that a column can have: to look which of them there are goes through all rows."""

    values: Iterable[str]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, value) for value in self.values]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset.filter(**{str(self.parameter_name): value}) if value else queryset


class NarrowAdmin(ModelAdmin):
    """Lists can be narrowed by what their filters show, and by nothing else.

    Django lets `?token_sha256__startswith=` narrow a list by any column of its own.
    """

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup in set(self._lookups(request))

    def _lookups(self, request: HttpRequest) -> Iterator[str]:
        """Every parameter that a filter of the list, or its dates, can put into a link."""
        filters: Any = self.get_list_filter(request)  # classes, names, and pairs of both
        for each in filters:
            if isinstance(each, type) and issubclass(each, admin.SimpleListFilter):
                yield str(each.parameter_name)
                continue
            path = each if isinstance(each, str) else each[0]
            field: Any = get_fields_from_path(self.model, path)[-1]
            what = f"{path}__{field.target_field.name}" if field.is_relation else path
            yield from (what, f"{what}__exact", f"{path}__isnull", f"{path}__gte", f"{path}__lt")
        if self.date_hierarchy:
            yield from (f"{self.date_hierarchy}__{part}" for part in ("year", "month", "day"))


class ReadOnlyAdmin(NarrowAdmin):
    """Rows change by their verbs only."""

    sees: Action

    def client_of(self, obj: Any) -> Client | None:
        """The client that a row is about; None where it is about none."""
        return None

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request.user, self.sees, self.client_of(obj) if obj else None)

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is None:
            missed(request.user, action=str(request.method).lower(), path=request.path)
        return row

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Raises PermissionDenied where an action is asked for that the page does not offer to this user."""
        if (wanted := request.POST.get("action")) and wanted not in self.get_actions(request):
            raise PermissionDenied
        return super().changelist_view(request, extra_context)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may(request.user, self.sees)

    def _each(
        self,
        request: HttpRequest,
        queryset: QuerySet[Any],
        verb: Callable[[Any], None],
        said: str,
    ) -> None:
        """Do this with each row, and tell of each what was done, or why it was not."""
        for row in queryset:
            count_deed(request.user)
            try:
                verb(row)
            except (ClientConflict, StatusConflict) as conflict:
                self.message_user(request, str(conflict), messages.WARNING)
            else:
                self.message_user(request, f"{said} {row}.", messages.SUCCESS)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
