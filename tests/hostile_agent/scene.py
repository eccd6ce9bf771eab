"""One server, an honest agent whose files land on and on, and villains beside it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.end_to_end.harness import AgentProgram, Server, make_file
from tests.hostile_agent.villain import VILLAINS, Villain

MIB = 1 << 20

SETTINGS = {
    "SILENTMODE_WINDOW": str(MIB),
    "SILENTMODE_RETRIES": "0",  # an error is an end at once: what is left is for nobody to come back to
    "SILENTMODE_MIN_FREE_SPACE": "0",
    "SILENTMODE_MIN_RATE": str(MIB),
    "SILENTMODE_CONNECTIONS_PER_ADDRESS": "200",
    "SILENTMODE_BYTES_PER_DAY_PER_CLIENT": str(512 * MIB),
}

FILE_SIZE = 2 * MIB
VILLAINS_AT_MOST = 200


@dataclass
class Outcome:
    """What became of a villain."""

    closed: str
    """The close code (1006: dropped without one), the HTTP status, or what else."""
    said: str = ""
    """The server's sentence."""
    transfer: str = ""
    """Status and error code of the transfer that it misbehaved with, where there was one."""


@dataclass
class Report:
    """One misbehaviour, seen from outside."""

    name: str
    outcome: Outcome
    landed: int
    """Transfers of the honest agent, from asking to landing, hashes compared."""
    growth: int
    """The most resident memory beyond what there was before, in bytes."""


class Honest:
    """Asks the honest agent for its file, again and again, while somebody misbehaves."""

    def __init__(self, scene: "Scene", pause: float) -> None:
        self._scene = scene
        self._pause = pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None
        self.landed = 0
        self.peak = scene.server.program.resident

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not (self.landed and self._over.is_set()):
                self._scene.land_one()
                self.landed += 1
                self.peak = max(self.peak, self._scene.server.program.resident)
                self._over.wait(self._pause)
        except BaseException as error:  # told where the misbehaviour is
            self._error = error


@dataclass
class Scene:
    """What a misbehaviour has to do with."""

    root: Path
    server: Server = field(init=False)

    def __post_init__(self) -> None:
        self.server = Server(self.root / "server", **SETTINGS)
        self._register_villains()
        self.server.start()
        make_file(self.root / "sentinel", 100)
        self.file = make_file(self.root / "honest.bin", FILE_SIZE)
        token = self.server.manage("add_client", "honest", "--token")
        self.agent = AgentProgram(
            "honest", token, self.server.port, self.root / "agent.log", file=self.file
        )
        self.agent.wait_for("registered")
        self.land_one()
        self.outside = self._outside()

    def land_one(self) -> None:
        landed = self.server.wait_landed(self.server.ask("honest", duplicate=True), self.file)
        landed.unlink()  # dozens of them need no room

    def close(self) -> None:
        """Stop both, and see that they were well until now."""
        assert self.agent.terminate() == 0
        assert self.server.program.terminate() == 0, self.server.program.output[-3000:]

    def client(self) -> tuple[str, str]:
        """A client of the villain's own: its id and its token."""
        name = next(self._villains)
        return name, f"{name}-token"

    def _register_villains(self) -> None:
        script = (
            "from transfers.models import Client; from transfers.tokens import digest;"
            f"names = [f'villain-{{n}}' for n in range({VILLAINS_AT_MOST})];"
            "Client.objects.bulk_create(Client(id=n, token_sha256=digest(n + '-token')) for n in names)"
        )
        self.server.manage("shell", "-v", "0", "-c", script)
        self._villains = (f"villain-{number}" for number in range(VILLAINS_AT_MOST))

    def villain(self, source: str = VILLAINS) -> Villain:
        return Villain(self.server.port, source)

    def state(self, pk: str, *, seconds: float = 20.0) -> str:
        """Status and error of a transfer, once no connection works on it any more."""
        end = time.monotonic() + seconds
        while True:
            row: dict[str, Any] = self.server.transfer(pk)
            busy = row["status"] in ("requested", "receiving", "verifying")
            if not busy or time.monotonic() > end:
                error = row["error"]
                return f"{row['status']}: {error['code']}" if error else str(row["status"])
            time.sleep(0.05)

    def play(self, name: str, act: Callable[["Scene"], Outcome], pause: float = 0.1) -> Report:
        """Let it misbehave while the honest agent works, with so many seconds between its files."""
        before = self.server.program.resident
        with Honest(self, pause) as honest:
            outcome = act(self)
        peak = max(honest.peak, self.server.program.resident)
        return Report(name, outcome, honest.landed, peak - before)

    def _outside(self) -> dict[str, int]:
        """All that is not the server's data, nor a log or journal: names, and times of the last change."""
        data = self.server.directory / "data"
        return {
            str(path): path.lstat().st_mtime_ns
            for path in self.root.rglob("*")
            if path != data
            and data not in path.parents
            and path.is_file()
            and path.suffix != ".log"
            and self.agent.state not in path.parents
        }

    @property
    def is_untouched(self) -> bool:
        """Whether nothing outside the data directory has changed, and no file left its folder in it."""
        data = self.server.directory / "data"
        folders = {"partial", "downloads"}
        strays = [path for path in data.rglob("*") if path.is_file() and not (
            path.parent == data or (path.parent.parent == data and path.parent.name in folders)
        )]  # fmt: skip
        return self._outside() == self.outside and not strays
