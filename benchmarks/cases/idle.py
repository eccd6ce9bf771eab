"""Many agents that have nothing to do: how fast all of them connect, and what each costs the server."""

import time
from dataclasses import replace

from benchmarks.figures import Findings, Row, at_most
from benchmarks.fleet import Fleet, TooMany
from benchmarks.processes import after_a_rest, cpu_seconds
from benchmarks.scene import Scene
from tests.end_to_end.harness import Server

AT_A_TIME = 50
"""Where it is only asked what they cost once they are there."""

SETTLING = 20.0
"""Seconds after the last has connected. What is measured after it is a multiple of the 15 s between two
heartbeats: agents that came together beat together."""


FEW, MANY = 200, 5000


def measure(scene: Scene) -> Findings:
    counts, seconds = ((FEW,), 15.0) if scene.quick else ((FEW, MANY), 30.0)
    rows = [_burst(scene, max(counts))]
    for count in counts:
        rows += _cost(scene, count, seconds)
    factor = after_a_rest(*((1, 0.5) if scene.quick else ()))
    rows.append(Row("this machine's work after a rest of 2 s / without one", "×", (factor,)))
    return Findings(f"{max(counts)} idle agents on one process, all on this machine", tuple(rows))


def _server(scene: Scene, name: str) -> Server:
    return scene.server(name, SILENTMODE_CONNECTIONS_PER_ADDRESS="0")


def _burst(scene: Scene, count: int) -> Row:
    """All dial at once."""
    name, goal = f"{count} connected, dialling at once", at_most(20)
    server = _server(scene, "burst")
    fleet = Fleet(server, count, server.directory)
    try:
        back = fleet.dial()
    except TooMany as late:
        return Row(name, "s", goal=goal, missing=str(late))
    finally:
        fleet.program.kill()
        server.program.terminate()
    return Row(name, "s", (back.seconds,), goal, f"{back.busiest} in the busiest second")


def _cost(scene: Scene, count: int, seconds: float) -> list[Row]:
    """Connected a few at a time, so that nothing is left of the burst."""
    memory = Row(f"server's memory for each of {count}", "KiB", goal=at_most(64))
    cpu = Row(f"server's CPU with {count}", "% of a core", goal=at_most(5))
    server = _server(scene, f"idle-{count}")
    resident = server.program.resident
    fleet = Fleet(server, count, server.directory)
    try:
        fleet.dial(AT_A_TIME)
        used, each = _settled(server, resident, count, seconds)
    except TooMany as late:
        return [replace(row, missing=str(late)) for row in (memory, cpu)]
    finally:
        fleet.program.kill()
        server.program.terminate()
    note = f"over {seconds:.0f} s, heartbeats and all"
    return [replace(memory, values=(each,)), replace(cpu, values=(used,), note=note)]


def _settled(server: Server, resident: int, count: int, seconds: float) -> tuple[float, float]:
    """Per cent of a core, and KiB for each."""
    time.sleep(SETTLING)
    before = cpu_seconds(server.program.process.pid)
    time.sleep(seconds)
    busy = (cpu_seconds(server.program.process.pid) - before) / seconds
    each = (server.program.resident - resident) / count
    return 100 * busy, each / 1024
