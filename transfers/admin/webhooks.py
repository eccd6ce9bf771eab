"""Webhooks, to make and to stop; and what was sent to each, with its answer."""

from typing import ClassVar

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from agent.wire.display import shown
from transfers.access import Action, may
from transfers.models import Delivery, Webhook
from transfers.rates import count_deed

from .base import NarrowAdmin, ReadOnlyAdmin


@admin.register(Webhook)
class WebhookAdmin(NarrowAdmin):
    list_display = ("url", "active", "landed", "failed", "expired", "created_at")
    list_filter = ("active",)
    fields = ("url", "secret", "landed", "failed", "expired", "active")

    def _manages(self, request: HttpRequest) -> bool:
        return may(request.user, Action.MANAGE_WEBHOOKS)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self._manages(request)

    def has_view_permission(self, request: HttpRequest, obj: Webhook | None = None) -> bool:
        return self._manages(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._manages(request)

    def has_change_permission(self, request: HttpRequest, obj: Webhook | None = None) -> bool:
        return self._manages(request)

    def has_delete_permission(self, request: HttpRequest, obj: Webhook | None = None) -> bool:
        return self._manages(request)


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    sees = Action.MANAGE_WEBHOOKS
    list_display = (
        "created_at", "webhook", "event", "transfer", "attempts", "status", "said", "delivered_at",
        "next_attempt_at",
    )  # fmt: skip
    list_filter = (
        "event",
        ("webhook", admin.RelatedOnlyFieldListFilter),
        ("created_at", admin.DateFieldListFilter),
    )
    show_full_result_count = False
    list_select_related = ("webhook",)
    actions = ("send_again",)
    fields: ClassVar[tuple[str, ...]] = (*list_display, "sent")
    readonly_fields = fields

    @admin.display(description="answer")
    def said(self, delivery: Delivery) -> str:
        return shown(delivery.answer[:200]) or "–"

    @admin.display(description="body")
    def sent(self, delivery: Delivery) -> str:
        return shown(delivery.body)

    def has_send_permission(self, request: HttpRequest) -> bool:
        return may(request.user, Action.MANAGE_WEBHOOKS)

    @admin.action(description="Send again", permissions=["send"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        """As if they were new."""
        for delivery in queryset:
            count_deed(request.user)
            delivery.attempts, delivery.next_attempt_at = 0, timezone.now()
            delivery.save(update_fields=["attempts", "next_attempt_at"])
            self.message_user(request, f"On its way again: {delivery}.", messages.SUCCESS)
