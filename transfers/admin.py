"""The admin: look at clients and transfers, ask for files, cancel and retry."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from agent.wire.display import shown
from agent.wire.errors import ERRORS
from agent.wire.messages import MAX_PATH

from .auth import Action, may
from .models import Client, Status, StatusConflict, Transfer, request_file

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:  # generic for type checkers only
    ModelAdmin = admin.ModelAdmin


class ReadOnlyAdmin(ModelAdmin):
    """Rows change by their verbs only; nobody edits or deletes them by hand."""

    sees: Action

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request.user, self.sees)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may(request.user, self.sees)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


SHOWN = {name: f"{name}_shown" for name in ("name", "path", "fingerprint", "error_detail")}
"""Fields of a transfer that an agent or an operator has written, and what shows them safely."""


def _escaped(name: str) -> Callable[[Any, Transfer], str]:
    @admin.display(description=name.replace("_", " "))
    def column(self: Any, transfer: Transfer) -> str:
        return shown(getattr(transfer, name) or "–")

    return column


@admin.register(Transfer)
class TransferAdmin(ReadOnlyAdmin):
    sees = Action.SEE_TRANSFERS
    list_display = (
        "created_at", "client", "what", "status", "error", "progress", "size_shown", "rate",
        "hash_shown", "finished_at",
    )  # fmt: skip
    list_filter = (
        "status",
        ("error_code", admin.AllValuesFieldListFilter),
        ("client", admin.RelatedOnlyFieldListFilter),
    )
    list_select_related = ("client", "requested_by")
    search_fields = ("=id", "client__id", "path", "name", "sha256", "file")
    date_hierarchy = "created_at"
    ordering = ("-created_at",)
    actions = ("cancel", "retry")

    fields: ClassVar[tuple[str, ...]] = (
        *(SHOWN.get(field.name, field.name) for field in Transfer._meta.fields),
        "progress",
        "rate",
        "download",
    )
    readonly_fields: ClassVar[tuple[str, ...]] = fields

    name_shown = _escaped("name")
    path_shown = _escaped("path")
    fingerprint_shown = _escaped("fingerprint")
    error_detail_shown = _escaped("error_detail")

    @admin.display(description="file", ordering="name")
    def what(self, transfer: Transfer) -> str:
        return shown(transfer.name or transfer.path or "(the agent's own)")

    @admin.display(description="progress")
    def progress(self, transfer: Transfer) -> str:
        if transfer.size is None:
            return "–"
        done = transfer.size if transfer.status == Status.COMPLETED else transfer.received
        percent = 100 * done / transfer.size if transfer.size else 100
        return format_html(
            '<progress max="{}" value="{}"></progress> {}%',
            transfer.size or 1,
            done if transfer.size else 1,
            f"{percent:.0f}",
        )

    @admin.display(description="size", ordering="size")
    def size_shown(self, transfer: Transfer) -> str:
        return "–" if transfer.size is None else filesizeformat(transfer.size)

    @admin.display(description="rate")
    def rate(self, transfer: Transfer) -> str:
        """The average since it was first started, pauses and all."""
        if transfer.started_at is None or not transfer.received:
            return "–"
        seconds = ((transfer.finished_at or timezone.now()) - transfer.started_at).total_seconds()
        return f"{filesizeformat(transfer.received / max(seconds, 0.001))}/s"

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
        if transfer.status != Status.COMPLETED:
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

    def _each(
        self,
        request: HttpRequest,
        queryset: QuerySet[Transfer],
        verb: Callable[[Transfer], None],
        said: str,
    ) -> None:
        for transfer in queryset:
            try:
                verb(transfer)
            except StatusConflict as conflict:
                self.message_user(request, str(conflict), messages.WARNING)
            else:
                self.message_user(request, f"{said} {transfer}.", messages.SUCCESS)


class RequestFileForm(forms.Form):
    path = forms.CharField(
        required=False,
        max_length=MAX_PATH,
        strip=False,
        widget=forms.TextInput(attrs={"size": 80}),
        help_text="On the client. Empty: the file that its agent offers (--file).",
    )


@admin.register(Client)
class ClientAdmin(ReadOnlyAdmin):
    sees = Action.SEE_CLIENTS
    list_display = (
        "id", "presence", "last_seen", "platform", "hostname", "agent_version",
        "labels", "revoked_at",
    )  # fmt: skip
    list_filter = ("platform", "agent_version", ("revoked_at", admin.EmptyFieldListFilter))
    search_fields = ("id", "hostname", "labels")
    date_hierarchy = "created_at"
    actions = ("request_file", "revoke")
    readonly_fields = (
        "id", "presence", "last_seen", "platform", "hostname", "agent_version",
        "labels", "revoked_at", "created_at",
    )  # fmt: skip
    fields = readonly_fields

    @admin.display(description="online", boolean=True, ordering="online_until")
    def presence(self, client: Client) -> bool:
        return client.online

    def has_request_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Action.REQUEST_FILE)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Action.REVOKE_CLIENT)

    @admin.action(description="Request file", permissions=["request"])
    def request_file(self, request: HttpRequest, queryset: QuerySet[Client]) -> HttpResponse | None:
        """Ask each selected client for a file; a page in between asks which."""
        form = RequestFileForm(request.POST if "ask" in request.POST else None)
        if form.is_valid():
            for client in queryset.filter(revoked_at=None):
                request_file(client, form.cleaned_data["path"] or None, requested_by=request.user)
                self.message_user(request, f"Asked {client} for a file.", messages.SUCCESS)
            return None
        return self._page_between(request, queryset, "Request file", "request_file", form)

    def _page_between(
        self,
        request: HttpRequest,
        queryset: QuerySet[Client],
        title: str,
        action: str,
        form: forms.Form,
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "clients": queryset,
            "form": form,
            "action": action,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/transfers/client/page_between.html", context)

    @admin.action(description="Revoke access for good", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Client]) -> HttpResponse | None:
        """For good, so a page in between asks once more."""
        if "ask" not in request.POST:
            title = "Revoke access for good"
            return self._page_between(request, queryset, title, "revoke", forms.Form())
        for client in queryset:
            client.revoke()
            self.message_user(request, f"Refused from now on: {client}.", messages.SUCCESS)
        return None


admin.site.site_header = admin.site.site_title = "Silentmode"
admin.site.index_title = "Clients and transfers"
