"""Sizes, rates, spans and shares, as people read them: on pages and in a terminal."""

from math import ceil

from django.template.defaultfilters import filesizeformat


def size(count: int | None) -> str:
    """Bytes, in a unit that people read."""
    return "–" if count is None else str(filesizeformat(count))


def rate(count: int | None) -> str:
    """Bytes a second."""
    return "–" if count is None else f"{filesizeformat(count)}/s"


def span(seconds: float | None) -> str:
    """So long, in its two largest units."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = ceil(seconds)
    parts: list[tuple[int, str]] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts:
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count)


def percent(value: float | None) -> str:
    """Whole per cents, and never 100 before the end."""
    return "–" if value is None else f"{min(int(value), 99) if value < 100 else 100} %"


def share(value: float) -> str:
    """Per cents of a time, and never all or nothing of it where that is not so."""
    return f"{value:.0f} %" if value in {0, 100} else f"{min(max(value, 0.1), 99.9):.1f} %"
