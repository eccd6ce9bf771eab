"""`manage.py pull <client_id> [path]`: asks the server over its API, and waits until it has landed."""

import json
import os
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

from django.core.management.base import BaseCommand, CommandError, CommandParser
from tqdm import tqdm

from agent.wire.display import shown
from agent.wire.errors import ERRORS
from transfers.models import FINAL, PENDING

POLL_SECONDS = 0.5


class Unreachable(Exception):
    """The server does not answer, now."""


class Api:
    """The server's API, as much of it as this command needs."""

    def __init__(self, server: str, token: str) -> None:
        self.server = server.rstrip("/")
        self.token = token

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON answer. Raises CommandError with the server's own sentence, and Unreachable."""
        request = urllib.request.Request(
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Token {self.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                result: dict[str, Any] = json.load(answer)
                return result
        except urllib.error.HTTPError as error:
            if error.code in (502, 503, 504):  # a proxy whose server is not there
                raise Unreachable(f"{self.server}: HTTP {error.code}") from None
            raise CommandError(f"{self.server}: {_sentence(error)}") from None
        except (OSError, ValueError) as error:
            raise Unreachable(f"{self.server} does not answer as it should: {error}") from None


def _sentence(error: urllib.error.HTTPError) -> str:
    try:
        answer = json.load(error)
        return f"{answer['detail']} ({answer['code']})"
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"


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
        parser.add_argument("--no-wait", action="store_true", help="ask, print the id and return")

    def handle(
        self,
        *args: Any,
        client_id: str,
        path: str | None,
        server: str,
        no_wait: bool,
        **options: Any,
    ) -> None:
        token = os.environ.get("SILENTMODE_API_TOKEN", "")
        if not token:
            raise CommandError(
                "Set SILENTMODE_API_TOKEN to a token from `manage.py add_api_token <username>`."
            )
        if not server.startswith(("http://", "https://")):
            raise CommandError(f"--server {server}: it looks like https://files.example.com")
        api = Api(server, token)
        body = {} if path is None else {"path": path}
        try:
            transfer = api.call("POST", f"/download/{quote(client_id, safe='')}", body)
        except Unreachable as unreachable:
            raise CommandError(str(unreachable)) from None
        if no_wait:
            self.stdout.write(transfer["id"])
            return
        try:
            transfer = self._follow(api, transfer)
        except KeyboardInterrupt:
            raise CommandError(
                f"Not waiting any longer; the transfer goes on without you. To stop it: "
                f"POST {api.server}/api/v1/transfers/{transfer['id']}/cancel/",
                returncode=130,
            ) from None
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


def _label(transfer: dict[str, Any]) -> str:
    if transfer["status"] in PENDING and (error := transfer["error"]):
        return f"{transfer['status']} until {transfer['next_attempt_at']}: {shown(error['detail'])}"
    if transfer["status"] in PENDING:
        return f"{transfer['status']}, waiting for {transfer['client']}"
    return f"{transfer['status']} {shown(transfer['name'])}".strip()
