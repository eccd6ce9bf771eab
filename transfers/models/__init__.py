"""Clients and transfers, the status table and the only ways to change a status; enrolment; the audit log."""

from .asking import RequestKey, asked_before, request_file, request_files
from .audit import (
    AppendOnly,
    AuditHead,
    AuditRecord,
    Event,
    Verdict,
    last_number,
    note_end,
    record,
    recorded_together,
    verify,
)
from .client import Client, ClientConflict, ClientQuerySet, ClientStatus, Standing, is_client_id
from .enrolment import (
    MAX_USES,
    Enrolment,
    EnrolmentKey,
    EnrolmentRefused,
    enrol,
    make_code,
    make_key,
    number_of,
)
from .history import LINK_LOST, Course, Setback
from .label import Label, Scope
from .presence import HEARTBEAT, LEASE, Arrived, Presence, all_came_online, all_seen
from .queries import Outlook
from .quota import QuotaExceeded, check_quota
from .row import MAX_REASON, Source
from .status import ACTIVE, ALLOWED, FINAL, LIVE, PENDING, Status, StatusConflict
from .transfer import MAX_SOURCE_CHANGES, Transfer
from .usage import Usage, counted_together
from .webhook import Delivery, Webhook

__all__ = [
    "ACTIVE",
    "ALLOWED",
    "FINAL",
    "HEARTBEAT",
    "LEASE",
    "LINK_LOST",
    "LIVE",
    "MAX_REASON",
    "MAX_SOURCE_CHANGES",
    "MAX_USES",
    "PENDING",
    "AppendOnly",
    "Arrived",
    "AuditHead",
    "AuditRecord",
    "Client",
    "ClientConflict",
    "ClientQuerySet",
    "ClientStatus",
    "Course",
    "Delivery",
    "Enrolment",
    "EnrolmentKey",
    "EnrolmentRefused",
    "Event",
    "Label",
    "Outlook",
    "Presence",
    "QuotaExceeded",
    "RequestKey",
    "Scope",
    "Setback",
    "Source",
    "Standing",
    "Status",
    "StatusConflict",
    "Transfer",
    "Usage",
    "Verdict",
    "Webhook",
    "all_came_online",
    "all_seen",
    "asked_before",
    "check_quota",
    "counted_together",
    "enrol",
    "is_client_id",
    "last_number",
    "make_code",
    "make_key",
    "note_end",
    "number_of",
    "record",
    "recorded_together",
    "request_file",
    "request_files",
    "verify",
]
