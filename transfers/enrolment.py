"""`POST /api/v1/enrol/`: the one call of the API that is for machines, and needs no login."""

import json
import logging
from collections.abc import Mapping
from typing import IO, Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import exceptions
from rest_framework.parsers import JSONParser
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from agent.wire.display import shown

from .models import EnrolmentRefused, enrol, number_of
from .peer import address_of, neighbourhood
from .serializers import EnrolledSerializer, EnrolSerializer, ErrorSerializer
from .throttle import Allowances

MAX_BODY = 8 * 1024
"""Bytes: all fields at their longest, as JSON escapes, have less."""

FAILURES = 20
FAILURE_SECONDS = 600.0
"""So many refusals in so long, and a party has to wait. Successes are not counted: a whole roll-out
may come from behind one NAT."""

log = logging.getLogger(__name__)

failures = Allowances(FAILURES, FAILURES / FAILURE_SECONDS)
"""A party is an address and the code that it knows, if it knows one: who guesses holds up who guesses, and
never a neighbour who has a code; and who has one can make so many rows of the audit log with it."""


class TooLarge(exceptions.APIException):
    status_code = 413
    default_code = "body_too_large"
    default_detail = f"The body has more than {MAX_BODY} bytes."


class Refused(exceptions.APIException):
    """An `EnrolmentRefused`, as an answer."""

    def __init__(self, refused: EnrolmentRefused) -> None:
        super().__init__(refused.detail, refused.code)
        self.status_code = refused.status


class SmallJSONParser(JSONParser):
    """JSON of bounded length, and so of bounded depth."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        body = stream.read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            raise TooLarge
        try:
            return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:  # RecursionError: nested too deep
            raise exceptions.ParseError(f"This is not JSON: {type(error).__name__}.") from None


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


class EnrolView(APIView):
    authentication_classes = []
    permission_classes = [AllowAny]
    throttle_classes = []
    parser_classes = [SmallJSONParser]

    @extend_schema(
        auth=[],
        request=EnrolSerializer,
        responses={
            201: EnrolledSerializer,
            **{code: OpenApiResponse(ErrorSerializer) for code in (400, 403, 409, 413, 415, 429)},
        },
    )
    def post(self, request: Request) -> Response:
        """Exchange an enrolment code for being a client. The same call again is answered the same."""
        body = EnrolSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        values = dict(body.validated_data)
        wanted = values.pop("client") or ""
        party = (neighbourhood(address_of(request) or ""), number_of(values["code"]))
        if pause := failures.wait(party):
            raise exceptions.Throttled(pause, "Too many enrolments have failed.")
        try:
            client = enrol(**values, wanted=wanted)
        except EnrolmentRefused as refused:
            failures.take(party)
            log.warning(
                "Refused to enrol %s (%s): %s",
                shown(wanted or values["hostname"]) or "a machine",
                address_of(request),
                shown(refused.detail),
            )
            raise Refused(refused) from None
        log.info("Enrolled client %s, %s", client, client.status)
        return Response({"client": client.pk, "status": client.status}, 201)
