"""Print what came of each misbehaviour: `python -m tests.hostile_agent [part of a name]`."""

import sys
import tempfile
from pathlib import Path

from tests.hostile_agent.misbehaviour import Misbehaviour
from tests.hostile_agent.scene import MIB
from tests.hostile_agent.suite import Suite, every, suite

ROW = "| {:<58} | {:<6} | {:<74} | {:<28} | {:>7} | {:>6} |"


def main() -> int:
    """0 when all was contained."""
    chosen = [each for each in every() if sys.argv[1:] == [] or sys.argv[1] in each.name]
    print(ROW.format("an agent that", "closed", "told", "its transfer", "MiB", "landed"))
    print(ROW.format("---", "---", "---", "---", "---", "---"))
    failed = 0
    with tempfile.TemporaryDirectory() as root, suite(Path(root), chosen) as playing:
        for each in chosen:
            failed += not _print_row(playing, each)
    print(f"\n{len(chosen)} misbehaviours, {failed} not contained")
    return min(failed, 1)


def _print_row(playing: Suite, each: Misbehaviour) -> bool:
    """Whether it was contained."""
    try:
        report = playing.play(each)
    except Exception as error:
        print(ROW.format(each.name, *[""] * 5), repr(error), flush=True)
        return False
    outcome, wrong = report.outcome, playing.verdict(each, report)
    growth = f"{report.growth / MIB:+.1f}"
    row = (each.name, outcome.closed, outcome.said[:74], outcome.transfer, growth, report.landed)
    print(ROW.format(*row), *wrong, flush=True)
    return not wrong


if __name__ == "__main__":
    sys.exit(main())
