"""`GET /api/v1/events/`: what happens to transfers, as it happens, for scripts (server-sent events).

The events are rows of the audit log, so each has a number, none is missed, and a script that comes back with
`Last-Event-ID` hears what it has missed meanwhile (WHATWG HTML, section 9.2).
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Q
from django.http import StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from knox.models import AuthToken
from rest_framework import exceptions
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from . import lifecycle
from .access import Action, MayOperate, clients_of, is_limited, may
from .models import AuditRecord, Event, last_number
from .models.transactions import release_connection
from .sessions import user_of_session
from .watching import Watchers

LOOK_SECONDS = 1.0
"""Between two looks for new rows."""

QUIET_SECONDS = 15.0
"""After so long without an event a comment is sent, so that proxies, and the script, know it is alive."""

MOST_AT_ONCE = 500
MOST_FOR_A_USER = 8
"""Streams that one user has open, in this process: each is a look a second."""

TOLD = tuple(
    Event[name]
    for name in (
        "REQUESTED", "CANCELLED", "RETRIED", "LANDED", "FAILED", "EXPIRED", "FETCHED", "REMOVED",
    )
)  # fmt: skip

_streams = Watchers("events", MOST_FOR_A_USER)


class EventStream(JSONRenderer):
    """For the `Accept` of an event source; refusals are JSON all the same."""

    media_type = "text/event-stream"
    format = "events"


class EventsView(APIView):
    """What happens to the transfers that this user may see."""

    permission_classes = (MayOperate,)
    renderer_classes = (JSONRenderer, EventStream)
    action = "list"
    takes = {"list": Action.SEE_TRANSFER}  # as view sets have it

    @extend_schema(
        parameters=[
            OpenApiParameter(
                "Last-Event-ID",
                int,
                OpenApiParameter.HEADER,
                description="The number of the last event that was heard. Without it: from now on.",
            )
        ],
        responses={(200, "text/event-stream"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """Events of transfers as server-sent events: `id`, `event`, and `data` as JSON; without an end."""
        watch = Watch(request.user, request.auth, request.session.session_key)
        if not _streams.has_room(watch.pk):
            raise exceptions.Throttled(detail=f"{_streams.most} streams of yours are open.")
        response = StreamingHttpResponse(
            stream(watch, _after(request)),
            content_type="text/event-stream",
        )
        response["X-Accel-Buffering"] = "no"  # nginx would collect it
        release_connection()
        return response

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        """A refusal is JSON, and says so, whatever was to be streamed."""
        if not response.streaming:
            request.accepted_renderer = JSONRenderer()
            request.accepted_media_type = JSONRenderer.media_type
        return super().finalize_response(request, response, *args, **kwargs)


def _after(request: Request) -> int:
    """The number of the event to go on after. Raises ValidationError."""
    said = request.headers.get("Last-Event-ID", "")
    if not said:
        return last_number()
    if not (said.isascii() and said.isdigit() and len(said) < 19):
        raise exceptions.ValidationError({"Last-Event-ID": ["The number of an event."]})
    return int(said)


class Watch:
    """Whose eyes the rows are seen with, asked anew at each look: a right may be taken away."""

    def __init__(self, user: Any, token: Any, session: str | None = None) -> None:
        self.pk: int = user.pk
        self._token = token.pk if isinstance(token, AuthToken) else None
        self._session = session

    def look(self, after: int) -> tuple[list[AuditRecord], int] | None:
        """The next rows, and the number to go on after; None once this user may see none any more."""
        user = self._user()
        if user is None or not may(user, Action.SEE_TRANSFER):
            return None
        end = last_number()
        rows = AuditRecord.objects.filter(number__gt=after, number__lte=end, event__in=TOLD)
        rows = rows.filter(transfer__isnull=False)
        if is_limited(user):
            rows = rows.filter(client__in=clients_of(user).values("pk"))
        found = list(rows.order_by("number")[:MOST_AT_ONCE])
        # What was looked at and is not for this user is not looked at again.
        return found, found[-1].number if len(found) == MOST_AT_ONCE else max(after, end)

    def _user(self) -> User | None:
        if self._token is None:
            return user_of_session(self._session)
        valid = Q(expiry=None) | Q(expiry__gt=timezone.now())
        token = AuthToken.objects.filter(valid, pk=self._token).select_related("user").first()
        user: User | None = token.user if token else None
        return user


async def stream(watch: Watch, after: int) -> AsyncIterator[bytes]:
    """The events after that number, for as long as somebody listens and may."""
    if not _streams.has_room(watch.pk):  # those that came at once have all passed the view
        yield b": too many streams of yours are open\n\n"
        return
    quiet = 0.0
    with _streams.counted(watch.pk):
        yield b": the events of transfers, as they happen\nretry: 2000\n\n"
        while not lifecycle.is_stopping():
            seen = await _streams.look(watch.look, after)
            if seen is None:
                return
            rows, after = seen
            for row in rows:
                quiet = 0.0
                yield as_event(row)
            if quiet >= QUIET_SECONDS:
                quiet = 0.0
                yield b": still here\n\n"
            if len(rows) < MOST_AT_ONCE:
                await asyncio.sleep(LOOK_SECONDS)
                quiet += LOOK_SECONDS


def as_event(row: AuditRecord) -> bytes:
    """One event. Addresses stay in the audit log."""
    data = {
        "at": row.at.isoformat(),
        "event": row.event,
        "transfer": str(row.transfer),
        "client": row.client,
        "by": row.actor,
        "details": row.details,
    }
    return f"id: {row.number}\nevent: {row.event}\ndata: {json.dumps(data)}\n\n".encode()
