"""Many agents at once, against one alone in the same run: the total, and how fairly it is shared."""

import statistics

from benchmarks.figures import Findings, Row, at_least, rates, ratio
from benchmarks.pulls import Pull, Puller, pull_together
from benchmarks.scene import Scene

AGENTS = 8


def measure(scene: Scene) -> Findings:
    mib = 32 if scene.quick else 256
    source = scene.file("data.bin", mib)
    server = scene.server()
    pullers = []
    for number in range(AGENTS):
        client = f"till{number}"
        pullers.append(Puller(server, client, scene.agent(server, client, file=source), source))
    results = scene.in_turn(
        {"alone": lambda: pull_together(pullers[:1]), "together": lambda: pull_together(pullers)}
    )
    alone = rates("silentmode, one agent alone", [pull.run for pull in results["alone"]])
    total = rates(f"silentmode, {AGENTS} agents in all", [pull.run for pull in results["together"]])
    slowest, mean = _shares(results["together"], mib)
    return Findings(
        f"{AGENTS} agents at once, a file of {mib} MiB each, over loopback",
        (
            alone,
            total,
            ratio("in all / one alone", total, alone, at_least(0.9)),
            slowest,
            mean,
            ratio("slowest agent / mean", slowest, mean, at_least(0.6)),
        ),
    )


def _shares(pulls: list[Pull], mib: int) -> tuple[Row, Row]:
    """Rates of the slowest agent and of the mean one, each from the request to its own landing."""
    of_each = [[mib / seconds for seconds in pull.seconds] for pull in pulls]
    slowest = tuple(min(shares) for shares in of_each)
    mean = tuple(statistics.mean(shares) for shares in of_each)
    return Row("the slowest agent", "MiB/s", slowest), Row("the mean agent", "MiB/s", mean)
