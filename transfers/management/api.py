"""The server's API, for commands that ask a server as anybody does: over HTTP, with a token."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from django.core.management.base import CommandError

from agent.wire.display import shown
from agent.wire.hosts import is_loopback
from transfers.redirects import NoRedirect


class Unreachable(Exception):
    """The server does not answer, now."""


class Refused(CommandError):
    """The server answered, and with no success: its HTTP status, and its own sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Api:
    """The server's API, as much of it as this command needs."""

    def __init__(self, server: str, token: str) -> None:
        self.server = server.rstrip("/")
        self.token = token
        handlers: list[Any] = [NoRedirect]
        if is_loopback(urlsplit(server).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))  # a proxy is another machine
        self._opener = urllib.request.build_opener(*handlers)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer, with nothing in it that a terminal would not print as text.

        Raises Refused and Unreachable.
        """
        request = urllib.request.Request(
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Token {self.token}", "Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=30) as answer:
                return _printable(json.load(answer))
        except urllib.error.HTTPError as error:
            if error.code in (502, 503, 504):  # a proxy whose server is not there
                raise Unreachable(f"{self.server}: HTTP {error.code}") from None
            raise Refused(error.code, f"{self.server}: {_sentence(error)}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.server} does not answer as it should: {error}") from None


def _printable(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {name: _printable(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [_printable(value) for value in answer]
    # Sizes have a space that does not break, which is no control character.
    return shown(answer.replace("\xa0", " ")) if isinstance(answer, str) else answer


def _sentence(error: urllib.error.HTTPError) -> str:
    if 300 <= error.code < 400:
        return (
            f"HTTP {error.code}, a redirect, is not followed with the token. Give --server the place "
            "itself; is it https://?"
        )
    try:
        answer = _printable(json.load(error))
        return f"{answer['detail']} ({answer['code']})"
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"


def check_server(server: str, *, allow_insecure: bool) -> None:
    """Whether the token may go there. Raises CommandError."""
    try:
        parts = urlsplit(server)
    except ValueError as error:
        raise CommandError(f"--server {server}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CommandError(f"--server {server}: it looks like https://files.example.com")
    if parts.scheme == "http" and not (allow_insecure or is_loopback(parts.hostname)):
        raise CommandError(
            f"--server {server}: without TLS, the API token could be read on the way. Use https://, or "
            "--allow-insecure if the way itself is safe."
        )
