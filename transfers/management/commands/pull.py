"""`manage.py pull <client_id> [path]`: asks the server over its API, and waits until it has landed."""

import contextlib
import http.client
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from django.core.management.base import BaseCommand, CommandError, CommandParser
from tqdm import tqdm

from agent.wire.display import shown
from agent.wire.errors import ERRORS
from agent.wire.hosts import is_loopback
from transfers.models import FINAL, PENDING
from transfers.redirects import NoRedirect

POLL_SECONDS = 0.5


class Unreachable(Exception):
    """The server does not answer, now."""


class Api:
    """The server's API, as much of it as this command needs."""

    def __init__(self, server: str, token: str) -> None:
        self.server = server.rstrip("/")
        self.token = token
        handlers: list[Any] = [NoRedirect]
        if is_loopback(urlsplit(server).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))  # a proxy is another machine
        self._opener = urllib.request.build_opener(*handlers)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON answer. Raises CommandError with the server's own sentence, and Unreachable."""
        request = urllib.request.Request(
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Token {self.token}", "Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=30) as answer:
                result: dict[str, Any] = json.load(answer)
                return result
        except urllib.error.HTTPError as error:
            if error.code in (502, 503, 504):  # a proxy whose server is not there
                raise Unreachable(f"{self.server}: HTTP {error.code}") from None
            raise CommandError(f"{self.server}: {_sentence(error)}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.server} does not answer as it should: {error}") from None


def _sentence(error: urllib.error.HTTPError) -> str:
    if 300 <= error.code < 400:
        return (
            f"HTTP {error.code}, a redirect, is not followed with the token. Give --server the place "
            "itself; is it https://?"
        )
    try:
        answer = json.load(error)
        return f"{answer['detail']} ({answer['code']})"
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"


def _check(server: str, *, allow_insecure: bool) -> None:
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


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """The first Ctrl-C waits until the end of this; a second one does not. Raises KeyboardInterrupt."""
    held = False

    def hold(number: int, frame: Any) -> None:
        nonlocal held
        held = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not through a buffer, which may be in the middle of a write just now.
        os.write(
            sys.stderr.fileno(),
            b"Waiting for the server's answer; Ctrl-C again to go without it.\n",
        )

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # as in the background
        yield
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if held:
        raise KeyboardInterrupt


class Command(BaseCommand):
    help = (
        "Pulls a file from a client and shows its progress until it has landed; exit status 0 only then. "
        "The API token comes from SILENTMODE_API_TOKEN."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("client_id")
        parser.add_argument("path", nargs="?", help="on the client; default: its agent's --file")
        parser.add_argument(
            "--server", default="http://localhost:8000", metavar="URL", help="default: %(default)s"
        )
        parser.add_argument(
            "--allow-insecure",
            action="store_true",
            help="let http:// leave this machine: the token can be read on the way",
        )
        parser.add_argument("--no-wait", action="store_true", help="ask, print the id and return")

    def handle(
        self,
        *args: Any,
        client_id: str,
        path: str | None,
        server: str,
        allow_insecure: bool,
        no_wait: bool,
        **options: Any,
    ) -> None:
        token = os.environ.get("SILENTMODE_API_TOKEN", "")
        if not token:
            raise CommandError(
                "Set SILENTMODE_API_TOKEN to a token from `manage.py add_api_token <username>`."
            )
        _check(server, allow_insecure=allow_insecure)
        api = Api(server, token)
        body = {} if path is None else {"path": path}
        transfer: dict[str, Any] | None = None
        try:
            with interrupts_held():  # or nobody would learn what was asked for
                transfer = api.call("POST", f"/download/{quote(client_id, safe='')}", body)
            if no_wait:
                self.stdout.write(transfer["id"])
                return
            transfer = self._follow(api, transfer)
        except Unreachable as unreachable:
            raise CommandError(str(unreachable)) from None
        except KeyboardInterrupt:
            raise CommandError(_left(api, client_id, transfer), returncode=130) from None
        self._tell(transfer)

    def _follow(self, api: Api, transfer: dict[str, Any]) -> dict[str, Any]:
        """Show the transfer's progress until it has ended, also over restarts of the server."""
        path = f"/api/v1/transfers/{transfer['id']}/"
        with tqdm(unit="B", unit_scale=True, dynamic_ncols=True, disable=None) as bar:
            while True:
                bar.total = transfer["size"]
                bar.n = transfer["received"]
                bar.set_description_str(_label(transfer))
                if transfer["status"] in FINAL:
                    return transfer
                time.sleep(POLL_SECONDS)  # the API has no event to wait for yet
                try:
                    transfer = api.call("GET", path)
                except Unreachable:
                    bar.set_description_str(f"{api.server} does not answer; still trying")

    def _tell(self, transfer: dict[str, Any]) -> None:
        if error := transfer["error"]:
            advice = " Trying again can help." if ERRORS[error["code"]].retryable else ""
            sentence = f"{transfer['status']}: {shown(error['detail'])} ({error['code']})"
            raise CommandError(sentence + advice)
        self.stderr.write("Landed in the server's downloads folder:")
        self.stdout.write(f"{transfer['sha256']}  {transfer['file']}")


def _left(api: Api, client_id: str, transfer: dict[str, Any] | None) -> str:
    """What goes on when nobody waits any longer."""
    if transfer is None:
        return (
            "Not waiting for the server's answer: it may or may not have been asked. To see it: "
            f"GET {api.server}/api/v1/transfers/?client={quote(client_id, safe='')}"
        )
    return (
        "Not waiting any longer; the transfer goes on without you. To stop it: "
        f"POST {api.server}/api/v1/transfers/{transfer['id']}/cancel/"
    )


def _label(transfer: dict[str, Any]) -> str:
    if transfer["status"] in PENDING and (error := transfer["error"]):
        return f"{transfer['status']} until {transfer['next_attempt_at']}: {shown(error['detail'])}"
    if transfer["status"] in PENDING:
        return f"{transfer['status']}, waiting for {transfer['client']}"
    return f"{transfer['status']} {shown(transfer['name'])}".strip()
