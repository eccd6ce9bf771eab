"""The findings as text: a table for people, and what JSON takes."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from .figures import Findings, Row, number

HEADER = ("", "median", "min–max", "unit", "goal", "CPU s/GiB: sender", "receiver", "")
LEFT = (0, 3, 4, 7)
"""Columns of words; numbers stand to the right."""


def table(name: str, findings: Findings) -> str:
    """One case, as text."""
    rows = [HEADER, *(_cells(row) for row in findings.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER) - 1)]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    return "\n".join([f"{name}: {findings.title}", *(f"  {line}" for line in lines)])


def _cells(row: Row) -> tuple[str, ...]:
    if row.missing:
        return (row.name, "–", "", row.unit, str(row.goal or ""), "", "", f"missing: {row.missing}")
    return (
        row.name,
        number(row.median),
        f"{number(min(row.values))}–{number(max(row.values))}" if len(row.values) > 1 else "",
        row.unit,
        _goal(row),
        _median(row.sender),
        _median(row.receiver),
        row.note,
    )


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    return f"{row.goal} {'met' if row.goal.met(row.median) else 'missed'}"


def _median(values: Sequence[float]) -> str:
    return number(statistics.median(values)) if values else ""


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for column, (cell, width) in enumerate(zip(row, [*widths, 0], strict=True)):
        yield cell.ljust(width) if column in LEFT else cell.rjust(width)


def as_json(findings: Findings) -> dict[str, Any]:
    """For a program to read: all values, not only their medians."""
    rows = [
        asdict(row) | {"median": row.median if row.values else None, "goal": str(row.goal or "")}
        for row in findings.rows
    ]
    return {"title": findings.title, "rows": rows}
