"""The HTTP API. A view looks up, checks the right, calls one verb of the model, and answers."""

import logging
import tempfile
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponseBase, JsonResponse
from django.views.decorators.http import require_GET
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import exceptions, mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import exception_handler

from agent.wire.display import shown
from agent.wire.errors import ERRORS

from . import content, lifecycle
from .auth import Action, AgentRefused, authenticate_agent
from .models import (
    Client,
    Status,
    StatusConflict,
    Transfer,
    asked_before,
    is_client_id,
    request_file,
)
from .serializers import (
    ClientSerializer,
    DownloadSerializer,
    ErrorSerializer,
    RequestSerializer,
    TransferSerializer,
)

log = logging.getLogger(__name__)

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="A repeated request with the same key gets the first one's transfer.",
)
ACCEPTED = {
    202: TransferSerializer,
    **{code: OpenApiResponse(ErrorSerializer) for code in (400, 401, 403, 404, 409, 415)},
}
REFUSALS = {code: OpenApiResponse(ErrorSerializer) for code in (401, 403, 404)}
CONFLICT = {409: OpenApiResponse(ErrorSerializer)}


class Conflict(exceptions.APIException):
    status_code = 409
    default_code = "conflict"


def error_response(error: Exception, context: dict[str, Any]) -> Response | None:
    """Every refusal of the API as `{"code": …, "detail": …}`."""
    if isinstance(error, StatusConflict):
        error = Conflict(str(error))
    if isinstance(error, Http404):
        error = exceptions.NotFound(str(error) or None)
    response = exception_handler(error, context)
    if response is not None:
        code = "invalid"
        if isinstance(error, exceptions.APIException) and not isinstance(
            error, exceptions.ValidationError
        ):
            code = str(error.get_codes())
        detail = _sentence(response.data)
        if isinstance(error, exceptions.UnsupportedMediaType):
            detail += " Send JSON, with Content-Type: application/json."
        response.data = {"code": code, "detail": detail}
    return response


def _sentence(data: Any, field: str = "") -> str:
    """DRF's nested lists and dictionaries of errors as one line that names the fields."""
    if isinstance(data, dict):
        names: dict[str, str] = {"detail": "", "non_field_errors": ""}
        return " ".join(
            _sentence(value, names.get(str(key), str(key))) for key, value in data.items()
        )
    if isinstance(data, list):
        return " ".join(_sentence(value, field) for value in data)
    return f"{field}: {data}" if field else str(data)


def bad_request(request: HttpRequest, exception: Exception) -> JsonResponse:
    detail = "The request is malformed."
    if isinstance(exception, DisallowedHost):
        host = shown(request.META.get("HTTP_HOST", ""))
        detail = f"This server does not answer as {host}; SILENTMODE_ALLOWED_HOSTS names its hosts."
        log.warning("Refused a request: %s", detail)
    return JsonResponse({"code": "bad_request", "detail": detail}, status=400)


def server_error(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"code": "internal", "detail": ERRORS["internal"].sentence}, status=500)


def not_found(request: HttpRequest, exception: Exception) -> JsonResponse:
    return JsonResponse({"code": "not_found", "detail": "There is no such page."}, status=404)


class ClientViewSet(viewsets.ReadOnlyModelViewSet[Client]):
    """The machines that files can be pulled from."""

    queryset = Client.objects.all()
    serializer_class = ClientSerializer
    lookup_value_regex = "[^/]+"
    takes = {"list": Action.SEE_CLIENTS, "retrieve": Action.SEE_CLIENTS}


class TransferViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, viewsets.GenericViewSet[Transfer]
):
    """Requests for files, from the asking until the landing."""

    queryset = Transfer.objects.select_related("requested_by")
    serializer_class = TransferSerializer
    filterset_fields = ("client", "status")
    lookup_value_regex = "[0-9a-fA-F-]{36}"
    lookup_value_converter = "uuid"
    takes = {
        "list": Action.SEE_TRANSFERS,
        "retrieve": Action.SEE_TRANSFERS,
        "content": Action.SEE_TRANSFERS,
        "create": Action.REQUEST_FILE,
        "download": Action.REQUEST_FILE,
        "cancel": Action.STEER_TRANSFER,
        "retry": Action.STEER_TRANSFER,
    }

    @extend_schema(request=RequestSerializer, responses=ACCEPTED, parameters=[IDEMPOTENCY_KEY])
    def create(self, request: Request) -> Response:
        """Ask for a file."""
        body = RequestSerializer(data=request.data)
        if asked := self._asked_before(body.initial_data):
            return self._answer(asked)
        body.is_valid(raise_exception=True)
        values = dict(body.validated_data)
        client = _client(values.pop("client"))
        if values.pop("if_offline") == "fail" and not client.online:
            raise Conflict(f"Client {client} is offline.", code="client_offline")
        return self._ask(client, **values)

    @extend_schema(request=DownloadSerializer, responses=ACCEPTED, parameters=[IDEMPOTENCY_KEY])
    def download(self, request: Request, client_id: str) -> Response:
        """Ask a client for a file: the short form."""
        body = DownloadSerializer(data=request.data)
        if asked := self._asked_before(body.initial_data, client_id):
            return self._answer(asked)
        body.is_valid(raise_exception=True)
        return self._ask(_client(client_id), **body.validated_data)

    @property
    def _idempotency_key(self) -> str | None:
        key = self.request.headers.get("Idempotency-Key")
        if key is not None and not 1 <= len(key) <= 255:
            raise exceptions.ValidationError({"Idempotency-Key": ["It has 1 to 255 characters."]})
        return key

    def _asked_before(self, body: Any, client_id: str | None = None) -> Transfer | None:
        """The transfer of an earlier request with this key, whatever has become of its client since."""
        key = self._idempotency_key
        transfer = asked_before(self.request.user, key) if key else None
        if transfer is not None and isinstance(body, Mapping):
            wanted = (client_id or body.get("client"), body.get("path"))
            if wanted != (transfer.client_id, transfer.path):
                sentence = f"This Idempotency-Key was used for {transfer}. Use a new one."
                raise Conflict(sentence, code="idempotency_key_reused")
        return transfer

    def _ask(self, client: Client, **values: Any) -> Response:
        if client.revoked_at is not None:
            raise Conflict(f"The access of client {client} was revoked.", code="revoked")
        return self._answer(
            request_file(
                client,
                requested_by=self.request.user,
                idempotency_key=self._idempotency_key,
                **values,
            )
        )

    def _answer(self, transfer: Transfer) -> Response:
        url = self.request.build_absolute_uri(f"/api/v1/transfers/{transfer.pk}/")
        data = self.get_serializer(transfer).data
        return Response(data, status.HTTP_202_ACCEPTED, headers={"Location": url})

    @extend_schema(request=None, responses={200: TransferSerializer, **REFUSALS, **CONFLICT})
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """Stop a transfer that has not ended."""
        transfer = self.get_object()
        transfer.cancel()
        return Response(self.get_serializer(transfer).data)

    @extend_schema(request=None, responses={200: TransferSerializer, **REFUSALS, **CONFLICT})
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str) -> Response:
        """Start a failed transfer anew, from its last checkpoint if the source is still the same."""
        transfer = self.get_object()
        transfer.retry()
        return Response(self.get_serializer(transfer).data)

    @extend_schema(
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            (206, "application/octet-stream"): OpenApiTypes.BINARY,
            416: None,
            **REFUSALS,
            **CONFLICT,
            **{info.http_status: OpenApiResponse(ErrorSerializer) for info in ERRORS.values()},
        }
    )
    @action(detail=True)
    def content(self, request: Request, pk: str) -> HttpResponseBase:
        """The landed file, or a `Range` of it."""
        transfer = self.get_object()
        path = transfer.landed_path
        if transfer.is_final and transfer.error_code:
            status_code = ERRORS[transfer.error_code].http_status
            detail = f"There is no file: the transfer {transfer.status}: {transfer.error_detail}"
            answer = {"code": transfer.error_code, "detail": detail}
            return Response(answer, status_code)
        if transfer.status != Status.COMPLETED or path is None:
            raise Conflict(f"The file has not landed: the transfer is {transfer.status}.")
        try:
            return content.file_response(
                path,
                etag=transfer.sha256,
                wanted=request.headers.get("Range", ""),
                if_range=request.headers.get("If-Range", ""),
            )
        except FileNotFoundError:
            raise exceptions.NotFound("The file was removed from the server.") from None


def _client(client_id: str) -> Client:
    # A name that cannot be a client's may be one that the database refuses to look for (NUL).
    known = is_client_id(client_id) and Client.objects.filter(pk=client_id).first()
    if not known:
        raise exceptions.NotFound(f"There is no client {client_id!r}.")
    return known


@require_GET
def agent_door(request: HttpRequest, client_id: str) -> JsonResponse:
    """Tell an agent whose WebSocket handshake was refused why: a refusal there is a bare 403."""
    if lifecycle.is_stopping():
        answer = {"code": "stopping", "detail": lifecycle.STOPS}
        return JsonResponse(answer, status=503, headers={"Retry-After": lifecycle.RETRY_AFTER})
    headers = {name.lower(): value for name, value in request.headers.items()}
    try:
        authenticate_agent(client_id, headers)
    except AgentRefused as refused:
        answer = {"code": refused.code, "detail": refused.detail}
        return JsonResponse(answer, status=refused.status)
    answer = {"code": "upgrade_required", "detail": "Connect by WebSocket, speaking silentmode.v1."}
    return JsonResponse(answer, status=426, headers={"Upgrade": "websocket"})


@require_GET
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when the database and the data directory answer; for load balancers and monitors."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        with tempfile.TemporaryFile(dir=settings.PARTIAL_DIR) as file:
            file.write(b"healthy")
    except Exception as error:
        return JsonResponse({"code": "unhealthy", "detail": type(error).__name__}, status=503)
    return JsonResponse({"code": "healthy"})
