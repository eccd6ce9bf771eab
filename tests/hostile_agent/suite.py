"""All misbehaviours, played: the slow ones from the beginning beside the others."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.hostile_agent import compressed, connections, frames, messages, names, texts
from tests.hostile_agent.misbehaviour import ALL, Misbehaviour
from tests.hostile_agent.scene import MIB, Report, Scene

MODULES = (messages, compressed, texts, names, frames, connections)
"""Importing them has filled `ALL`."""

MOST_GROWTH = 96 * MIB
"""Of resident memory, while one misbehaviour is played and honest files land. Most would send more."""


class Suite:
    """The scene, and who is at it."""

    def __init__(
        self, scene: Scene, beside: ThreadPoolExecutor, chosen: list[Misbehaviour]
    ) -> None:
        self.scene = scene
        self._slow: dict[str, Future[Report]] = {
            each.name: beside.submit(scene.play, each.name, each.act, 5.0)
            for each in chosen
            if each.slow
        }

    def play(self, each: Misbehaviour) -> Report:
        """What came of it."""
        if each.name in self._slow:
            return self._slow[each.name].result()
        return self.scene.play(each.name, each.act)

    def verdict(self, each: Misbehaviour, report: Report) -> list[str]:
        """What is wrong with what came of it; nothing, where it was contained."""
        outcome = report.outcome
        checks = {
            f"closed with {outcome.closed}": outcome.closed in each.closed,
            f"said {outcome.said!r}": each.said in outcome.said,
            f"its transfer is {outcome.transfer}": each.transfer in outcome.transfer,
            "no honest transfer landed": report.landed > 0,
            f"memory grew by {report.growth // MIB} MiB": report.growth < MOST_GROWTH,
            "something outside the data directory was touched": self.scene.is_untouched,
            "the server has a traceback": "Traceback" not in self.scene.server.program.output,
        }
        return [wrong for wrong, well in checks.items() if not well]


@contextmanager
def suite(root: Path, chosen: list[Misbehaviour]) -> Iterator[Suite]:
    scene = Scene(root)
    slow = sum(each.slow for each in chosen)
    with ThreadPoolExecutor(max_workers=slow or 1) as beside:
        yield Suite(scene, beside, chosen)
    scene.close()


def every() -> list[Misbehaviour]:
    """The quick ones first: the slow ones go on beside them."""
    return sorted(ALL, key=lambda each: each.slow)
