"""An agent that is told how fast it may send: how well it keeps to it, seen from the link."""

import time
from bisect import bisect_left
from collections.abc import Sequence

from benchmarks.figures import MIB, Findings, Row, at_most
from benchmarks.scene import Scene
from tests.link import Link

SAMPLE = 0.01  # seconds
Samples = Sequence[tuple[float, int]]
"""Seconds, and the bytes that had passed by then."""


def measure(scene: Scene) -> Findings:
    seconds = 5.0 if scene.quick else 30.0
    source = scene.file("data.bin", int(seconds) + 10)
    server = scene.server()
    link = scene.link(server.port)
    scene.agent(server, "till", file=source, options=("--limit-rate", "1M"), port=link.port)
    before = link.sent
    transfer = server.ask("till")
    link.wait_sent(before + MIB)  # its beginning is not what is judged
    seen = samples(link, seconds)
    server.call("POST", f"/api/v1/transfers/{transfer}/cancel/")
    average = (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])
    worst = busiest_second(seen)
    return Findings(
        f"--limit-rate 1M, over {seconds:.0f} s",
        (
            Row("the average, beside it by", "%", (100 * abs(average / MIB - 1),), at_most(3)),
            Row("the busiest second", "MiB/s", (worst / MIB,), at_most(1.2)),
        ),
    )


def samples(link: Link, seconds: float) -> Samples:
    began = time.monotonic()
    seen = [(0.0, link.sent)]
    while seen[-1][0] < seconds:
        time.sleep(SAMPLE)
        seen.append((time.monotonic() - began, link.sent))
    return seen


def busiest_second(seen: Samples) -> float:
    """Most bytes that passed in any one second, wherever it begins."""
    moments = [moment for moment, _ in seen]
    most = 0
    for moment, passed in seen:
        end = bisect_left(moments, moment + 1.0)
        if end < len(seen):
            most = max(most, seen[end][1] - passed)
    return float(most)
