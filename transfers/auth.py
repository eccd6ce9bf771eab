"""Who somebody is: agents by their token, operators by theirs or by a session. `access` has what they may.

Tokens are 256 random bits, stored as SHA-256 only, and travel only in a header.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from django.utils.crypto import constant_time_compare
from knox.auth import TokenAuthentication as KnoxTokenAuthentication
from rest_framework import exceptions

from .models import Client
from .tokens import digest

# Agents -----------------------------------------------------------------------------------------


class AgentRefused(Exception):
    """This handshake is not to be accepted.

    `code` and `status` are what the agent is told when it asks over plain HTTP, because the refusal
    of a WebSocket handshake can carry neither (daphne answers 403 and no more).
    """

    def __init__(
        self, code: str, status: int, detail: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        """Seconds, where it is known when to try again."""


def authenticate_agents(
    asked: Sequence[tuple[str, Mapping[str, str]]],
) -> list[Client | AgentRefused]:
    """The client that the token in these handshake headers (lower-case names) belongs to, for each of many.

    The identity comes from the token alone; the id, from the path, must match it. A rotation that waits
    for the first use of the new token ends here.
    """
    digests = [token_digest(headers) for _, headers in asked]
    # Looked up by its hash, so that the time it takes tells nothing about a token.
    known = Client.objects.holders({shown for shown in digests if shown is not None})
    answers: list[Client | AgentRefused] = []
    for (client_id, headers), shown in zip(asked, digests, strict=True):
        # A copy: two connections of one client each have their own.
        client = copy(known[shown]) if shown is not None and shown in known else None
        try:
            answers.append(_admitted(client_id, headers, shown, client))
        except AgentRefused as refused:
            answers.append(refused)
    return answers


def _admitted(
    client_id: str, headers: Mapping[str, str], shown: str | None, client: Client | None
) -> Client:
    """The holder of the token that was shown, if it may come in. Raises AgentRefused."""
    if "origin" in headers:
        raise AgentRefused("forbidden", 403, "Browsers may not connect here: it is for agents.")
    if shown is None or client is None:
        raise AgentRefused("unauthorized", 401, "The token is not known to this server.")
    if not constant_time_compare(client.pk, client_id):
        raise AgentRefused("wrong_id", 403, f"The token does not belong to client {client_id!r}.")
    if client.revoked_at is not None:
        raise AgentRefused("revoked", 403, f"The access of client {client.pk} was revoked.")
    if client.approved_at is None:
        raise AgentRefused("pending", 403, f"Client {client.pk} waits to be approved.")
    if client.token_sha256 != shown:
        client.take_token(shown)
        if client.token_sha256 != shown:  # an enrolment was quicker
            raise AgentRefused("unauthorized", 401, "The token is not known to this server.")
    return client


def token_digest(headers: Mapping[str, str]) -> str | None:
    """What is stored of the token in these handshake headers (lower-case names), if there is one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return digest(token) if scheme.lower() == "bearer" else None


def known_digests() -> frozenset[str]:
    """What is stored of the tokens of all clients that are not revoked."""
    clients = Client.objects.filter(revoked_at=None)
    tokens = clients.values_list("token_sha256", "next_token_sha256")
    return frozenset(token for pair in tokens for token in pair if token is not None)


# Operators --------------------------------------------------------------------------------------


class TokenAuthentication(KnoxTokenAuthentication):  # type: ignore[misc]  # knox has no types
    """`Authorization: Token …`, looked up by hash."""

    def authenticate_credentials(self, token: bytes) -> Any:
        try:
            token.decode("ascii")
        except UnicodeDecodeError:  # knox 5.1.0 would answer 500
            raise exceptions.AuthenticationFailed("Invalid token.") from None
        return super().authenticate_credentials(token)
