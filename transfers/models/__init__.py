"""Clients and transfers: the status table, and the only ways to change a status."""

from .asking import RequestKey, asked_before, request_file
from .client import HEARTBEAT, LEASE, Client, is_client_id
from .status import ACTIVE, ALLOWED, FINAL, LIVE, PENDING, Status, StatusConflict
from .transfer import MAX_SOURCE_CHANGES, Transfer

__all__ = [
    "ACTIVE",
    "ALLOWED",
    "FINAL",
    "HEARTBEAT",
    "LEASE",
    "LIVE",
    "MAX_SOURCE_CHANGES",
    "PENDING",
    "Client",
    "RequestKey",
    "Status",
    "StatusConflict",
    "Transfer",
    "asked_before",
    "is_client_id",
    "request_file",
]
