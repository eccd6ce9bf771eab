"""Files pulled by Silentmode, timed from the request until the agents are told that they have landed.

That is after both ends hashed each with SHA-256, the file is synced and renamed, its folder is synced, and
the row says `completed`.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.harness import AgentProgram, Server

from .figures import Run
from .processes import POLL, Tail, cpu_seconds

LANDED = "[client] File sent successfully"
PATIENCE = 3600.0


@dataclass(frozen=True)
class Puller:
    """A file of one agent, and its server."""

    server: Server
    client: str
    agent: AgentProgram
    source: Path
    path: str | None = None
    """What the server asks for; None: what the agent's `--file` names."""

    def pull(self) -> Run:
        return pull_together([self]).run


@dataclass(frozen=True)
class Pull:
    """`seconds`: of each, in the order of the pullers."""

    run: Run
    seconds: tuple[float, ...]


def pull_together(pullers: list[Puller]) -> Pull:
    """Ask for all at once, of one server; the files are verified, and removed, when the time is taken."""
    server = pullers[0].server
    with ExitStack() as stack, ThreadPoolExecutor(len(pullers)) as threads:
        tails = [stack.enter_context(closing(Tail(each.agent, LANDED))) for each in pullers]
        before = _cpu(pullers), cpu_seconds(server.program.process.pid)
        began = time.monotonic()
        asked = [threads.submit(server.ask, each.client, each.path) for each in pullers]
        seconds = _landings(tails, began)
        sender, receiver = _cpu(pullers), cpu_seconds(server.program.process.pid)
        transfers = [each.result() for each in asked]
    for transfer, each in zip(transfers, pullers, strict=True):
        server.wait_landed(transfer, each.source).unlink()
    os.sync()  # or the next one would pay for what is still to be written
    size = sum(each.source.stat().st_size for each in pullers)
    return Pull(Run(size, max(seconds), sender - before[0], receiver - before[1]), seconds)


def _cpu(pullers: list[Puller]) -> float:
    return sum(cpu_seconds(pid) for pid in {each.agent.process.pid for each in pullers})


def _landings(tails: list[Tail], began: float) -> tuple[float, ...]:
    """Seconds until each agent was told."""
    seconds: dict[int, float] = {}
    while len(seconds) < len(tails):
        for number, tail in enumerate(tails):
            if number not in seconds and tail.look():
                seconds[number] = time.monotonic() - began
        assert time.monotonic() < began + PATIENCE, "not all have landed"
        time.sleep(POLL)
    return tuple(seconds[number] for number in range(len(tails)))
