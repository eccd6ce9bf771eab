"""What drf-spectacular cannot see by itself."""

from typing import Any

from drf_spectacular.contrib.knox_auth_token import KnoxTokenScheme
from drf_spectacular.extensions import OpenApiSerializerExtension


class TokenScheme(KnoxTokenScheme):  # type: ignore[no-untyped-call]
    """`Authorization: Token …` in the OpenAPI schema, for our subclass of knox's class."""

    target_class = "transfers.auth.TokenAuthentication"


class Strict(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """A `StrictSerializer` takes no field that it does not know."""

    target_class = "transfers.serializers.StrictSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        schema: dict[str, Any] = auto_schema._map_serializer(self.target, direction, True)
        return schema | {"additionalProperties": False}


REFUSALS = {
    "400": "Something in the call cannot be.",
    "401": "The token or session is missing, unknown or over.",
    "403": "The user has no right to do this.",
    "404": "There is no such thing, or it is outside of the user's scope.",
    "415": "The body is not JSON.",
    "429": "The user has done, or was refused, too much lately; `Retry-After` says for how long to wait.",
}
"""How every call can be refused."""


def add_refusals(result: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """A postprocessing hook: each call says how it can be refused, in the form that all refusals have."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for calls in result["paths"].values():
        for call in calls.values():
            for status, description in REFUSALS.items():
                if status != "415" or "requestBody" in call:
                    refusal = {"description": description, "content": content}
                    call["responses"].setdefault(status, refusal)
    return result
