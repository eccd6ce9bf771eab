"""The admin: look at clients, transfers, users and the audit log; change them by their verbs only."""

from django.contrib import admin

from . import audit, clients, enrolment, transfers, users, webhooks

__all__ = ["audit", "clients", "enrolment", "transfers", "users", "webhooks"]

admin.site.site_header = admin.site.site_title = "Silentmode"
admin.site.index_title = "Clients and transfers"
