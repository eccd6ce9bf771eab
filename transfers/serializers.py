"""What the API says and takes."""

from typing import Any

from django.conf import settings
from django.core.validators import RegexValidator
from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from agent.wire.messages import LEAST_RATE, MAX_PATH

from .facts import facts_of
from .models import MAX_REASON, Client, ClientStatus, Label, Status, Transfer
from .models.client import client_id_validator
from .models.label import label_validator

MOST_AT_ONCE = 1000
"""Files in one request."""


class ClientSerializer(serializers.ModelSerializer[Client]):
    online = serializers.BooleanField(read_only=True)
    status = serializers.ChoiceField(ClientStatus.choices, read_only=True)
    labels: serializers.SlugRelatedField[Label] = serializers.SlugRelatedField(
        slug_field="name", many=True, read_only=True
    )

    class Meta:
        model = Client
        fields = (
            "id",
            "status",
            "online",
            "last_seen",
            "platform",
            "hostname",
            "agent_version",
            "labels",
            "created_at",
            "enrolled_at",
            "rotate_requested_at",
        )
        read_only_fields = fields


class ErrorSerializer(serializers.Serializer[Any]):
    """Why a transfer ended as it did, or why a call was refused."""

    code = serializers.CharField()
    detail = serializers.CharField()


class TransferSerializer(serializers.ModelSerializer[Transfer]):
    """A transfer that is not final can have an error, too: of its last attempt, before the next one."""

    client = serializers.CharField(source="client_id", read_only=True)
    file = serializers.SerializerMethodField(help_text="Relative to the server's downloads/.")
    error = serializers.SerializerMethodField()
    received = serializers.SerializerMethodField(help_text="Bytes by now, of all attempts.")
    rate = serializers.SerializerMethodField(
        help_text="Bytes a second: lately while it comes, on average once it has landed."
    )
    waits_for = serializers.SerializerMethodField(
        help_text="What one that is queued or interrupted waits for; empty where it does not."
    )
    requested_by = serializers.CharField(
        source="requested_by.username", read_only=True, default=None, allow_null=True
    )

    class Meta:
        model = Transfer
        fields = (
            "id",
            "client",
            "path",
            "status",
            "name",
            "size",
            "received",
            "checkpoint",
            "wire_bytes",
            "rate",
            "sha256",
            "source_sha256",
            "file",
            "attempts",
            "error",
            "next_attempt_at",
            "waits_for",
            "requested_by",
            "reason",
            "created_at",
            "started_at",
            "finished_at",
            "deadline",
            "held",
            "removed_at",
            "rate_limit",
        )
        read_only_fields = fields

    def get_file(self, transfer: Transfer) -> str | None:
        # Before it has landed the name is only reserved.
        return transfer.file if transfer.status == Status.COMPLETED else None

    def get_received(self, transfer: Transfer) -> int:
        return facts_of(transfer).received

    def get_rate(self, transfer: Transfer) -> int | None:
        return facts_of(transfer).rate

    def get_waits_for(self, transfer: Transfer) -> str:
        return facts_of(transfer).waits_for

    @extend_schema_field(ErrorSerializer(allow_null=True))
    def get_error(self, transfer: Transfer) -> dict[str, str] | None:
        if not transfer.error_code:
            return None
        return {"code": transfer.error_code, "detail": transfer.error_detail}


class StepSerializer(serializers.Serializer[Any]):
    """One thing that happened to a transfer."""

    at = serializers.DateTimeField()
    event = serializers.CharField(
        help_text="Of the audit log; or `started`, or the code that an attempt ended with."
    )
    what = serializers.CharField(help_text="A sentence, for people.")
    detail = serializers.CharField(help_text="What was said about it, by people or by agents.")


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses fields that it does not know: a misspelt `path` must not pull another file."""

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        unknown = sorted(set(data) - set(self.fields))
        if unknown:
            raise serializers.ValidationError(
                {name: ["There is no such field."] for name in unknown}
            )
        return values


class StrictCharField(serializers.CharField):
    """Refuses numbers, which DRF would take for their digits."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class RateField(serializers.IntegerField):
    """Bytes a second; null: no limit. Refuses strings and truth values."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_null=True,
            min_value=LEAST_RATE,
            max_value=2**63 - 1,
            help_text="Bytes a second that its agent sends at most; null: no limit of the server's.",
            **options,
        )

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("invalid")
        return super().to_internal_value(data)


class TermsSerializer(StrictSerializer):
    """How files are asked for."""

    duplicate = serializers.BooleanField(
        default=False,
        help_text="Ask even while another transfer of the same file is under way. Without it, that one "
        "is the answer.",
    )
    reason = StrictCharField(
        default="",
        allow_blank=True,
        max_length=MAX_REASON,
        help_text="Why it is asked for: for the audit log. SILENTMODE_REQUIRE_REASON makes it mandatory.",
    )
    rate_limit = RateField(default=None)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if settings.REQUIRE_REASON and not attrs["reason"]:
            raise serializers.ValidationError(
                {"reason": ["Say why you ask for the file: this server wants a reason."]}
            )
        return attrs


class DownloadSerializer(TermsSerializer):
    """The body of `POST /download/<client_id>`."""

    path = StrictCharField(
        required=False,
        allow_null=True,
        default=None,
        max_length=MAX_PATH,
        trim_whitespace=False,
        help_text="On the client; null or missing: the file that its agent offers (`--file`).",
    )


class ClientTermsSerializer(TermsSerializer):
    """Of whom, how long, and what if it is offline."""

    client = StrictCharField(max_length=64)
    deadline = serializers.DateTimeField(
        required=False, allow_null=True, default=None, help_text="The transfer expires then."
    )
    if_offline = serializers.ChoiceField(choices=["queue", "fail"], default="queue")

    def validate_deadline(self, value: Any) -> Any:
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError("The deadline has passed.")
        return value


class RequestSerializer(DownloadSerializer, ClientTermsSerializer):
    """The body of `POST /api/v1/transfers/`."""


def each_once(paths: list[str]) -> None:
    if len(set(paths)) < len(paths):
        raise serializers.ValidationError("A path is there twice.")


class BatchSerializer(ClientTermsSerializer):
    """The body of `POST /api/v1/transfers/batch/`."""

    paths = serializers.ListField(
        child=StrictCharField(max_length=MAX_PATH, trim_whitespace=False),
        allow_empty=False,
        max_length=MOST_AT_ONCE,
        validators=[each_once],
        help_text="On the client, each once.",
    )


class BatchAnswerSerializer(serializers.Serializer[Any]):
    """The transfers, in the order of the paths."""

    results = TransferSerializer(many=True)


class RateSerializer(StrictSerializer):
    """The body of `PATCH /api/v1/transfers/<id>/`."""

    rate_limit = RateField()


class LabelsSerializer(StrictSerializer):
    """The body of `PATCH /api/v1/clients/<id>/`."""

    labels = serializers.ListField(
        child=StrictCharField(max_length=64, validators=[label_validator]), max_length=100
    )


class EnrolSerializer(StrictSerializer):
    """The body of `POST /api/v1/enrol/`."""

    code = StrictCharField(max_length=100)
    token_sha256 = StrictCharField(
        trim_whitespace=False,
        validators=[RegexValidator(r"\A[0-9a-f]{64}\Z", "64 lower-case hexadecimal digits.")],
        help_text="SHA-256 of the token that the agent has made; the token itself stays with it.",
    )
    client = StrictCharField(
        required=False,
        allow_null=True,
        default=None,
        trim_whitespace=False,
        validators=[client_id_validator],
        help_text="The id that a key's new client is to have; null or missing: its host name.",
    )
    hostname = StrictCharField(default="", allow_blank=True, max_length=255)
    platform = StrictCharField(default="", allow_blank=True, max_length=255)


class EnrolledSerializer(serializers.Serializer[Any]):
    """Which client the machine is, and whether it may connect at once."""

    client = serializers.CharField()
    status = serializers.ChoiceField([ClientStatus.ACTIVE.value, ClientStatus.PENDING.value])
