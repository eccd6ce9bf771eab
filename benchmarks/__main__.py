"""Speed and cost, side by side with what people use today: `make bench`, or `python -m benchmarks`.

Real servers and real agents, as processes, and cp, scp and rsync in turn with them. Prints a table for each
case, and writes `bench.json` and `bench.svg`. Linux only: it reads /proc.
"""

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.end_to_end.harness import PROJECT

from .cases import CASES
from .chart import draw
from .figures import Findings
from .scene import Scene
from .table import as_json, table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--cases", default="", help=f"only these: {','.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5, help="measure each so often (5)")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it all work?")
    parser.add_argument("--output", type=Path, default=PROJECT / "var/bench", metavar="DIR")
    return parser


def chosen(wanted: str) -> list[str]:
    """Names of cases. Raises ValueError."""
    names = [name.strip() for name in wanted.split(",") if name.strip()] or list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        raise ValueError(f"There is no case {', '.join(unknown)}; there are {', '.join(CASES)}.")
    return names


def machine() -> dict[str, Any]:
    """What the figures are of."""
    model = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "system": platform.platform(),
        "cpu": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def measure(names: Sequence[str], options: argparse.Namespace) -> None:
    """Each case; what has been measured is written also when a later one fails."""
    about = machine()
    findings: dict[str, Findings] = {}
    print(
        "{cpu}, {cores} cores, load {load:.1f}, {system}, Python {python}, commit {commit}".format(
            **about
        )
    )
    try:
        for name in names:
            with Scene(options.output, rounds=options.rounds, quick=options.quick) as scene:
                began = time.monotonic()
                findings[name] = CASES[name](scene)
                print(f"\n{table(name, findings[name])}", flush=True)
                print(f"  ({time.monotonic() - began:.0f} s)", file=sys.stderr)
    finally:
        cases = {name: as_json(found) for name, found in findings.items()}
        about |= {"rounds": options.rounds, "quick": options.quick, "cases": cases}
        (options.output / "bench.json").write_text(json.dumps(about, indent=1))
        draw(findings, options.output / "bench.svg")
    print(f"\nWritten: {options.output / 'bench.json'}, {options.output / 'bench.svg'}")


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        names = chosen(options.cases)
    except ValueError as wrong:
        print(wrong, file=sys.stderr)
        return 2
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # thousands of idle agents
    # As Ctrl-C does: servers, agents and sshd are stopped, and what has been measured is written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options.output.mkdir(parents=True, exist_ok=True)
    measure(names, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
