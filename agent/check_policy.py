"""`python -m agent check-policy PATH`: would this be sent, and by which rule?"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .gate import Gate
from .gate.source import SourceError
from .journal import Journal
from .options import (
    add_policy_options,
    add_state_option,
    manners_of,
    own_files_of,
    policy_of,
    state_of,
)
from .wire.display import shown

ALLOWED, REFUSED = 0, 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agent check-policy",
        description="Says whether the agent would send a file, and by which rule; it opens the file, "
        "and sends nothing. Exit status: 0 it would, 1 it would not, 2 wrong usage. Run it as the "
        "account that the agent runs as, with the agent's own options.",
    )
    parser.add_argument("path", metavar="PATH", help="as the server would name it")
    add_policy_options(parser)
    add_state_option(parser)
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="never sent, either")
    return parser


def run(argv: Sequence[str]) -> int:
    """Raises UsageError."""
    arguments = _parser().parse_args(argv)
    policy = policy_of(arguments)
    gate = Gate(policy, own_files_of(arguments), Journal(state_of(arguments), ""))
    status = _explain(gate, arguments.path)
    _say(f"An agent with these options runs with {manners_of(arguments, policy)}.")
    return status


def _explain(gate: Gate, path: str) -> int:
    try:
        source, place = gate.open(path)
    except SourceError as error:
        _say(f"refused ({error.code}): {shown(error.reason)}")
        _say(f"The server is told: {shown(error.detail)} ({error.code})")
        return REFUSED
    _say(f"allowed: {shown(place.rule)}")
    _say(f"It would be sent: {shown(str(source.path))} ({source.size} bytes)")
    source.close()
    return ALLOWED


def _say(text: str) -> None:
    print(text)  # noqa: T201
