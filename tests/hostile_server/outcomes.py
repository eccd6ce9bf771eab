"""What became of all attacks, shown at the end of a run: a plugin, as several processes may share the run."""

from collections import Counter
from typing import Any

import pytest

OUTCOMES: Counter[tuple[str, str]] = Counter()
"""How often each attack ended how, in this process."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["outcomes"] = [[*key, times] for key, times in OUTCOMES.items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for attack, outcome, times in getattr(node, "workeroutput", {}).get("outcomes", []):
        OUTCOMES[attack, outcome] += times


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not OUTCOMES:
        return
    terminalreporter.section("what a hostile server got")
    for attack in dict.fromkeys(attack for attack, _ in OUTCOMES):
        outcomes = [
            f"{times} × {outcome}" for (name, outcome), times in OUTCOMES.items() if name == attack
        ]
        terminalreporter.write_line(f"{attack}: {', '.join(outcomes)}")
    terminalreporter.write_line(f"{OUTCOMES.total()} attacks; nothing from outside the roots left")
