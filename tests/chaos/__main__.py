"""A chaos run: `make chaos RUNS=… SEED=…`, or `python -m tests.chaos --help`.

Real transfers between a real server and real agents, with faults at random moments; each outcome is
checked from outside. Ends with 1 at the first broken promise, and says how to repeat that run alone.
"""

import argparse
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from . import saboteur
from .draw import draw
from .faults import FAULTS
from .scene import Stopped
from .table import Table
from .world import Lane, Result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="how many transfers (100)")
    parser.add_argument("--seed", default="", help="what all chance comes from; else one is drawn")
    parser.add_argument("--faults", default="", help=f"only these: {','.join(FAULTS)}")
    parser.add_argument("--only", type=int, help="only the run of this number")
    parser.add_argument("--lanes", type=int, default=4, help="so many runs side by side (4)")
    parser.add_argument("--keep", action="store_true", help="keep the logs of all runs")
    parser.add_argument(
        "--go-on", action="store_true", help="do not end at the first broken promise"
    )
    return parser


def chosen(wanted: str) -> list[str]:
    """The names of the faults to choose from. Raises ValueError."""
    names = [name.strip() for name in wanted.split(",") if name.strip()] or list(FAULTS)
    if unknown := [name for name in names if name not in FAULTS]:
        raise ValueError(f"There is no fault {', '.join(unknown)}; there are {', '.join(FAULTS)}.")
    if not saboteur.INSTALLED:
        names = [name for name in names if "disk" not in FAULTS[name].groups]
    if not names:
        raise ValueError("No fault is left: those of the disk need strace.")
    return names


class Chaos:
    """All runs of one seed, in lanes side by side."""

    def __init__(self, options: argparse.Namespace, names: Sequence[str], folder: Path) -> None:
        self._options = options
        self._names = names
        self._folder = folder
        numbers = [options.only] if options.only else range(1, options.runs + 1)
        self._numbers: Iterator[int] = iter(numbers)
        self._lanes = min(options.lanes, len(numbers))
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._bar = tqdm(total=len(numbers), unit="run", miniters=1, leave=False)
        self.table = Table(names)

    def run(self) -> bool:
        """Whether every promise was kept."""
        with self._bar, ThreadPoolExecutor(self._lanes) as pool:
            lanes = [pool.submit(self._work, number) for number in range(1, self._lanes + 1)]
            try:
                for lane in lanes:
                    lane.result()
            finally:  # Ctrl-C: every lane stops what it has started
                self._stop.set()
        return 0 < self.table.runs == self.table.kept

    def _work(self, lane_number: int) -> None:
        try:
            self._work_on(self._lane(lane_number), lane_number)
        except Stopped:
            pass
        except BaseException:
            self._stop.set()
            raise

    def _lane(self, number: int) -> Lane:
        return Lane(Path(tempfile.mkdtemp(prefix=f"lane-{number}-", dir=self._folder)), self._stop)

    def _work_on(self, lane: Lane, lane_number: int) -> None:
        try:
            while (number := self._next()) is not None:
                plan = draw(self._options.seed, number, self._names)
                result = lane.play(plan, keep=self._options.keep)
                self._report(result)
                if result.broken:  # whatever is left of it must not disturb the next run
                    lane.stop()
                    lane = self._lane(lane_number)
        finally:
            lane.stop()

    def _next(self) -> int | None:
        with self._lock:
            return None if self._stop.is_set() else next(self._numbers, None)

    def _report(self, result: Result) -> None:
        with self._lock:
            self.table.add(result)
            self._bar.update()
            if result.broken:
                tqdm.write(self._failure(result), file=sys.stdout)
                if not self._options.go_on:
                    self._stop.set()

    def _failure(self, result: Result) -> str:
        plan = result.plan
        faults = f" FAULTS={self._options.faults}" if self._options.faults else ""
        lines = [
            f"Broken promise in run {plan.number} of seed {plan.seed}: {plan}",
            f"  promised: {plan.promise}",
            *(f"  seen: {sentence}" for sentence in result.broken),
            *(f"    {line}" for line in result.journal),
            f"  logs: {result.folder}",
            f"  again: make chaos SEED={plan.seed} ONLY={plan.number}{faults}",
            f"  or, should what the server did before matter: make chaos SEED={plan.seed}"
            f" RUNS={plan.number} LANES=1{faults}",
        ]
        return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    options.seed = options.seed or str(secrets.randbelow(10**6))
    try:
        names = chosen(options.faults)
    except ValueError as wrong:
        print(wrong, file=sys.stderr)
        return 2
    print(f"seed {options.seed}: make chaos SEED={options.seed} repeats it", flush=True)
    if not saboteur.INSTALLED:
        print("strace is not installed: no faults of the disk")
    folder = Path(tempfile.mkdtemp(prefix="silentmode-chaos-"))
    chaos = Chaos(options, names, folder)
    kept = chaos.run()
    print(chaos.table)
    if kept and not options.keep:
        shutil.rmtree(folder)
    else:
        print(f"The logs are in {folder}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
