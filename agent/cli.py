"""The agent's command line: arguments, signals, exit codes."""

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import __version__
from .link import Identity, Refused
from .progress import say
from .reconnect import stay_online
from .source import Policy

STOP_SECONDS = 1.5
"""For the good-bye after Ctrl-C or SIGTERM; then the process ends all the same."""


class UsageError(Exception):
    """The arguments or the environment do not make sense."""

    exit_code = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agent",
        description="Stays connected to a Silentmode server and sends the files that it asks for, "
        "if they are allowed here. The client's token comes from SILENTMODE_TOKEN or --token-file.",
    )
    parser.add_argument("--id", required=True, metavar="CLIENT_ID", help="this client's id")
    parser.add_argument(
        "--file", type=Path, help="the file that is sent when the server names no other"
    )
    parser.add_argument(
        "--root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="files below it may be pulled, too (can be given several times); without it only --file",
    )
    parser.add_argument("--server", default="ws://localhost:8000", metavar="URL")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="its first line is the client's token"
    )
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
            f"There is no usable token in {source}. `manage.py add_client` on the server shows one; "
            "put it into SILENTMODE_TOKEN or a file for --token-file."
        )
    return token


def _server(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"--server {url}: {error}") from None
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.path not in ("", "/"):
        raise UsageError(f"--server {url}: it looks like wss://files.example.com or ws://host:8000")
    return f"{parts.scheme}://{parts.netloc}"


def _policy(file: Path | None, roots: Sequence[Path]) -> Policy:
    if file is None and not roots:
        raise UsageError("Nothing may be pulled: give --file, --root or both.")
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"--root {root} is not a directory.")
    if file is not None and not file.is_file():
        say(f"warning: {file} is not there yet; it can be pulled once it is")
    return Policy(file, tuple(roots))


async def _run(identity: Identity, policy: Policy) -> None:
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
    serving = asyncio.ensure_future(stay_online(identity, policy))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        stopping.cancel()
        serving.result()
    serving.cancel()
    await asyncio.wait((serving,), timeout=STOP_SECONDS)
    say("stopped")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent; its exit status: 0 stopped, 2 wrong usage, 3 refused for good."""
    arguments = _parser().parse_args(argv)
    try:
        identity = Identity(_server(arguments.server), arguments.id, _token(arguments.token_file))
        asyncio.run(_run(identity, _policy(arguments.file, arguments.root)))
    except (UsageError, Refused) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0
