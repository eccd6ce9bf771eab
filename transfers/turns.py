"""Whose turn it is: how many transfers this process takes at once, in all and of one client.

Each transfer at work holds at most one window of bytes that have arrived and are not written yet, so
turns bound the memory, too. They are exact: one object in one event loop, with no database between.

A turn ends with its transfer, or earlier: who is slow goes to the end of the queue after a while, if
somebody waits. So all go round, whatever some of them promise.
"""

import time
from collections import Counter
from collections.abc import Callable
from functools import cache

from django.conf import settings

KEEPING_RATE = 1024**2
"""Bytes a second: who brings so much keeps its turn. 64 of them fill half of a line of 1 Gbit/s, and to
begin anew, with all that has come read again at both ends, would cost a large file more than others gain."""


class TurnOver(Exception):
    """A transfer has had its turn for long enough, and another one waits."""


class Turns:
    """`most` turns at once, `per_client` of them of one client; given in the order of asking."""

    def __init__(self, most: int, per_client: int) -> None:
        self._free = most
        self._per_client = per_client
        self._taken: Counter[str] = Counter()
        self._queue: dict[Seat, None] = {}
        """Those that wait, the longest first. Each gets one turn and goes to the end, so that a client
        with many transfers waiting does not keep the others from theirs."""
        self._given_up = 0
        """Turns whose transfers are told to stop, for others that wait."""

    def seat(self, client: str, ring: Callable[[], None]) -> "Seat":
        """For one connection of this client; `ring` is called when it is its turn."""
        return Seat(self, client, ring)

    def _give_up(self) -> bool:
        """Whether one more turn is to be given up, as a client waits that may have one."""
        waiting = sum(self._taken[seat.client] < self._per_client for seat in self._queue)
        if waiting <= self._given_up:
            return False
        self._given_up += 1
        return True

    def _take(self, client: str) -> bool:
        if self._free <= 0 or self._taken[client] >= self._per_client:
            return False
        self._free -= 1
        self._taken[client] += 1
        return True

    def _give_back(self, client: str, count: int) -> None:
        self._free += count
        self._taken[client] -= count
        if not self._taken[client]:
            del self._taken[client]
        for seat in list(self._queue) if self._free > 0 else ():
            if self._take(seat.client):
                del self._queue[seat]
                seat.promise()


class Seat:
    """One connection's place: the turns it has, and whether it waits for more."""

    def __init__(self, turns: Turns, client: str, ring: Callable[[], None]) -> None:
        self.client = client
        self._turns = turns
        self._ring = ring
        self._promised = 0
        """Given while it waited, and not taken up yet."""

    def promise(self) -> None:
        """It waited, and a turn is its own."""
        self._promised += 1
        self._ring()

    def take(self, wanted: int) -> int:
        """How many of so many turns it gets now. It waits for the others, and is rung then.

        What it does not want any more of what was promised to it is given back.
        """
        got = min(wanted, self._promised)
        spare, self._promised = self._promised - got, 0
        # No overtaking: as long as somebody waits, all that is free is beyond that client's share.
        while got < wanted and self._turns._take(self.client):
            got += 1
        self._turns._queue.pop(self, None) if got == wanted else self._turns._queue.setdefault(self)
        self.give_back(spare)
        return got

    def give_back(self, count: int = 1) -> None:
        """So many transfers have ended, or were not there to begin."""
        if count:
            self._turns._give_back(self.client, count)

    def turn(self, clock: Callable[[], float] = time.monotonic) -> "Turn":
        """One of those that it has taken, for a transfer that begins."""
        return Turn(self, clock)

    def leave(self) -> None:
        """It asks for no more; what it has taken is still to be given back."""
        self.take(0)


class Turn:
    """One transfer's turn. It counts from its first bytes: before them it may have to read again."""

    def __init__(self, seat: Seat, clock: Callable[[], float]) -> None:
        self._seat = seat
        self._clock = clock
        self._since: float | None = None
        self._brought = 0
        self._is_given_up = False

    def go_on(self, brought: int) -> None:
        """So many bytes more came. Raises TurnOver."""
        if brought and self._since is None:
            self._since = self._clock()
        self._brought += brought
        if self._is_long_enough and self._seat._turns._give_up():
            self._is_given_up = True
            raise TurnOver("Others wait for their turns; this file goes on when it has one again.")

    @property
    def _is_long_enough(self) -> bool:
        if self._since is None or not settings.TURN_SECONDS:
            return False
        held = self._clock() - self._since
        return held >= settings.TURN_SECONDS and self._brought < held * KEEPING_RATE

    def end(self) -> None:
        """The transfer has ended, or stopped."""
        self._seat._turns._given_up -= self._is_given_up
        self._seat.give_back()


@cache
def of_this_process() -> Turns:
    """The turns that the settings allow: by number, and by what their windows hold in memory."""
    return Turns(
        at_once(settings.MAX_ACTIVE_TRANSFERS, settings.MAX_IN_FLIGHT),
        at_once(settings.MAX_ACTIVE_PER_CLIENT, settings.MAX_IN_FLIGHT_PER_CLIENT),
    )


def at_once(transfers: int, in_flight: int) -> int:
    """How many transfers at once: at most so many, with at most so many bytes in flight; at least one."""
    return max(1, min(transfers, in_flight // settings.WINDOW))
