"""`manage.py pull <client_id> [path]`: asks the server over its API, and waits until it has landed."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm

from transfers.facts import ADVICE, NEXT_ATTEMPT, spared
from transfers.history import STARTED
from transfers.management import base
from transfers.management.api import Api, Refused, Unreachable, check_server
from transfers.models import FINAL, PENDING, Event
from transfers.units import percent, rate, size, span

POLL_SECONDS = 0.5


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


class Command(base.Command):
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
        check_server(server, allow_insecure=allow_insecure)
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
            self._tell(transfer)
        except Unreachable as unreachable:
            raise CommandError(str(unreachable)) from None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            sentence = f"{api.server} answers as no server of this version does: {error!r}."
            raise CommandError(f"{sentence} Look what is at that address.") from error
        except KeyboardInterrupt:
            raise CommandError(_left(api, client_id, transfer), returncode=130) from None

    def _follow(self, api: Api, transfer: dict[str, Any]) -> dict[str, Any]:
        """Show how the transfer comes along until it has ended, also over restarts of the server."""
        path = f"/api/v1/transfers/{transfer['id']}/"
        told = Told(api, f"{path}history/")
        with tqdm(unit="B", unit_scale=True, dynamic_ncols=True, disable=None) as bar:
            while True:
                bar.total = transfer["size"]
                bar.n = transfer["received"]
                bar.set_description_str(_label(transfer))
                try:
                    for line in told.news(transfer):
                        tqdm.write(line, file=sys.stderr)
                    if transfer["status"] in FINAL:
                        return transfer
                    time.sleep(POLL_SECONDS)  # the API has no event to wait for yet
                    transfer = api.call("GET", path)
                except Unreachable:
                    bar.set_description_str(f"{api.server} does not answer; still trying")
                    time.sleep(POLL_SECONDS)

    def _tell(self, transfer: dict[str, Any]) -> None:
        if error := transfer["error"]:
            sentence = f"{transfer['status']}: {error['detail']} ({error['code']})"
            raise CommandError(f"{sentence} {ADVICE.get(error['code'], '')}".rstrip())
        self.stderr.write(_summary(transfer))
        self.stdout.write(f"{transfer['sha256']}  {transfer['file']}")


class Told:
    """What has been said of all that happened to a transfer: setbacks, and what people did to it."""

    UNSAID = (Event.REQUESTED, Event.LANDED, Event.FAILED, Event.EXPIRED, Event.FETCHED, STARTED)
    """The command itself says these, or nobody waits to hear them."""

    def __init__(self, api: Api, path: str) -> None:
        self._api = api
        self._path = path
        self._state: tuple[Any, ...] | None = None
        self._seen: set[tuple[str, str]] = set()

    def news(self, transfer: dict[str, Any]) -> Iterator[str]:
        """Lines of what is new, if anything may be. Raises Unreachable."""
        state = tuple(transfer[name] for name in ("status", "attempts", "rate_limit"))
        if state == self._state:
            return
        steps: list[dict[str, Any]] = []
        try:
            steps = self._api.call("GET", self._path)
        except Refused as refused:
            if refused.status != 404:  # an older server has no such call
                yield f"What happened on the way is not told: {refused}"
        self._state = state
        for step in steps:
            key = step["at"], step["what"]
            if step["event"] not in self.UNSAID and key not in self._seen:
                self._seen.add(key)
                yield _line(step)


def _line(step: dict[str, Any]) -> str:
    words = [step["what"], step["detail"]]
    if step["event"] not in Event.values:  # an attempt that has ended, by the code of its error
        words.append(ADVICE.get(step["event"], ""))
    return f"{step['at'][:19]}Z  {' – '.join(filter(None, words))}"


def _summary(transfer: dict[str, Any]) -> str:
    """How it came, once it has landed."""
    facts = [f"Landed in the server's downloads folder: {size(transfer['size'])}"]
    if transfer["started_at"] and transfer["finished_at"]:
        begun, ended = map(
            datetime.fromisoformat, (transfer["started_at"], transfer["finished_at"])
        )
        facts.append(f"in {span((ended - begun).total_seconds())} ({rate(transfer.get('rate'))})")
    saved = spared(transfer["wire_bytes"], transfer["size"])
    if saved is not None:
        facts.append(f"with {size(transfer['wire_bytes'])} over the wire, {percent(saved)} less")
    same = transfer["sha256"] == transfer["source_sha256"]
    verified = "SHA-256 verified: the client read the same." if same else ""
    return f"{', '.join(facts)}. {verified}".rstrip()


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
    """What the transfer is at, as the console says it."""
    status, error = transfer["status"], transfer["error"]
    if status in PENDING:
        why = f" ({error['detail']})" if error else ""
        waits_for = transfer.get("waits_for")  # an older server does not say
        words = f"{status}, waits for {waits_for}" if waits_for else status
        is_ahead = transfer["next_attempt_at"] and waits_for in (None, NEXT_ATTEMPT)
        at = f" at {transfer['next_attempt_at'][:19]}Z" if is_ahead else ""
        return f"{words}{at}{why}"
    words = [f"{status} {transfer['name']}".strip()]
    if transfer["rate_limit"] is not None:
        words.append(f"at most {rate(transfer['rate_limit'])}")
    if transfer.get("rate") == 0:
        words.append("nothing comes just now")
    return ", ".join(words)
