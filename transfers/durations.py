"""Spans of time as people write them on a command line: `90m`, `24h`, `7d`."""

import re
from datetime import timedelta

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
LONGEST = timedelta(days=3650)


def duration(text: str) -> timedelta:
    """The span. Raises ValueError, whose sentence says how one is written."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)
    span = timedelta(**{UNITS[match[2]]: int(match[1])}) if match else timedelta()
    if not timedelta() < span <= LONGEST:
        raise ValueError(f"{text!r} is no span of time, like 90m, 24h or 7d (up to 3650d).")
    return span
