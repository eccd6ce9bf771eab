"""Enrolment codes and keys: what was made, what it gave; to revoke."""

from django.contrib import admin, messages
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest

from transfers.access import Action, may
from transfers.models import Enrolment, EnrolmentKey

from .base import ReadOnlyAdmin

SHOWN = 20
"""Clients that are named beside a key; `Clients` has all of them."""


@admin.register(EnrolmentKey)
class EnrolmentKeyAdmin(ReadOnlyAdmin):
    sees = Action.ADD_CLIENT
    list_display = (
        "what", "client", "state", "uses_left", "uses", "labelled", "expires_at", "created_at",
        "made_by", "revoked_at",
    )  # fmt: skip
    search_fields = ("client__id", "made_by")
    date_hierarchy = "created_at"
    actions = ("revoke",)
    fields = readonly_fields = (*list_display, "gave")

    def get_queryset(self, request: HttpRequest) -> QuerySet[EnrolmentKey]:
        given = Prefetch("given", Enrolment.objects.order_by("at"))
        return super().get_queryset(request).prefetch_related("labels", given)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Action.ADD_CLIENT)

    @admin.display(description="code or key", ordering="pk")
    def what(self, key: EnrolmentKey) -> str:
        return str(key)

    @admin.display(description="status")
    def state(self, key: EnrolmentKey) -> str:
        return key.status

    @admin.display(description="labels")
    def labelled(self, key: EnrolmentKey) -> str:
        return ", ".join(label.pk for label in key.labels.all())

    @admin.display(description="gave")
    def gave(self, key: EnrolmentKey) -> str:
        given = [each.client_id for each in key.given.all()]
        more = f" and {len(given) - SHOWN} more" if len(given) > SHOWN else ""
        return ", ".join(given[:SHOWN]) + more or "–"

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[EnrolmentKey]) -> None:
        """Nobody enrols with them any more."""
        for key in queryset:
            key.revoke()
            self.message_user(request, f"Nobody enrols any more with {key}.", messages.SUCCESS)
