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
from transfers.models import FINAL, Status

POLL_SECONDS = 0.5


class Api:
    """The server's API, as much of it as this command needs."""

    def __init__(self, server: str, token: str) -> None:
        self.server = server.rstrip("/")
        self.token = token

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON answer. Raises CommandError with the server's own sentence."""
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
            raise CommandError(f"{self.server}: {_sentence(error)}") from None
        except (OSError, ValueError) as error:
            raise CommandError(f"{self.server} does not answer as it should: {error}") from None


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
        parser.add_argument("--server", default="http://localhost:8000", metavar="URL")
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
        api = Api(server, token)
        body = {} if path is None else {"path": path}
        transfer = api.call("POST", f"/download/{quote(client_id, safe='')}", body)
        if no_wait:
            self.stdout.write(transfer["id"])
            return
        transfer = self._follow(api, transfer)
        if transfer["status"] != Status.COMPLETED:
            error = transfer["error"]
            advice = " Trying again can help." if ERRORS[error["code"]].retryable else ""
            sentence = f"{transfer['status']}: {shown(error['detail'])} ({error['code']})"
            raise CommandError(sentence + advice)
        self.stdout.write(f"{transfer['sha256']}  {transfer['file']}")

    def _follow(self, api: Api, transfer: dict[str, Any]) -> dict[str, Any]:
        """Show the transfer's progress until it has ended."""
        with tqdm(unit="B", unit_scale=True, dynamic_ncols=True, disable=None) as bar:
            while transfer["status"] not in FINAL:
                bar.total = transfer["size"]
                bar.set_description(
                    f"{transfer['status']} {shown(transfer['name'])}", refresh=False
                )
                bar.n = transfer["received"]
                bar.refresh()
                time.sleep(POLL_SECONDS)  # the API has no event to wait for yet
                transfer = api.call("GET", f"/api/v1/transfers/{transfer['id']}/")
            bar.n = transfer["received"]
            bar.set_description(transfer["status"])
        return transfer
