"""The audit log, to look at."""

from typing import ClassVar

from django.contrib import admin
from django.http import HttpRequest

from agent.wire.display import shown
from transfers.access import Action
from transfers.models import AuditRecord, Event

from .base import KnownValues, ReadOnlyAdmin


class EventFilter(KnownValues):
    title = parameter_name = "event"
    values = Event.values


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
