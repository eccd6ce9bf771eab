"""Clients and transfers: the status table, and the only ways to change a status."""

from .client import HEARTBEAT, LEASE, Client, is_client_id
from .status import ACTIVE, ALLOWED, FINAL, PENDING, Status, StatusConflict
from .transfer import MAX_SOURCE_CHANGES, Transfer

__all__ = [
    "ACTIVE",
    "ALLOWED",
    "FINAL",
    "HEARTBEAT",
    "LEASE",
    "MAX_SOURCE_CHANGES",
    "PENDING",
    "Client",
    "Status",
    "StatusConflict",
    "Transfer",
    "is_client_id",
]
