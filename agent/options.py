"""Options that several commands of the agent share, and what they come to."""

import argparse
from dataclasses import replace
from pathlib import Path

from . import transport
from .credentials import Credentials
from .gate import policy_file
from .gate.own_files import OwnFiles
from .gate.policy import Policy, Root
from .priority import step_back
from .state_folder import VARIABLE, StateFolder
from .usage import UsageError

DEFAULT_SERVER = "ws://localhost:8000"
"""Where `make run` listens."""


def add_policy_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file", type=Path, help="the file that is sent when the server names no other"
    )
    parser.add_argument(
        "--root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="all files below it may be pulled, too (can be given several times)",
    )
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="a TOML file that says what may be pulled, instead of --root",
    )
    parser.add_argument(
        "--limit-rate",
        metavar="RATE",
        help="bytes a second that may leave, of all transfers together, like 500K or 1M (K is 1,024); "
        "where the policy or the server has a lower limit, that one counts",
    )
    parser.add_argument(
        "--normal-priority",
        action="store_true",
        help="run as any other program does, instead of after those that use the CPU and the disk",
    )


def add_state_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help=f"where the agent keeps its token and its journal (or {VARIABLE}; "
        f"default: {StateFolder.chosen(None, {}).path})",
    )


def trust_of(
    arguments: argparse.Namespace, server: str, known: Credentials | None
) -> transport.Trust:
    """How this server is known. Raises UsageError."""
    try:
        return transport.trust(arguments, server, known.trust_in(server) if known else None)
    except ValueError as error:
        raise UsageError(str(error)) from None


def state_of(arguments: argparse.Namespace) -> StateFolder:
    return StateFolder.chosen(arguments.state)


def own_files_of(arguments: argparse.Namespace) -> OwnFiles:
    """What is never sent because it is the agent's; `--token-file` is among the arguments, too."""
    files = (arguments.policy, arguments.token_file)
    return OwnFiles(state_of(arguments), [file.absolute() for file in files if file is not None])


def policy_of(arguments: argparse.Namespace) -> Policy:
    """Raises UsageError."""
    if arguments.policy is not None:
        policy = _from_file(arguments)
    else:
        policy = Policy(arguments.file, tuple(Root.whole(root) for root in arguments.root))
        for root in arguments.root:
            if not root.is_dir():
                raise UsageError(f"--root {root} is not a directory.")
    if policy.file is None and not policy.roots:
        raise UsageError("Nothing may be pulled: give --file, --root or --policy.")
    return _limited(policy, arguments.limit_rate)


def _limited(policy: Policy, option: str | None) -> Policy:
    """The lower of two limits counts. Raises UsageError."""
    if option is None:
        return policy
    try:
        rate = policy_file.rate_of_option(option)
    except policy_file.BadPolicy as bad:
        raise UsageError(f"--limit-rate: {bad}") from None
    return replace(policy, rate_limit=min(rate, policy.rate_limit or rate))


def manners_of(arguments: argparse.Namespace, policy: Policy) -> str:
    """What this process leaves to others, from now on: its priority is lowered here."""
    manners = "normal priority" if arguments.normal_priority else step_back()
    if policy.rate_limit is None:
        return f"{manners}; no limit of the rate"
    return f"{manners}; at most {policy.rate_limit} bytes/s"


def _from_file(arguments: argparse.Namespace) -> Policy:
    if arguments.root:
        raise UsageError("--policy and --root do not go together: name the roots in the policy.")
    try:
        policy = policy_file.read(arguments.policy)
    except policy_file.BadPolicy as bad:
        raise UsageError(str(bad)) from None
    return policy if arguments.file is None else replace(policy, file=arguments.file)
