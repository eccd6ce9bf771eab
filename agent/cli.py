"""The agent's command line: arguments, signals, exit codes."""

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from . import __version__, check_policy, enrol, transport
from .credentials import FILE, Credentials
from .gate import Gate
from .journal import Journal
from .link import Identity, Refused
from .options import (
    DEFAULT_SERVER,
    add_policy_options,
    add_state_option,
    manners_of,
    own_files_of,
    policy_of,
    state_of,
    trust_of,
)
from .progress import say
from .reconnect import stay_online
from .state_folder import StateFolder, StateFolderError
from .usage import UsageError, same_server, server_url

STOP_SECONDS = 1.5
"""For the good-bye after Ctrl-C or SIGTERM; then the process ends all the same."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agent",
        description="Stays connected to a Silentmode server and sends the files that it asks for, "
        "if they are allowed here. `python -m agent enrol` makes this machine a client first; or a token "
        "is given by hand, in SILENTMODE_TOKEN or with --token-file.",
        epilog="`python -m agent check-policy PATH` explains what would be sent, and why not.",
    )
    parser.add_argument(
        "--id", metavar="CLIENT_ID", help="this client's id; default: what it was enrolled as"
    )
    add_policy_options(parser)
    parser.add_argument(
        "--server", metavar="URL", help=f"default: where it was enrolled, or {DEFAULT_SERVER}"
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="its first line is the client's token"
    )
    transport.add_arguments(parser)
    add_state_option(parser)
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _token(token_file: Path | None) -> str:
    if token_file is None:
        token = os.environ.get("SILENTMODE_TOKEN", "")
        source = "SILENTMODE_TOKEN"
    else:
        try:
            token = token_file.read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"The token file {token_file} cannot be read: {error}") from None
        source = str(token_file)
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"There is no usable token in {source}. `manage.py add_client` on the server makes a code, with "
            "which `python -m agent enrol` gets one for this machine."
        )
    return token


def _identity(arguments: argparse.Namespace) -> Identity:
    """Who we are: what the arguments say, else what enrolment gave. Raises UsageError, StateFolderError."""
    folder = state_of(arguments)
    kept = Credentials.load(folder)
    server = DEFAULT_SERVER if kept is None else kept.server
    if arguments.server is not None:
        server = server_url(arguments.server)
    trust = trust_of(arguments, server, kept)
    client_id = arguments.id or (kept.client_id if kept else "")
    if not client_id:
        raise UsageError(
            "Who is this machine? Enrol it (`python -m agent enrol`), or give --id and a token."
        )
    if kept is None or arguments.token_file or os.environ.get("SILENTMODE_TOKEN"):
        return Identity(server, client_id, _token(arguments.token_file), trust)
    if not same_server(server, kept.server):
        raise UsageError(_strange(server, kept, folder))
    return Identity(server, client_id, kept.token, trust, kept_in=folder)


def _strange(server: str, kept: Credentials, folder: StateFolder) -> str:
    return (
        f"--server {server}: this machine is enrolled at {kept.server}, and its token goes nowhere else. "
        f"If that one has moved, write its new URL into {folder.path / FILE}. If this is another one, enrol "
        f"there (`python -m agent enrol --server {server}`) with another --state, or give the token for it "
        "with --token-file."
    )


def _gate(arguments: argparse.Namespace, server: str) -> Gate:
    policy = policy_of(arguments)
    state = state_of(arguments)
    state.create()
    if policy.file is not None and not policy.file.is_file():
        say(f"warning: {policy.file} is not there yet; it can be pulled once it is")
    for root in policy.roots:
        if not root.path.is_dir():
            say(
                f"warning: the root {root.path} is not there yet; what is below it can be once it is"
            )
    say(f"this agent runs with {manners_of(arguments, policy)}")
    return Gate(policy, own_files_of(arguments), Journal(state, server))


async def _run(identity: Identity, gate: Gate) -> None:
    """Serve until a signal says stop. Raises Refused."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(stop.set)
        # Threads may hang in a read, a look-up or a question; the interpreter would wait for them.
        last_resort = threading.Timer(STOP_SECONDS, os._exit, (0,))
        last_resort.daemon = True
        last_resort.start()

    # Not loop.add_signal_handler: Windows has none.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    serving = asyncio.ensure_future(stay_online(identity, gate))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        stopping.cancel()
        serving.result()
    serving.cancel()
    await asyncio.wait((serving,), timeout=STOP_SECONDS)
    say("stopped")


def run(argv: Sequence[str]) -> int:
    """Stay online until stopped. Raises UsageError, StateFolderError, Refused."""
    arguments = _parser().parse_args(argv)
    identity = _identity(arguments)
    asyncio.run(_run(identity, _gate(arguments, identity.server)))
    return 0


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = MappingProxyType(
    {"enrol": enrol.run, "check-policy": check_policy.run}
)
"""Each takes the arguments after its name, and gives the exit status; the agent itself has no name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent or a command; the exit status: 0 stopped, done or yes, 1 no, 2 wrong usage, 3 refused."""
    given = sys.argv[1:] if argv is None else argv
    command = COMMANDS.get(given[0]) if given else None
    try:
        return command(given[1:]) if command else run(given)
    except (UsageError, StateFolderError, Refused, enrol.NoAnswer) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
