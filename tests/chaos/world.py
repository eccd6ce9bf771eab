"""A lane: a server and a client of its own, on which runs are done one after the other."""

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.harness import FINAL, Server
from tests.link import Link

from .check import Outcome, broken
from .plan import Plan
from .scene import Scene
from .source import Version

CLIENT = "till"

SETTLE_SECONDS = 10.0
"""In which a connection that worked on a transfer removes what is left, once the row is final."""


@dataclass(frozen=True)
class Result:
    """A run that is over."""

    plan: Plan
    outcome: Outcome
    broken: tuple[str, ...]
    struck: tuple[int, ...]
    """How often each fault of the plan has struck: its moment may be after the end."""
    spoiled: int
    noticed: bool
    """Whether anybody saw that something had gone wrong: another attempt, connection or agent."""
    journal: tuple[str, ...]
    folder: Path


class Lane:
    """Everything that outlives a run. Start it, play plans, stop it."""

    def __init__(self, folder: Path, stop: threading.Event) -> None:
        self.folder = folder
        self._stop = stop
        self._server = Server(folder / "server", SILENTMODE_RETRY_PAUSE="0.5")
        self._own = dict(self._server.environment)
        self._token = self._server.manage("add_client", CLIENT, "--token")
        self._landed: set[str] = set()

    def stop(self) -> int | None:
        """The server's exit status; None where there is none to stop."""
        return self._server.program.terminate() if self._is_running else None

    @property
    def _is_running(self) -> bool:
        program = self._server._program
        return program is not None and program.process.poll() is None

    def _serve(self, environment: dict[str, str]) -> None:
        """Have the server run in this environment."""
        wanted = {**self._own, **environment}
        if self._is_running and wanted == self._server.environment:
            return
        self.stop()
        self._server.environment = wanted
        self._server.start()

    def play(self, plan: Plan, *, keep: bool = False) -> Result:
        """One run, and the check of what came of it. Raises Stopped."""
        self._serve(plan.environment)
        folder = self.folder / f"run-{plan.number}"
        log = self._server.program.log
        begin = log.stat().st_size
        with Link(self._server.port) as link:
            scene = Scene(plan, self._server, link, (CLIENT, self._token), folder, self._stop)
            seconds = scene.play()
            said = log.read_bytes()[begin:].decode(errors="replace")
            outcome = self._outcome(scene, seconds, said)
            result = Result(
                plan,
                outcome,
                tuple(broken(plan.promise, outcome)),
                tuple(hit.struck for hit in scene.hits),
                link.spoiled,
                outcome.connections > 1 or outcome.row.get("attempts", 0) > 1,
                tuple(scene.journal),
                folder,
            )
        self._clear_up(result, said, keep=keep)
        return result

    def _outcome(self, scene: Scene, seconds: float | None, said: str) -> Outcome:
        row = scene.row()
        partial = self._data / "partial" / f"{scene.transfer}.part"
        if row.get("status") in FINAL and row["status"] != "failed":
            gone = _soon(lambda: not partial.exists())
        else:
            gone = not partial.exists()
        claimed = set(self._landed)
        if row.get("status") == "completed":
            claimed.add(str(row["file"]))
        _soon(lambda: self._downloads == claimed)
        file = self._data / "downloads" / str(row.get("file"))
        return Outcome(
            row,
            tuple(scene.source.versions),
            Version.of(file) if file.is_file() else None,
            seconds,
            scene.link.sent,
            scene.link.connections,
            tuple(agent.output for agent in scene.agents),
            said,
            has_partial=not gone,
            unclaimed=frozenset(self._downloads - claimed),
            missing=frozenset(claimed - self._downloads),
            complaints=tuple(scene.complaints),
        )

    @property
    def _data(self) -> Path:
        return self._server.directory / "data"

    @property
    def _downloads(self) -> set[str]:
        return {path.name for path in self._server.downloads}

    def _clear_up(self, result: Result, said: str, *, keep: bool) -> None:
        """Free the disk; the names of landed files stay, so that a later run sees one that is lost."""
        if result.outcome.landed is not None:
            name = str(result.outcome.row["file"])
            self._landed.add(name)
            if not result.broken:
                os.truncate(self._data / "downloads" / name, 0)
        if result.broken or keep:
            lines = [f"{result.plan.seed}:{result.plan.number}: {result.plan}", *result.journal]
            (result.folder / "journal.log").write_text("\n".join(lines), encoding="utf-8")
            (result.folder / "server.log").write_text(said, encoding="utf-8")
        else:
            shutil.rmtree(result.folder)


def _soon(probe: Callable[[], bool]) -> bool:
    """Whether it is so, within the time that a server needs to tidy up."""
    waiting = threading.Event()
    for _ in range(int(SETTLE_SECONDS / 0.05)):
        if probe():
            return True
        waiting.wait(0.05)
    return probe()
