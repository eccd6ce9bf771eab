"""Errors as data: every code that a transfer or a conversation can end with, in one table.

The wire, the API, the admin and the documents all use this table; a code that is not in it
does not exist (a test holds that, and that each is in `docs/protocol.md`).
"""

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True)
class ErrorInfo:
    """What a code means to a person, to HTTP, and to whoever decides about another try."""

    code: str
    sentence: str
    http_status: int
    retryable: bool
    """Whether asking again, with nothing else changed, can help."""


_TABLE = (
    ErrorInfo("not_found", "There is no such file on the client.", 404, False),
    ErrorInfo("forbidden", "The agent's configuration does not allow this file.", 403, False),
    ErrorInfo("not_a_file", "The path is not a regular file.", 422, False),
    ErrorInfo("unreadable", "The agent could not read the file.", 422, True),
    ErrorInfo("source_changed", "The file changed while it was read.", 409, True),
    ErrorInfo("too_large", "The file is larger than this server or the agent accepts.", 413, False),
    ErrorInfo("busy", "As many files are under way as may be at once.", 503, True),
    ErrorInfo("checksum_mismatch", "The bytes received are not the bytes read.", 502, True),
    ErrorInfo("storage_full", "The server's disk is full.", 507, True),
    ErrorInfo("storage_error", "The server could not store the file.", 500, True),
    ErrorInfo("quota_exceeded", "The bytes of this day are used up.", 429, True),
    ErrorInfo("protocol_error", "The peer broke the rules of the protocol.", 502, True),
    ErrorInfo("timed_out", "The peer did not answer in time.", 504, True),
    ErrorInfo("cancelled", "The transfer was cancelled.", 409, False),
    ErrorInfo("expired", "The deadline passed before the file had arrived.", 410, False),
    ErrorInfo("revoked", "The client's access was revoked.", 403, False),
    ErrorInfo("internal", "Something failed inside; the log has the details.", 500, True),
)

ERRORS: dict[str, ErrorInfo] = {info.code: info for info in _TABLE}


class CloseCode(IntEnum):
    """How a conversation's socket is closed: RFC 6455's codes (section 7.4.1) plus 3000, and our own.

    Plus 3000, because autobahn lets an application close with 1000 or 3000 to 4999 only (26.10.2,
    `sendClose`). Codes only: daphne drops close reasons, so the sentence travels in an `abort` before.
    """

    SUPERSEDED = 4001
    """A newer connection of the same client took over."""
    PROTOCOL_ERROR = 4002
    REVOKED = 4003
    INVALID_DATA = 4007
    POLICY_VIOLATION = 4008
    SERVICE_RESTART = 4012
    """The server stops, and is expected back."""


class LocalProtocolError(Exception):
    """We broke the rule: our own code said something the table does not allow. A bug here."""


class RemoteProtocolError(Exception):
    """They broke the rule. Raised inside the machine, and handed out as a `Violation`."""

    def __init__(self, detail: str, close_code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
        super().__init__(detail)
        self.detail = detail
        self.close_code = close_code
