"""The check of a run from outside: source, landed file, row, logs and link against the promise.

It knows nothing of how the product works, and takes nobody's word: bytes are hashed where they lie.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .plan import MIB, Promise
from .source import Version

CONVERSATION = 8 * 1024
"""Bytes that a connection needs besides the file: handshake, messages, heartbeats."""

FRAMING = 0.001
"""The header of a chunk against its shortest payload is 46 to 65,536 bytes."""

TRACES = ("Traceback", "failed inside", "never retrieved", "Unhandled", "Exception in")
"""What a log has when something went wrong that nobody thought of."""

HARMLESS = re.compile(
    r"^.*Task exception was never retrieved\n"
    r"future: .*listen_for_disconnect.*RequestAborted\(\)>\n"
    r"Traceback .*\n(?:  .*\n)*django\.core\.exceptions\.RequestAborted\n",
    re.MULTILINE,
)
"""What Django says of a request that is under way, and cancelled, when its server is stopped."""

LATE_SECONDS = 6.0
"""After a deadline nothing lands any more: at once, or at the next look of the server."""


@dataclass(frozen=True)
class Outcome:
    """What was found after a run."""

    row: dict[str, Any]
    """The transfer in the words of the API."""
    versions: tuple[Version, ...]
    """Everything that the source ever was, whole."""
    landed: Version | None
    """What is in the downloads under the name on the row."""
    seconds: float | None
    """From the last fault's end to the transfer's; None: it has not ended."""
    sent: int
    """Bytes of the agent's side that the link passed on."""
    connections: int = 1
    agent_logs: tuple[str, ...] = ()
    server_log: str = ""
    has_partial: bool = False
    unclaimed: frozenset[str] = frozenset()
    """Names in the downloads that no completed row claims."""
    missing: frozenset[str] = frozenset()
    """Names that completed rows claim, of this and of earlier runs, and that are not there."""
    complaints: tuple[str, ...] = field(default=())
    """Promises that were seen to be broken on the way."""

    @property
    def end(self) -> str:
        status = str(self.row.get("status"))
        error = self.row.get("error") or {}
        return f"failed:{error.get('code')}" if status == "failed" else status

    @property
    def again(self) -> int:
        """Bytes that were sent more than once."""
        size = max(version.size for version in self.versions)
        needed = size * (1 + FRAMING) + CONVERSATION * max(1, self.connections)
        return max(0, self.sent - int(needed))


def broken(promise: Promise, outcome: Outcome) -> list[str]:
    """The promises that the outcome breaks, each in a sentence; none when all is well."""
    sentences = [*outcome.complaints, *_ended(promise, outcome)]
    if outcome.row.get("status") == "completed":
        sentences += _landed_whole(outcome)
        if promise.again is not None and outcome.again > promise.again * (1 + FRAMING):
            sentences.append(f"{outcome.again / MIB:.2f} MiB were sent again")
    else:
        sentences += _left_nothing(outcome)
    if outcome.unclaimed:
        sentences.append(f"no completed row claims {sorted(outcome.unclaimed)} in the downloads")
    if outcome.missing:
        sentences.append(f"landed files are lost: {sorted(outcome.missing)}")
    return sentences + list(_told(outcome)) + list(_traces(outcome))


def _ended(promise: Promise, outcome: Outcome) -> Iterator[str]:
    if outcome.seconds is None:
        yield f"stuck: the transfer is still {outcome.row.get('status')}"
        return
    if outcome.seconds > promise.seconds:
        yield f"late: it ended only {outcome.seconds:.1f} s after the last fault"
    if outcome.end not in promise.ends:
        error = outcome.row.get("error")
        yield f"it ended as {outcome.end} ({error})"


def _landed_whole(outcome: Outcome) -> Iterator[str]:
    row, landed = outcome.row, outcome.landed
    if landed is None:
        yield "lost: completed, and there is no file"
    else:
        if landed not in outcome.versions:
            yield f"wrong: what has landed, {landed}, is no version of the source"
        if not landed.sha256 == row["sha256"] == row["source_sha256"]:
            yield f"the row says {row['sha256']} and {row['source_sha256']}, the file {landed}"
        if not landed.size == row["size"] == row["received"] == row["checkpoint"]:
            yield f"the row's sizes are not the file's {landed.size}: {row}"
    if row["error"] and row["error"].get("code"):
        yield f"completed, with an error: {row['error']}"
    if outcome.has_partial:
        yield "completed, and its partial file is still there"
    if row["deadline"] and _seconds_between(row["deadline"], row["finished_at"]) > LATE_SECONDS:
        yield f"completed at {row['finished_at']}, after the deadline {row['deadline']}"


def _seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def _left_nothing(outcome: Outcome) -> Iterator[str]:
    if outcome.landed is not None:
        yield f"{outcome.end}, and there is a landed file: {outcome.landed}"
    if outcome.has_partial and outcome.row.get("status") in ("cancelled", "expired"):
        yield f"{outcome.end}, and its partial file is still there"


def _told(outcome: Outcome) -> Iterator[str]:
    """An agent says that its file was sent only when it has landed, with the digest it printed."""
    for log in outcome.agent_logs:
        for sha256 in re.findall(
            r"SHA256: ([0-9a-f]{64})(?:(?!SHA256: ).)*?File sent successfully", log, re.DOTALL
        ):
            if outcome.row.get("status") != "completed":
                yield f"the agent was told that its file has landed; it is {outcome.end}"
            elif sha256 != outcome.row["sha256"]:
                yield f"the agent was told that {sha256} has landed: {outcome.row['sha256']} has"


def _traces(outcome: Outcome) -> Iterator[str]:
    logs = [("the agent", log) for log in outcome.agent_logs]
    for who, log in [("the server", HARMLESS.sub("", outcome.server_log)), *logs]:
        if begins := [log.index(trace) for trace in TRACES if trace in log]:
            yield f"{who} failed inside: {log[min(begins) :][:2000]}"
