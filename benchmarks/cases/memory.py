"""How much memory a very large file takes: by how much both ends grow over what they were before it."""

from benchmarks.figures import Findings, Row, at_most, rates
from benchmarks.processes import Peak
from benchmarks.pulls import Puller
from benchmarks.scene import Scene

GROWTH = at_most(32)


def measure(scene: Scene) -> Findings:
    mib = 256 if scene.quick else 4096
    source = scene.file("large.bin", mib)
    server = scene.server()
    agent = scene.agent(server, "till", file=source)
    peaks = {"server": Peak(server.program), "agent": Peak(agent)}
    run = Puller(server, "till", agent, source).pull()
    notes = {name: peak.finish() for name, peak in peaks.items()}
    rows = [
        Row(f"growth of the {name}", "MiB", (peak.grown,), GROWTH, notes[name])
        for name, peak in peaks.items()
    ]
    title = f"memory for one file of {mib / 1024:g} GiB, the first after the start"
    return Findings(title, (*rows, rates("silentmode", [run])))
