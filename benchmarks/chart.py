"""The findings as a picture: bars of medians, with what lay between the least and the most."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import Findings, Row, number

OURS, PEERS = "#2f6f9f", "#b9bec4"
BAR = 0.32  # inches


def draw(findings: Mapping[str, Findings], path: Path) -> None:
    """An SVG with a panel for each case and unit."""
    panels = [panel for name, found in findings.items() for panel in _panels(name, found)]
    if not panels:
        return
    heights = [len(rows) + 2.0 for _, rows in panels]
    # Text stays text, and the same figures give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "silentmode", "font.size": 9}):
        figure = Figure(figsize=(9, BAR * sum(heights)), layout="constrained")
        every = figure.subplots(len(panels), squeeze=False, height_ratios=heights)
        for axes, (title, rows) in zip(every.flat, panels, strict=True):
            _bars(axes, title, rows)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panels(name: str, findings: Findings) -> list[tuple[str, list[Row]]]:
    measured = sorted((row for row in findings.rows if row.values), key=lambda row: row.unit)
    return [
        (f"{name}: {findings.title} [{unit}]", list(rows))
        for unit, rows in groupby(measured, key=lambda row: row.unit)
    ]


def _bars(axes: Axes, title: str, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    medians = [row.median for row in rows]
    below = [row.median - min(row.values) for row in rows]
    above = [max(row.values) - row.median for row in rows]
    colours = [PEERS if row.peer else OURS for row in rows]
    axes.barh(places, medians, xerr=(below, above), color=colours, ecolor="#555", capsize=2)
    axes.set_yticks(places, [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    most = max([*(max(row.values) for row in rows), *(r.goal.value for r in rows if r.goal)])
    axes.set_xlim(0, most * 1.12 or 1)
    for place, row in zip(places, rows, strict=True):
        axes.annotate(
            number(row.median),
            (max(row.values), place),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
        if row.goal:
            axes.plot(
                [row.goal.value] * 2, [place - 0.4, place + 0.4], color="#c0392b", linewidth=2
            )
