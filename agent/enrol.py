"""`python -m agent enrol`: makes this machine a client, with a code from the server's operator.

The token is made here, and the call has only its SHA-256. It is on the disk before the server is asked, so
that asking again, after an answer that was lost, gives the same.
"""

import argparse
import getpass
import hashlib
import json
import os
import platform
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from . import transport
from .credentials import Credentials
from .link import Refused
from .options import DEFAULT_SERVER, add_state_option, state_of, trust_of
from .progress import say
from .reconnect import NO_ANSWER
from .state_folder import StateFolder, StateFolderError
from .transport import Trust
from .usage import UsageError, server_url
from .wire.display import shown

VARIABLE = "SILENTMODE_CODE"
DRAFT = "enrolling.json"
ANSWER_SECONDS = 30.0
MAX_ANSWER = 64 * 1024
REFUSALS = (400, 403, 409)


class NoAnswer(Exception):
    """Nothing was decided; the same call can be made again."""

    exit_code = 1


def run(argv: Sequence[str]) -> int:
    """Enrol; 0. Raises UsageError, StateFolderError, Refused and NoAnswer."""
    _enrol(_parser().parse_args(argv))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agent enrol",
        description="Makes this machine a client of a Silentmode server: exchanges a code from the server's "
        f"operator for a token of its own, kept in the state folder. Without --code, {VARIABLE} or "
        "standard input has the code: arguments can be seen by every account of the machine.",
    )
    parser.add_argument("--server", default=DEFAULT_SERVER, metavar="URL")
    parser.add_argument("--code", help="from `manage.py add_client` or `new_enrolment_key`")
    parser.add_argument(
        "--id", metavar="CLIENT_ID", help="with a key: the id of the new client; default: host name"
    )
    transport.add_arguments(parser)
    add_state_option(parser)
    parser.add_argument(
        "--force", action="store_true", help="although this machine is a client already"
    )
    return parser


def _enrol(arguments: argparse.Namespace) -> None:
    """Raises UsageError, StateFolderError, Refused and NoAnswer."""
    server = server_url(arguments.server)
    folder = state_of(arguments)
    folder.create()
    known = Credentials.load(folder)
    trust = trust_of(arguments, server, known)
    if known is not None and not arguments.force:
        raise UsageError(
            f"This machine is client {known.client_id} of {known.server} already ({folder.path}). "
            "--force enrols it anew."
        )
    code = _code(arguments.code)
    try:
        token = _draft(folder, server, code)
        enrolled = ask(server, code, token, arguments.id, trust)
        Credentials(server, enrolled.client_id, token, trust).keep(folder)
        (folder.path / DRAFT).unlink(missing_ok=True)
    except OSError as error:
        raise StateFolderError(f"{folder.path} cannot be written: {error.strerror}.") from None
    _tell(server, enrolled, folder)


def _code(option: str | None) -> str:
    """From the option, the environment or standard input. Raises UsageError."""
    code = option or os.environ.get(VARIABLE, "")
    if not code:
        ask_for = "Enrolment code: "
        code = getpass.getpass(ask_for) if sys.stdin.isatty() else sys.stdin.readline()
    if not code.strip():
        raise UsageError(f"There is no code: give --code, {VARIABLE} or a line on standard input.")
    return code.strip()


def _draft(folder: StateFolder, server: str, code: str) -> str:
    """The token for this code, kept: that of an earlier call whose answer was lost, or a new one."""
    purpose = hashlib.sha256(f"{server} {code}".encode()).hexdigest()
    try:
        kept = json.loads(folder.read(DRAFT) or b"{}")
    except ValueError:  # of no use, and nothing depends on it
        kept = {}
    if isinstance(kept, dict) and kept.get("for") == purpose and isinstance(kept["token"], str):
        return kept["token"]
    token = secrets.token_urlsafe(32)
    folder.write_private(DRAFT, json.dumps({"for": purpose, "token": token}).encode())
    return token


# Asking -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Enrolled:
    """What the server answered."""

    client_id: str
    is_pending: bool


def ask(
    server: str,
    code: str,
    token: str,
    client_id: str | None,
    trust: Trust,
) -> Enrolled:
    """Exchange the code. Raises Refused and NoAnswer."""
    parts = urlsplit(server)
    scheme = {"ws": "http", "wss": "https"}[parts.scheme]
    body = {
        "code": code,
        "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
        "client": client_id,
        "hostname": platform.node()[:255],
        "platform": platform.platform()[:255],
    }
    url = urlunsplit((scheme, parts.netloc, "/api/v1/enrol/", "", ""))
    request = urllib.request.Request(
        url,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with trust.opener(url).open(request, timeout=ANSWER_SECONDS) as answer:
            return _read(json.loads(answer.read(MAX_ANSWER)))
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(server, error) from None
    except (*NO_ANSWER, HTTPException) as error:
        raise NoAnswer(
            f"{server} gave no answer ({type(error).__name__}: {shown(str(error))}). Try again; the code is "
            "not used up by that."
        ) from None


def _read(answer: Any) -> Enrolled:
    """Raises ValueError, KeyError and TypeError."""
    client_id = answer["client"]
    if not (isinstance(client_id, str) and 1 <= len(client_id) <= 64):
        raise ValueError("no client id")
    return Enrolled(client_id, answer["status"] == "pending")


def _refusal(server: str, error: urllib.error.HTTPError) -> Refused | NoAnswer:
    try:
        reason = json.loads(error.read(MAX_ANSWER))
        sentence = f"{shown(str(reason['detail']))} ({shown(str(reason['code']))})"
    except NO_ANSWER:
        return NoAnswer(f"{server} answered HTTP {error.code}. Is it a Silentmode server?")
    return Refused(sentence) if error.code in REFUSALS else NoAnswer(sentence)


def _tell(server: str, enrolled: Enrolled, folder: StateFolder) -> None:
    say(f"enrolled as {shown(enrolled.client_id)} at {server}; its token is in {folder.path}")
    if enrolled.is_pending:
        say("it waits to be approved there; an agent that is running comes online by itself then")
    say("start the agent: python -m agent --file FILE, or --root DIR, or both")
