"""The figures of `make bench`: how they are summed up, and what is shown of them."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.chart import draw
from benchmarks.figures import Findings, Row, Run, at_least, at_most, number, rates, ratio
from benchmarks.table import as_json, table

MIB = 1 << 20
OURS = Row("ours", "MiB/s", (300.0, 100.0, 240.0), at_least(200), "synced")
SCP = Row("scp", "MiB/s", (200.0, 50.0, 400.0), peer=True)
GONE = Row("rsync", "MiB/s", missing="rsync is not installed (make system-deps)", peer=True)


def words(line: str) -> str:
    """A line without what aligns it."""
    return " ".join(line.split())


def test_a_ratio_compares_what_was_measured_in_the_same_round() -> None:
    row = ratio("ours / scp", OURS, SCP, at_least(1.15))
    assert row.values == (1.5, 2.0, 0.6)
    assert row.median == 1.5  # of the medians it would be 1.2


def test_a_ratio_to_what_is_missing_is_missing_for_the_same_reason() -> None:
    row = ratio("ours / rsync", OURS, GONE)
    assert (row.values, row.missing) == ((), GONE.missing)


def test_a_goal_is_met_from_its_own_value_on() -> None:
    assert at_least(2).met(2)
    assert not at_least(2).met(1.99)
    assert at_most(2).met(2)
    assert not at_most(2).met(2.01)


@pytest.mark.parametrize(
    ("value", "shown"), [(1234.5, "1234"), (56.78, "56.8"), (1.234, "1.23"), (0.0, "0.00")]
)
def test_three_digits_of_a_number_are_shown(value: float, shown: str) -> None:
    assert number(value) == shown


def test_rates_are_of_source_bytes_and_cpu_is_for_a_gib() -> None:
    row = rates("ours", [Run(512 * MIB, 2.0, sender=1.0, receiver=1.5)])
    assert (row.values, row.sender, row.receiver) == ((256.0,), (2.0,), (3.0,))


def test_no_cpu_is_shown_where_none_was_measured() -> None:
    row = rates("cp", [Run(512 * MIB, 2.0, sender=1.0, receiver=0.0)])
    assert (row.sender, row.receiver) == ((2.0,), ())


def test_the_table_has_medians_spread_goals_and_what_is_missing() -> None:
    text = table("one", Findings("a file", (OURS, SCP, GONE)))
    title, header, ours, scp, gone = text.splitlines()
    assert title == "one: a file"
    assert words(header) == "median min–max unit goal CPU s/GiB: sender receiver"
    assert words(ours) == "ours 240 100–300 MiB/s ≥ 200 met synced"
    assert words(scp) == "scp 200 50.0–400 MiB/s"
    assert gone.endswith("missing: rsync is not installed (make system-deps)")
    assert ours.index("240") == scp.index("200")


def test_a_goal_that_is_missed_is_called_so() -> None:
    text = table("one", Findings("a file", (Row("ours", "s", (3.0,), at_most(2)),)))
    assert words(text.splitlines()[-1]) == "ours 3.00 s ≤ 2.00 missed"


def test_a_program_gets_every_value() -> None:
    read = json.loads(json.dumps(as_json(Findings("a file", (OURS, GONE)))))
    assert read["title"] == "a file"
    ours, gone = read["rows"]
    assert (ours["values"], ours["median"], ours["goal"]) == ([300.0, 100.0, 240.0], 240.0, "≥ 200")
    assert (gone["values"], gone["median"], gone["missing"]) == ([], None, GONE.missing)


def test_the_chart_has_a_bar_for_each_value_and_is_the_same_each_time(tmp_path: Path) -> None:
    findings = {"one": Findings("a file", (OURS, SCP, GONE)), "idle": Findings("agents", ())}
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    draw(findings, first)
    draw(findings, second)
    assert first.read_bytes() == second.read_bytes()
    words = {element.text for element in ElementTree.parse(first).iter()}
    assert {"ours", "scp", "240", "200", "one: a file [MiB/s]"} <= words
    assert "rsync" not in words
