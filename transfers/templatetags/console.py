"""How the pages write sizes, rates, spans, times and names."""

from datetime import UTC, datetime
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from agent.wire.display import shown
from transfers.units import percent, rate, share, size, span

register = template.Library()

for plain in (size, rate, span, percent, share):
    register.filter(plain.__name__, plain)


@register.filter
def visible(text: Any) -> str:
    """What an agent or an operator wrote, with what cannot be seen, or turns the line around, as escapes."""
    return shown(str(text or ""))


@register.filter
def moment(when: datetime | None) -> SafeString | str:
    """A time: in UTC as the server writes it; the page's script puts it into the reader's zone."""
    if when is None:
        return "–"
    return _time(when, "")


@register.filter
def clock(when: datetime) -> SafeString:
    """A time that is read beside another one: the script does not make "yesterday" of it."""
    return _time(when, "data-clock")


def _time(when: datetime, mark: str) -> SafeString:
    utc = when.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{}" {}>{}</time>',
        utc.isoformat(timespec="seconds"),
        utc.strftime("%Y-%m-%d %H:%M:%S UTC"),
        mark,
        utc.strftime("%d %b %Y, %H:%M UTC"),
    )
