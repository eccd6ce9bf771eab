"""Many small files of one agent: what each costs beside its bytes, and how much of that is fsync.

Asked for over the API in one request, while the agent is online (from the request to the last landing) and
while it is offline (from its connection to the last landing). The same once more with a server for which
fsync and its like do nothing (libeatmydata): the difference is what they cost. And some of them with a
request for each, by several threads.
"""

import http.client
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Findings, Row, Run, at_least, with_cpu
from benchmarks.processes import Tail, cpu_seconds
from benchmarks.pulls import LANDED
from benchmarks.scene import Scene
from tests.end_to_end.harness import AgentProgram, Server, make_file, sha256

KIB = 20
ASKERS = 4
ONE_BY_ONE = 300
ROUNDS = 1
"""A user is recorded with 5,000 deeds at once (`transfers.rates`): two rounds, asked for twice, are 4,000."""
PATIENCE = 600.0
REGISTERED = "registered as"
GOAL = at_least(150)
EATMYDATA = "eatmydata"


@dataclass(frozen=True)
class Landed:
    """One round: how long until all had been asked for, and the bytes' way."""

    files: int
    asking: float
    run: Run

    @property
    def rate(self) -> float:
        return self.files / self.run.seconds


def measure(scene: Scene) -> Findings:
    files = _files(scene, 100 if scene.quick else 1000)
    stores = {"": Store(scene, files, "server", ())}
    if shutil.which(EATMYDATA):
        stores[", no fsync"] = Store(scene, files, "server-no-fsync", (EATMYDATA,))
    subjects: dict[str, Callable[[], Landed]] = {}
    for how, store in stores.items():
        subjects[f"silentmode, asked online{how}"] = store.online
        subjects[f"silentmode, asked offline{how}"] = store.offline
    results = scene.in_turn(subjects, at_most=ROUNDS)
    rows = [_row(name, rounds) for name, rounds in results.items()]
    if len(stores) == 1:
        why = f"{EATMYDATA} is not installed (make system-deps)"
        rows.append(Row("silentmode, no fsync", "files/s", missing=why))
    asking = [landed.files / landed.asking for landed in results["silentmode, asked online"]]
    rows.append(Row("asking for them online, alone", "files/s", tuple(asking)))
    rows.append(_row("silentmode, online, a request for each", [stores[""].one_by_one()]))
    return Findings(
        f"{len(files)} files of {KIB} KiB from one agent, each with its row", tuple(rows)
    )


def _row(name: str, rounds: Sequence[Landed]) -> Row:
    runs = [landed.run for landed in rounds]
    cpu = [landed.run.receiver / landed.files for landed in rounds]
    note = f"{1000 * statistics.median(cpu):.1f} ms of the server's CPU for each"
    goal = None if "no fsync" in name or "for each" in name else GOAL
    row = Row(name, "files/s", tuple(landed.rate for landed in rounds), goal, note)
    return with_cpu(row, runs)


def _files(scene: Scene, count: int) -> list[Path]:
    root = scene.folder / "root"
    root.mkdir()
    return [make_file(root / f"{number:04}.bin", KIB * 1024) for number in range(count)]


class Store:
    """A server, and an agent that has the files."""

    def __init__(
        self, scene: Scene, files: Sequence[Path], name: str, wrapper: Sequence[str]
    ) -> None:
        self._files = files
        self._server = scene.server(name, wrapper)
        self._token = self._server.manage("add_client", "till", "--token")
        self._starts = 0
        self._agent = self._start()
        scene.at_end(self._stop)

    def _start(self) -> AgentProgram:
        self._starts += 1  # each with a log of its own
        log = self._server.directory / f"till-{self._starts}.log"
        root = self._files[0].parent
        return AgentProgram("till", self._token, self._server.port, log, roots=[root])

    def _stop(self) -> None:
        self._agent.terminate()

    def online(self) -> Landed:
        """From the request to the last landing."""
        self._agent.wait_for(REGISTERED)
        with closing(Tail(self._agent, LANDED)) as tail:
            return self._wait(tail, self._meter(), ask_for(self._server, self._files))

    def offline(self) -> Landed:
        """From the agent's connection to the last landing."""
        self._stop()
        asked = ask_for(self._server, self._files)
        self._agent = self._start()
        with closing(Tail(self._agent, LANDED)) as tail:
            self._agent.wait_for(REGISTERED)
            return self._wait(tail, self._meter(), asked)

    def one_by_one(self) -> Landed:
        """As `online`, with a request for each of some of them."""
        files = self._files[:ONE_BY_ONE]
        with closing(Tail(self._agent, LANDED)) as tail:
            return self._wait(tail, self._meter(), ask_for_each(self._server, files))

    def _meter(self) -> "Meter":
        return Meter(self._server, self._agent)

    def _wait(self, tail: Tail, meter: "Meter", asked: "Asked") -> Landed:
        tail.wait(len(asked.files), PATIENCE)
        run = meter.run(asked.files)
        self._check(asked)
        return Landed(len(asked.files), asked.seconds, run)

    def _check(self, asked: "Asked") -> None:
        """Each has its row and its file, the right one."""
        rows = self._newest(len(asked.files))
        for transfer, source in zip(asked.transfers, asked.files, strict=True):
            row = rows[transfer]
            landed = self._server.directory / "data" / "downloads" / str(row["file"])
            assert row["status"] == "completed", row
            assert row["sha256"] == sha256(source) == sha256(landed)
            landed.unlink()
        os.sync()

    def _newest(self, count: int) -> dict[str, dict[str, Any]]:
        """The rows of the transfers that were asked for last, by their ids."""
        rows: dict[str, dict[str, Any]] = {}
        page = 1
        while len(rows) < count:
            status, answer = self._server.call("GET", f"/api/v1/transfers/?page={page}")
            assert status == 200, answer
            rows |= {row["id"]: row for row in answer["results"]}
            page += 1
        return rows


class Meter:
    """Time, and the CPU of both ends, from now on."""

    def __init__(self, server: Server, agent: AgentProgram) -> None:
        self._pids = agent.process.pid, server.program.process.pid
        self._before = [cpu_seconds(pid) for pid in self._pids]
        self._began = time.monotonic()

    def run(self, files: Sequence[Path]) -> Run:
        seconds = time.monotonic() - self._began
        sender, receiver = (
            cpu_seconds(pid) - before for pid, before in zip(self._pids, self._before, strict=True)
        )
        return Run(sum(file.stat().st_size for file in files), seconds, sender, receiver)


@dataclass(frozen=True)
class Asked:
    """Files, the transfers that are to bring them, and how many seconds it took to ask."""

    files: Sequence[Path]
    transfers: Sequence[str]
    seconds: float


def ask_for(server: Server, files: Sequence[Path]) -> Asked:
    """All of them in one request."""
    began = time.monotonic()
    body = {"client": "till", "paths": [str(file) for file in files]}
    status, answer = server.call("POST", "/api/v1/transfers/batch/", body)
    assert status == 202, answer
    return Asked(files, [row["id"] for row in answer["results"]], time.monotonic() - began)


def ask_for_each(server: Server, files: Sequence[Path]) -> Asked:
    """Several threads, each over one connection, with a request for each file."""
    began = time.monotonic()
    with ThreadPoolExecutor(ASKERS) as threads:
        parts = threads.map(
            _ask, [server] * ASKERS, [files[start::ASKERS] for start in range(ASKERS)]
        )
        transfers = {path: transfer for part in parts for path, transfer in part.items()}
    return Asked(files, [transfers[file] for file in files], time.monotonic() - began)


def _ask(server: Server, files: Sequence[Path]) -> dict[Path, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        headers = {"Authorization": f"Token {server.token}", "Content-Type": "application/json"}
        transfers = {}
        for file in files:
            body = json.dumps({"path": str(file)})
            connection.request("POST", "/download/till", body, headers)
            answer = connection.getresponse()
            transfer = json.load(answer)
            assert answer.status == 202, transfer
            transfers[file] = str(transfer["id"])
    return transfers
