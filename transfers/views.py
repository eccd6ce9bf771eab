"""The HTTP API. A view looks up, checks the right, calls one verb of the model, and answers."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from django.http import Http404, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_view,
)
from rest_framework import exceptions, mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agent.wire.errors import ERRORS

from . import content
from .access import Action, clients_of, missed, transfers_of
from .filters import TransferFilter
from .history import history
from .models import (
    Client,
    Event,
    Status,
    Transfer,
    asked_before,
    is_client_id,
    record,
    request_files,
)
from .models.transactions import release_connection
from .rates import count_deed
from .refusals import Conflict, Gone
from .serializers import (
    MOST_AT_ONCE,
    BatchAnswerSerializer,
    BatchSerializer,
    ClientSerializer,
    DownloadSerializer,
    ErrorSerializer,
    LabelsSerializer,
    RateSerializer,
    RequestSerializer,
    StepSerializer,
    TransferSerializer,
)

Row = TypeVar("Row", bound=Model)

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255},
    OpenApiParameter.HEADER,
    description="A repeated request with the same key gets the first one's transfer.",
)
CONFLICT = {409: OpenApiResponse(ErrorSerializer)}
ACCEPTED = {202: TransferSerializer, **CONFLICT}


class Scoped(viewsets.GenericViewSet[Row]):
    """Rows within the user's scope; to miss one is on record."""

    def get_object(self) -> Row:
        try:
            return super().get_object()
        except Http404:
            self.missed()
            raise

    def missed(self) -> None:
        missed(self.request.user, action=self.action, path=self.request.path)


class ClientViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, Scoped[Client]):
    """The machines that files can be pulled from: those within the user's scope."""

    queryset = Client.objects.all()
    serializer_class = ClientSerializer
    lookup_value_regex = "[^/]+"
    takes = {
        "list": Action.SEE_CLIENT,
        "retrieve": Action.SEE_CLIENT,
        "partial_update": Action.LABEL_CLIENT,
        "approve": Action.MANAGE_CLIENT,
        "rotate": Action.MANAGE_CLIENT,
        "revoke": Action.MANAGE_CLIENT,
    }

    def get_queryset(self) -> QuerySet[Client]:
        return clients_of(self.request.user).prefetch_related("labels")

    @extend_schema(request=LabelsSerializer, responses=ClientSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Give a client these labels, and no others."""
        client = self.get_object()
        body = LabelsSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        client.label(body.validated_data["labels"])
        return self._answer(client)

    @extend_schema(request=None, responses={200: ClientSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, pk: str) -> Response:
        """Let in a client that enrolled itself with a key; it comes online by itself."""
        client = self.get_object()
        client.approve()
        return self._answer(client)

    @extend_schema(request=None, responses={200: ClientSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def rotate(self, request: Request, pk: str) -> Response:
        """Give a client a new token over its connection, without an interruption."""
        client = self.get_object()
        client.rotate()
        return self._answer(client)

    @extend_schema(request=None, responses=ClientSerializer)
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, pk: str) -> Response:
        """Refuse a client from now on: its connection is closed, and what was asked of it fails."""
        client = self.get_object()
        client.revoke()
        return self._answer(client)

    def _answer(self, client: Client) -> Response:
        return Response(self.get_serializer(self.get_queryset().get(pk=client.pk)).data)


@extend_schema_view(
    list=extend_schema(
        parameters=[
            OpenApiParameter("status", str, enum=[*Status.values, ""], description="Empty: all.")
        ]
    )
)
class TransferViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, Scoped[Transfer]):
    """Requests for files, from the asking until the landing."""

    queryset = Transfer.objects.select_related("requested_by")
    serializer_class = TransferSerializer
    filterset_class = TransferFilter
    lookup_value_regex = "[0-9a-fA-F-]{36}"
    lookup_value_converter = "uuid"
    takes = {
        "list": Action.SEE_TRANSFER,
        "retrieve": Action.SEE_TRANSFER,
        "history": Action.SEE_TRANSFER,
        "content": Action.FETCH_FILE,
        "create": Action.REQUEST_FILE,
        "download": Action.REQUEST_FILE,
        "batch": Action.REQUEST_FILE,
        "partial_update": Action.STEER_TRANSFER,
        "cancel": Action.STEER_TRANSFER,
        "retry": Action.STEER_TRANSFER,
        "hold": Action.STEER_TRANSFER,
        "release": Action.STEER_TRANSFER,
    }

    def get_queryset(self) -> QuerySet[Transfer]:
        return transfers_of(self.request.user).select_related("requested_by", "client")

    @extend_schema(request=RequestSerializer, responses=ACCEPTED, parameters=[IDEMPOTENCY_KEY])
    def create(self, request: Request) -> Response:
        """Ask for a file."""
        body = RequestSerializer(data=request.data)
        if asked := self._asked_before(body.initial_data):
            return self._answer(asked[0])
        body.is_valid(raise_exception=True)
        values = dict(body.validated_data)
        client = self._ready(values.pop("client"), values.pop("if_offline"))
        return self._answer(self._ask(client, [values.pop("path")], **values)[0])

    @extend_schema(
        request=BatchSerializer,
        responses={202: BatchAnswerSerializer, **CONFLICT},
        parameters=[IDEMPOTENCY_KEY],
    )
    @action(detail=False, methods=["post"])
    def batch(self, request: Request) -> Response:
        """Ask a client for many files: for all of them, or for none."""
        body = BatchSerializer(data=request.data)
        if not (transfers := self._asked_before(body.initial_data)):
            body.is_valid(raise_exception=True)
            values = dict(body.validated_data)
            client = self._ready(values.pop("client"), values.pop("if_offline"))
            paths = values.pop("paths")
            if len(paths) > 1:
                count_deed(request.user, len(paths) - 1)  # one is counted already
            transfers = self._ask(client, paths, **values)
        answer = BatchAnswerSerializer(
            {"results": transfers}, context=self.get_serializer_context()
        )
        return Response(answer.data, status.HTTP_202_ACCEPTED)

    @extend_schema(request=DownloadSerializer, responses=ACCEPTED, parameters=[IDEMPOTENCY_KEY])
    def download(self, request: Request, client_id: str) -> Response:
        """Ask a client for a file: the short form."""
        body = DownloadSerializer(data=request.data)
        if asked := self._asked_before(body.initial_data, client_id):
            return self._answer(asked[0])
        body.is_valid(raise_exception=True)
        values = dict(body.validated_data)
        return self._answer(self._ask(self._client(client_id), [values.pop("path")], **values)[0])

    @property
    def _idempotency_key(self) -> str | None:
        key = self.request.headers.get("Idempotency-Key")
        if key is not None and not 1 <= len(key) <= 255:
            raise exceptions.ValidationError({"Idempotency-Key": ["It has 1 to 255 characters."]})
        return key

    def _asked_before(self, body: Any, client_id: str | None = None) -> list[Transfer] | None:
        """The transfers of an earlier request with this key, whatever has become of its client since."""
        key = self._idempotency_key
        if key is None:
            return None
        paths = _paths(body)
        transfers = asked_before(self.request.user, key, len(paths))
        if transfers is not None:
            self._client(transfers[0].client_id)  # the user's scope may be narrower by now
            said = isinstance(body, Mapping)
            wanted = [(client_id or body.get("client"), path) for path in paths] if said else None
            if said and wanted != [(each.client_id, each.path) for each in transfers]:
                sentence = f"This Idempotency-Key was used for {transfers[0]}. Use a new one."
                raise Conflict(sentence, code="idempotency_key_reused")
        return transfers

    def _ready(self, client_id: str, if_offline: str) -> Client:
        """The client, if it is there as the caller wants it."""
        client = self._client(client_id)
        if if_offline == "fail" and not client.online:
            raise Conflict(f"Client {client} is offline.", code="client_offline")
        return client

    def _client(self, client_id: str) -> Client:
        # A name that cannot be a client's may be one that the database refuses to look for (NUL).
        mine = clients_of(self.request.user)
        known = is_client_id(client_id) and mine.filter(pk=client_id).first()
        if not known:
            self.missed()
            raise exceptions.NotFound(f"There is no client {client_id!r}.")
        return known

    def _ask(self, client: Client, paths: Sequence[str | None], **values: Any) -> list[Transfer]:
        client.check_served()
        return request_files(
            client,
            paths,
            requested_by=self.request.user,
            idempotency_key=self._idempotency_key,
            **values,
        )

    def _answer(self, transfer: Transfer) -> Response:
        url = self.request.build_absolute_uri(f"/api/v1/transfers/{transfer.pk}/")
        data = self.get_serializer(transfer).data
        return Response(data, status.HTTP_202_ACCEPTED, headers={"Location": url})

    @extend_schema(responses=StepSerializer(many=True), filters=False)
    @action(detail=True, pagination_class=None)
    def history(self, request: Request, pk: str) -> Response:
        """All that happened to it, the oldest first: deeds of people, attempts that ended, the landing."""
        return Response(StepSerializer(history(self.get_object()), many=True).data)

    @extend_schema(request=RateSerializer, responses={200: TransferSerializer, **CONFLICT})
    def partial_update(self, request: Request, pk: str) -> Response:
        """Make a transfer slower or faster, also in the middle."""
        transfer = self.get_object()
        body = RateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        transfer.limit_rate(body.validated_data["rate_limit"])
        return Response(self.get_serializer(transfer).data)

    @extend_schema(request=None, responses={200: TransferSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """Stop a transfer that has not ended."""
        transfer = self.get_object()
        transfer.cancel()
        return Response(self.get_serializer(transfer).data)

    @extend_schema(request=None, responses={200: TransferSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str) -> Response:
        """Start a failed transfer anew, from its last checkpoint if the source is still the same."""
        transfer = self.get_object()
        transfer.retry()
        return Response(self.get_serializer(transfer).data)

    @extend_schema(request=None, responses={200: TransferSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def hold(self, request: Request, pk: str) -> Response:
        """Keep the landed file, however old it grows."""
        return self._hold(held=True)

    @extend_schema(request=None, responses={200: TransferSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def release(self, request: Request, pk: str) -> Response:
        """Keep the landed file no longer than others."""
        return self._hold(held=False)

    def _hold(self, *, held: bool) -> Response:
        transfer = self.get_object()
        transfer.hold(held=held)
        return Response(self.get_serializer(transfer).data)

    @extend_schema(
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            (206, "application/octet-stream"): OpenApiTypes.BINARY,
            416: None,
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
        if transfer.removed_at is not None:
            raise Gone("The file was removed: it was as old as landed files are kept.")
        wanted = request.headers.get("Range", "")
        try:
            response = content.file_response(
                path,
                etag=transfer.sha256,
                wanted=wanted,
                if_range=request.headers.get("If-Range", ""),
            )
        except FileNotFoundError:
            raise exceptions.NotFound("The file was removed from the server.") from None
        record(Event.FETCHED, transfer=transfer, sha256=transfer.sha256, range=wanted[:100])
        release_connection()
        return response


def _paths(body: Any) -> list[Any]:
    """What a body that was not looked at yet asks for; of one that is wrong, something."""
    paths = body.get("paths") if isinstance(body, Mapping) else None
    if isinstance(paths, list) and 1 <= len(paths) <= MOST_AT_ONCE:
        return paths
    return [body.get("path") if isinstance(body, Mapping) else None]
