"""Clients: look at them, ask them for files; let them in, and keep them out."""

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse

from transfers.access import Action, clients_of, may
from transfers.durations import duration
from transfers.forms import RequestForm
from transfers.models import Client, ClientStatus, make_code, request_file
from transfers.models.label import label_validator

from .base import ReadOnlyAdmin


class LabelsForm(forms.Form):
    labels = forms.CharField(
        required=False,
        widget=forms.TextInput(attrs={"size": 80}),
        help_text="With spaces or commas between them; they replace the present ones.",
    )

    def clean_labels(self) -> list[str]:
        """The labels. Raises ValidationError."""
        names: list[str] = re.split(r"[\s,]+", self.cleaned_data["labels"].strip())
        names = [name for name in names if name]
        for name in names:
            label_validator(name)
        return names


@dataclass(frozen=True)
class Between:
    """A page between an action and its doing, which asks once more."""

    title: str
    action: str
    question: str
    form: forms.Form


class CodeForm(forms.Form):
    valid_for = forms.CharField(initial="1h", help_text="Such as 30m, 24h or 7d.")

    def clean_valid_for(self) -> timedelta:
        """The span. Raises ValidationError."""
        try:
            return duration(self.cleaned_data["valid_for"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None


class StatusFilter(admin.SimpleListFilter):
    title = parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return ClientStatus.choices

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        return queryset.with_status(value) if value in ClientStatus.values else queryset


@admin.register(Client)
class ClientAdmin(ReadOnlyAdmin):
    sees = Action.SEE_CLIENT
    list_display = (
        "id", "state", "presence", "last_seen", "platform", "hostname", "agent_version", "labelled",
    )  # fmt: skip
    list_filter = (
        StatusFilter,
        ("labels", admin.RelatedOnlyFieldListFilter),  # of the clients within the user's scope
        "platform",
        "agent_version",
        ("created_at", admin.DateFieldListFilter),
    )
    show_full_result_count = False
    search_fields = ("id", "hostname", "labels__name")
    actions = ("request_file", "label", "approve", "make_code", "rotate", "revoke")
    readonly_fields = (
        "id", "state", "presence", "last_seen", "platform", "hostname", "agent_version", "labelled",
        "created_at", "enrolled_at", "approved_at", "renewable", "rotate_requested_at", "revoked_at",
    )  # fmt: skip
    fields = readonly_fields

    def view_on_site(self, obj: Client) -> str:
        """Its page in the console."""
        return reverse("console:client", args=[obj.pk])

    def client_of(self, obj: Client) -> Client | None:
        return obj

    def get_queryset(self, request: HttpRequest) -> QuerySet[Client]:
        mine = clients_of(request.user).order_by(*self.get_ordering(request))
        return mine.prefetch_related("labels")

    @admin.display(description="labels")
    def labelled(self, client: Client) -> str:
        return ", ".join(label.pk for label in client.labels.all())

    @admin.display(description="online", boolean=True, ordering="online_until")
    def presence(self, client: Client) -> bool:
        return client.online

    @admin.display(description="status")
    def state(self, client: Client) -> str:
        return str(client.status)

    def has_request_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Action.REQUEST_FILE)

    def has_manage_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Action.MANAGE_CLIENT)

    def has_label_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Action.LABEL_CLIENT)

    def has_code_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Action.ADD_CLIENT)

    @admin.action(description="Request file", permissions=["request"])
    def request_file(self, request: HttpRequest, queryset: QuerySet[Client]) -> HttpResponse | None:
        """Ask each selected client for a file; a page in between asks which."""
        form = RequestForm(request.POST if "ask" in request.POST else None)
        if form.is_valid():
            asked = form.cleaned_data

            def ask(client: Client) -> None:
                client.check_served()
                request_file(
                    client, asked["path"], requested_by=request.user, reason=asked["reason"]
                )

            self._each(request, queryset, ask, "Asked for a file:")
            return None
        question = "Ask these clients for a file:"
        return self._ask(request, queryset, Between("Request file", "request_file", question, form))

    def _ask(
        self, request: HttpRequest, queryset: QuerySet[Client], between: Between
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "clients": queryset,
            "title": between.title,
            "question": between.question,
            "form": between.form,
            "action": between.action,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/transfers/client/page_between.html", context)

    @admin.action(description="Label", permissions=["label"])
    def label(self, request: HttpRequest, queryset: QuerySet[Client]) -> HttpResponse | None:
        """Give the selected clients other labels; a page in between asks which."""
        form = LabelsForm(request.POST if "ask" in request.POST else None)
        if form.is_valid():
            verb = partial(Client.label, names=form.cleaned_data["labels"])
            self._each(request, queryset, verb, "Labelled")
            return None
        question = "Give these clients the labels below, and no others:"
        return self._ask(request, queryset, Between("Label", "label", question, form))

    @admin.action(description="Approve", permissions=["manage"])
    def approve(self, request: HttpRequest, queryset: QuerySet[Client]) -> None:
        self._each(request, queryset, Client.approve, "Approved:")

    @admin.action(description="Give a new token", permissions=["manage"])
    def rotate(self, request: HttpRequest, queryset: QuerySet[Client]) -> None:
        self._each(request, queryset, Client.rotate, "A new token goes to")

    @admin.action(description="Make an enrolment code", permissions=["code"])
    def make_code(self, request: HttpRequest, queryset: QuerySet[Client]) -> HttpResponse:
        """A code for each selected client, shown on the answer's page and never again."""
        form = CodeForm(request.POST if "ask" in request.POST else None)
        if not form.is_valid():
            question = (
                "A code lets one machine enrol as the client, once. Its use ends the client's present "
                "token and lifts a revocation; codes made earlier are void. It is shown on the next page "
                "only. For:"
            )
            between = Between("Make an enrolment code", "make_code", question, form)
            return self._ask(request, queryset, between)
        # Not as messages: those are kept in a cookie or the session until they are shown.
        context = {
            **self.admin_site.each_context(request),
            "title": "Enrolment codes",
            "opts": self.opts,
            "codes": [
                (client, make_code(client, form.cleaned_data["valid_for"])) for client in queryset
            ],
        }
        return TemplateResponse(request, "admin/transfers/client/codes.html", context)

    @admin.action(description="Revoke access", permissions=["manage"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Client]) -> HttpResponse | None:
        """Not by one wrong click, so a page in between asks once more."""
        if "ask" not in request.POST:
            question = (
                "These clients are refused from now on, and what they were asked for fails. Only the use "
                "of a new enrolment code lifts that:"
            )
            between = Between("Revoke access", "revoke", question, forms.Form())
            return self._ask(request, queryset, between)
        self._each(request, queryset, Client.revoke, "Refused from now on:")
        return None
