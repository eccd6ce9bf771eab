"""Transfers: look at them, cancel, retry, hold."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from agent.wire.display import shown
from agent.wire.errors import ERRORS
from transfers.access import Action, may, transfers_of
from transfers.facts import facts_of
from transfers.models import Client, Transfer, is_client_id
from transfers.units import percent, rate, size

from .base import KnownValues, ReadOnlyAdmin

SHOWN = {
    name: f"{name}_shown" for name in ("name", "path", "fingerprint", "error_detail", "reason")
}
"""Fields of a transfer that an agent or an operator has written, and what shows them safely."""

INSTEAD = SHOWN | {"rate": "rate_shown"}
"""What the page of a transfer shows instead of its fields."""


def _escaped(name: str) -> Callable[[Any, Transfer], str]:
    @admin.display(description=name.replace("_", " "))
    def column(self: Any, transfer: Transfer) -> str:
        return shown(getattr(transfer, name) or "–")

    return column


class ErrorFilter(KnownValues):
    title = "error"
    parameter_name = "error_code"
    values = ERRORS


class ClientFilter(admin.SimpleListFilter):
    """By the client that an address names: a list of ten thousand to choose from helps nobody."""

    title = "client"
    parameter_name = "client__id__exact"

    def has_output(self) -> bool:
        return self.value() is not None

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        value = self.value()
        return [(value, shown(value))] if value else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Transfer]) -> QuerySet[Transfer]:
        value = self.value()
        return queryset.filter(client__id=value) if value and is_client_id(value) else queryset


@admin.register(Transfer)
class TransferAdmin(ReadOnlyAdmin):
    sees = Action.SEE_TRANSFER
    list_display = (
        "created_at", "client", "what", "status", "error", "progress", "size_shown", "rate_shown",
        "hash_shown", "finished_at",
    )  # fmt: skip
    list_filter = (
        "status",
        ErrorFilter,
        "held",
        ("created_at", admin.DateFieldListFilter),
        ClientFilter,
    )
    show_full_result_count = False
    list_select_related = ("client", "requested_by")
    search_fields = ("=id", "client__id", "path", "name", "sha256", "file")
    ordering = ("-created_at",)
    actions = ("cancel", "retry", "hold", "release")

    fields: ClassVar[tuple[str, ...]] = (
        *(INSTEAD.get(field.name, field.name) for field in Transfer._meta.fields),
        "progress",
        "download",
    )
    readonly_fields: ClassVar[tuple[str, ...]] = fields

    name_shown = _escaped("name")
    path_shown = _escaped("path")
    fingerprint_shown = _escaped("fingerprint")
    error_detail_shown = _escaped("error_detail")
    reason_shown = _escaped("reason")

    def view_on_site(self, obj: Transfer) -> str:
        """Its page in the console."""
        return reverse("console:transfer", args=[obj.pk])

    def client_of(self, obj: Transfer) -> Client | None:
        return obj.client

    def get_queryset(self, request: HttpRequest) -> QuerySet[Transfer]:
        return transfers_of(request.user).order_by(*self.get_ordering(request))

    @admin.display(description="file", ordering="name")
    def what(self, transfer: Transfer) -> str:
        return shown(transfer.name or transfer.path or "(the agent's own)")

    @admin.display(description="progress")
    def progress(self, transfer: Transfer) -> str:
        done = facts_of(transfer).percent
        if done is None:
            return "–"
        return format_html(
            '<progress max="100" value="{}"></progress> {}', f"{done:.1f}", percent(done)
        )

    @admin.display(description="size", ordering="size")
    def size_shown(self, transfer: Transfer) -> str:
        """And how much came over the wire for what has arrived, where that is less."""
        whole = size(transfer.size)
        if facts_of(transfer).saved_percent is None:
            return whole
        return f"{whole} (sent {size(transfer.wire_bytes)} for {size(transfer.received)})"

    @admin.display(description="rate")
    def rate_shown(self, transfer: Transfer) -> str:
        """Now while it comes, the average over all once it has landed."""
        return rate(facts_of(transfer).rate)

    @admin.display(description="SHA-256", ordering="sha256")
    def hash_shown(self, transfer: Transfer) -> str:
        if not transfer.sha256:
            return "–"
        return format_html('<code title="{}">{}…</code>', transfer.sha256, transfer.sha256[:12])

    @admin.display(description="error", ordering="error_code")
    def error(self, transfer: Transfer) -> str:
        if not transfer.error_code:
            return ""
        advice = " (a retry can help)" if ERRORS[transfer.error_code].retryable else ""
        return f"{transfer.error_code}: {shown(transfer.error_detail)}{advice}"

    @admin.display(description="download")
    def download(self, transfer: Transfer) -> str:
        if not facts_of(transfer).can_be_fetched:
            return "–"
        url = reverse("transfer-content", args=[transfer.pk])
        return format_html('<a href="{}">{}</a>', url, transfer.file)

    def has_steer_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Action.STEER_TRANSFER)

    @admin.action(description="Cancel the selected transfers", permissions=["steer"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Transfer]) -> None:
        self._each(request, queryset, Transfer.cancel, "Cancelled")

    @admin.action(description="Retry the selected transfers", permissions=["steer"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Transfer]) -> None:
        self._each(request, queryset, Transfer.retry, "Queued again:")

    @admin.action(
        description="Keep the landed files of the selected transfers", permissions=["steer"]
    )
    def hold(self, request: HttpRequest, queryset: QuerySet[Transfer]) -> None:
        self._each(request, queryset, partial(Transfer.hold, held=True), "Kept from now on:")

    @admin.action(description="Keep them no longer than others", permissions=["steer"])
    def release(self, request: HttpRequest, queryset: QuerySet[Transfer]) -> None:
        self._each(request, queryset, partial(Transfer.hold, held=False), "Not kept any longer:")
