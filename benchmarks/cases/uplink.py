"""A store's uplink, 20 Mbit/s with 80 ms to the server and back: what of it is used, and who waits.

Through the test suite's link, which queues up to 16 MiB, as a router with too large a buffer does: only
the agent itself can keep its queue short. `rsync -z` goes through a link of the same kind.
"""

import re
import socket
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from benchmarks import sales
from benchmarks.figures import MIB, Findings, Row, Run, at_least, at_most, rates, ratio
from benchmarks.peers import Subject, missing_rows, rsync, sort_out
from benchmarks.pinging_agent import PING
from benchmarks.processes import Tail
from benchmarks.pulls import Puller
from benchmarks.scene import Scene
from tests.link import Link

BYTES_A_SECOND = 20e6 / 8
ROUND_TRIP = 0.08
ROUNDS = 3
"""At most: the link is what is slow here, and it is as slow each time."""

RAW, RANDOM = "the link itself, raw", "silentmode, random bytes"
CSV, RSYNC = "silentmode, CSV", "rsync -z over ssh, CSV"
STOPPED = "[client] Stopped by the server"


def measure(scene: Scene) -> Findings:
    mib = 4 if scene.quick else 32
    till = Till(scene, mib)
    peers, missing = sort_out({RSYNC: lambda: _rsync(scene, till.csv)})
    subjects: dict[str, Callable[[], Run]] = {
        RAW: Raw(scene, mib * MIB),
        RANDOM: till.pulls(till.random),
        CSV: till.pulls(till.csv),
    }
    results = scene.in_turn(subjects | peers, at_most=ROUNDS)
    cancels = scene.in_turn({"cancel": till.cancel}, at_most=ROUNDS)["cancel"]
    others = {RAW, RSYNC}
    rows = {name: rates(name, runs, peer=name in others) for name, runs in results.items()}
    rows |= {row.name: row for row in missing_rows(missing)}
    return Findings(
        f"20 Mbit/s, {ROUND_TRIP * 1000:.0f} ms: {mib} MiB each, the CSV {_smaller(till.csv)}",
        (
            *rows.values(),
            ratio(f"{RANDOM} / raw", rows[RANDOM], rows[RAW], at_least(0.93)),
            ratio(f"{CSV} / raw", rows[CSV], rows[RAW], at_least(4)),
            ratio(f"{CSV} / rsync -z", rows[CSV], rows[RSYNC], at_least(1)),
            Row("a cancel reaches the agent", "s", tuple(cancels), at_most(1)),
            till.pings(),
        ),
    )


def slowed(scene: Scene, target: int) -> Link:
    link = scene.link(target)
    link.slow_down(BYTES_A_SECOND)
    link.delay(ROUND_TRIP / 2)
    return link


class Till:
    """An agent behind the link, with random bytes and a CSV export; it pings all the time."""

    def __init__(self, scene: Scene, mib: int) -> None:
        self.random = scene.file("random.bin", mib)
        self.csv = sales.write(scene.folder / "sales.csv", mib * MIB)
        self._server = scene.server()
        self._link = slowed(scene, self._server.port)
        self._agent = scene.agent(
            self._server,
            "till",
            port=self._link.port,
            roots=[scene.folder],
            module="benchmarks.pinging_agent",
        )

    def pulls(self, source: Path) -> Callable[[], Run]:
        return Puller(self._server, "till", self._agent, source, str(source)).pull

    def cancel(self) -> float:
        """Seconds from an operator's cancel, in the middle of a file, until the agent has heard it."""
        transfer = self._server.ask("till", str(self.random))
        self._link.wait_sent(self._link.sent + self.random.stat().st_size // 4)
        with closing(Tail(self._agent, STOPPED)) as tail:
            began = time.monotonic()
            status, answer = self._server.call("POST", f"/api/v1/transfers/{transfer}/cancel/")
            assert status == 200, answer
            tail.wait()
            return time.monotonic() - began

    def pings(self) -> Row:
        """The slowest answer to a ping, whatever was under way."""
        seconds = re.findall(rf"^{PING}([\d.]+)$", self._agent.output, re.MULTILINE)
        slowest = max(map(float, seconds))
        return Row("a ping's answer, at most", "s", (slowest,), at_most(2), f"of {len(seconds)}")


class Raw:
    """Plain TCP through the link, to somebody who only counts."""

    def __init__(self, scene: Scene, size: int) -> None:
        self._size = size
        self._listener = socket.create_server(("127.0.0.1", 0))
        scene.at_end(self._listener.close)
        self._link = slowed(scene, self._listener.getsockname()[1])

    def __call__(self) -> Run:
        began = time.monotonic()
        with ThreadPoolExecutor(1) as thread:
            counted = thread.submit(self._count)
            with socket.create_connection(("127.0.0.1", self._link.port)) as connection:
                connection.sendall(bytes(self._size))
            assert counted.result() == self._size
        return Run(self._size, time.monotonic() - began, 0.0, 0.0)

    def _count(self) -> int:
        connection, _ = self._listener.accept()
        with connection:
            return sum(iter(lambda: len(connection.recv(MIB)), 0))


def _rsync(scene: Scene, source: Path) -> Subject:
    port = slowed(scene, scene.sshd.port).port
    return rsync(scene, source, options=["-z"], port=port)


def _smaller(path: Path) -> str:
    """What the usual compressor makes of it, to know what the figures mean."""
    data = path.read_bytes()
    return f"{len(data) / len(zlib.compress(data)):.1f} times smaller in zlib"
