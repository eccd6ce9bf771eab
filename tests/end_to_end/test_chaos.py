"""A minute of chaos: `make chaos` for longer, and with the faults that take longer to be noticed."""

from dataclasses import replace

import pytest

from tests.chaos.__main__ import main
from tests.chaos.faults import FAULTS
from tests.chaos.plan import COMPLETED

SLOW = ("black-hole", "stall", "truncate", "duplicate", "reorder", "doorbell")
"""Faults that last long, or are noticed only once nothing has come for long."""


def test_no_transfer_is_lost_wrong_or_stuck_in_a_minute_of_chaos(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ",".join(name for name, fault in FAULTS.items() if name not in SLOW)
    status = main(["--runs", "24", "--lanes", "2", "--seed", "3", "--faults", names])
    assert status == 0, capsys.readouterr().out


def test_a_chaos_run_ends_at_a_broken_promise_and_says_how_to_repeat_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "cancelled-stalled"
    monkeypatch.setitem(
        FAULTS, name, replace(FAULTS[name], ends=COMPLETED)
    )  # as if it could not be
    assert main(["--runs", "20", "--lanes", "1", "--seed", "1", "--faults", name]) == 1
    said = capsys.readouterr().out
    assert "seen: it ended as cancelled" in said
    assert f"make chaos SEED=1 ONLY=1 FAULTS={name}" in said


def test_a_chaos_run_refuses_a_fault_that_it_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--faults", "earthquake"]) == 2
    assert "earthquake" in capsys.readouterr().err
