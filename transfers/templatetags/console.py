"""How the pages write sizes, rates, spans, times and names."""

from datetime import UTC, datetime
from math import ceil
from typing import Any

from django import template
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString

from agent.wire.display import shown

register = template.Library()


@register.filter
def size(count: int | None) -> str:
    """Bytes, in a unit that people read."""
    return "–" if count is None else str(filesizeformat(count))


@register.filter
def rate(count: int | None) -> str:
    """Bytes a second."""
    return "–" if count is None else f"{filesizeformat(count)}/s"


@register.filter
def span(seconds: float | None) -> str:
    """So long, in its two largest units."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = ceil(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


@register.filter
def visible(text: Any) -> str:
    """What an agent or an operator wrote, with what cannot be seen, or turns the line around, as escapes."""
    return shown(str(text or ""))


@register.filter
def moment(when: datetime | None) -> SafeString | str:
    """A time: in UTC as the server writes it; the page's script puts it into the reader's zone."""
    if when is None:
        return "–"
    utc = when.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        utc.isoformat(timespec="seconds"),
        utc.strftime("%Y-%m-%d %H:%M:%S UTC"),
        utc.strftime("%d %b %Y, %H:%M UTC"),
    )


@register.filter
def percent(value: float | None) -> str:
    """Whole per cents, and never 100 before the end."""
    return "–" if value is None else f"{min(int(value), 99) if value < 100 else 100} %"


@register.filter
def share(value: float) -> str:
    """Per cents of a time, and never all or nothing of it where that is not so."""
    return f"{value:.0f} %" if value in {0, 100} else f"{min(max(value, 0.1), 99.9):.1f} %"
