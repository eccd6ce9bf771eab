"""How often one user may do what the audit log records.

A row of it is never removed, and each waits for the one before it. So nobody may write them without a
bound; and as nothing is done, served or refused without its row, what is beyond the bound is answered 429.
"""

import logging
from math import ceil

from django.contrib.auth.models import AnonymousUser, User
from rest_framework import exceptions

from .models import Event, record
from .throttle import Allowances

DEEDS_AT_ONCE = 5_000
DEEDS_A_SECOND = 2.0
"""A script asks every client of a large fleet, or fetches what has landed. A user who does nothing else
all day makes 180,000 rows, some 100 MB."""

REFUSALS_AT_ONCE = 100
REFUSALS_A_SECOND = 0.1
"""Nobody needs refusals: a script that has lost its right says so, and does not fill the log meanwhile."""

log = logging.getLogger(__name__)

deeds = Allowances(DEEDS_AT_ONCE, DEEDS_A_SECOND)
refusals = Allowances(REFUSALS_AT_ONCE, REFUSALS_A_SECOND)


class TooMuch(exceptions.Throttled):
    """Nothing more is done for this user, for so many `seconds`."""

    def __init__(self, seconds: float, what: str) -> None:
        super().__init__(seconds, f"Too many {what}.")
        self.seconds = seconds


def count_deed(user: User | AnonymousUser, count: int = 1) -> None:
    """This user is about to do something that is recorded, so many times. Raises TooMuch."""
    _count(deeds, user, "calls", count)


def refused(user: User | AnonymousUser, *, action: str, path: str) -> None:
    """Record that this user was refused. Raises TooMuch, and then there is no row."""
    _count(refusals, user, "refused calls")
    record(Event.REFUSED, action=action, path=path[:200])


def _count(allowances: Allowances, user: User | AnonymousUser, what: str, count: int = 1) -> None:
    allowed, pause = allowances.take(user.pk, count)
    if not allowed:
        raise TooMuch(pause, what)
    if pause:
        log.warning(
            "User %s has made too many %s: more are answered 429, for %d s at first",
            user,
            what,
            ceil(pause),
        )
