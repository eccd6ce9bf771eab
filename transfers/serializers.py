"""What the API says and takes."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from agent.wire.messages import MAX_PATH

from .models import Client, Status, Transfer


class ClientSerializer(serializers.ModelSerializer[Client]):
    online = serializers.BooleanField(read_only=True)
    labels = serializers.ListField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = Client
        fields = (
            "id",
            "online",
            "last_seen",
            "platform",
            "hostname",
            "agent_version",
            "labels",
            "created_at",
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
            "sha256",
            "source_sha256",
            "file",
            "attempts",
            "error",
            "next_attempt_at",
            "requested_by",
            "created_at",
            "started_at",
            "finished_at",
            "deadline",
        )
        read_only_fields = fields

    def get_file(self, transfer: Transfer) -> str | None:
        # Before it has landed the name is only reserved.
        return transfer.file if transfer.status == Status.COMPLETED else None

    @extend_schema_field(ErrorSerializer(allow_null=True))
    def get_error(self, transfer: Transfer) -> dict[str, str] | None:
        if not transfer.error_code:
            return None
        return {"code": transfer.error_code, "detail": transfer.error_detail}


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


class DownloadSerializer(StrictSerializer):
    """The body of `POST /download/<client_id>`."""

    path = StrictCharField(
        required=False,
        allow_null=True,
        default=None,
        max_length=MAX_PATH,
        trim_whitespace=False,
        help_text="On the client; null or missing: the file that its agent offers (`--file`).",
    )
    duplicate = serializers.BooleanField(
        default=False,
        help_text="Ask even while another transfer of the same file is under way. Without it, that one "
        "is the answer.",
    )


class RequestSerializer(DownloadSerializer):
    """The body of `POST /api/v1/transfers/`."""

    client = StrictCharField(max_length=64)
    deadline = serializers.DateTimeField(
        required=False, allow_null=True, default=None, help_text="The transfer expires then."
    )
    if_offline = serializers.ChoiceField(choices=["queue", "fail"], default="queue")

    def validate_deadline(self, value: Any) -> Any:
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError("The deadline has passed.")
        return value
