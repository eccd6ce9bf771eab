"""The audit log, to look at."""

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from agent.wire.display import shown
from transfers.access import Action
from transfers.models import AuditRecord, Event

from .base import ReadOnlyAdmin


class EventFilter(admin.SimpleListFilter):
    """By all events that there can be: to look which of them there are goes through all rows."""

    title = parameter_name = "event"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(event, event) for event in Event.values]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[AuditRecord]
    ) -> QuerySet[AuditRecord]:
        value = self.value()
        return queryset.filter(event=value) if value else queryset


@admin.register(AuditRecord)
class AuditAdmin(ReadOnlyAdmin):
    sees = Action.READ_AUDIT
    list_display = ("number", "at", "actor", "address", "event", "client", "what")
    list_filter = (EventFilter, ("at", admin.DateFieldListFilter))
    search_fields = ("actor", "address", "client", "=transfer", "details")
    ordering = ("-number",)
    show_full_result_count = False
    fields: ClassVar[tuple[str, ...]] = (
        "number", "at", "actor", "address", "event", "client", "transfer", "what", "previous", "digest",
    )  # fmt: skip
    readonly_fields = fields

    @admin.display(description="details")
    def what(self, row: AuditRecord) -> str:
        return shown("; ".join(f"{name}: {value}" for name, value in row.details.items()))

    def get_actions(self, request: HttpRequest) -> dict[str, object]:  # type: ignore[override]
        return {}
