"""All connections of this process, looked after at once: a query for thousands, and not several for each.

An idle agent says a heartbeat every 15 s. When each had its own lease renewed and its own rows looked at, 600
idle agents kept a third of a core busy, and 5 % of one since (measured beside other work). So an idle
connection asks nothing of the database: here the leases of all that were heard are renewed together, and
whoever has something to do, and may not have heard the doorbell, is rung for.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import cache
from itertools import takewhile
from typing import Protocol

from channels.db import database_sync_to_async
from django.utils import timezone

from . import counters
from .models import HEARTBEAT, Client, Standing, Transfer, all_seen
from .together import MOST, Together

CALL_SECONDS = 5.0
"""Between two calls: a lease is renewed, and a silent agent given up, so late at the most."""

LOOK_SECONDS = 2.0 * HEARTBEAT
"""Between two looks for rings that were lost: by Redis, as those of a process do not get lost in it."""

log = logging.getLogger(__name__)


class Present(Protocol):
    """A connection that is called."""

    client: Client
    epoch: int

    def ring(self) -> None: ...

    @property
    def is_silent(self) -> bool:
        """Whether its agent should have been heard by now."""

    @property
    def unnoted(self) -> float | None:
        """When its agent was heard last, if that is not on record yet."""

    def noted(self, heard: float) -> None:
        """That is on record."""


class RollCall:
    """The connections of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._present: OrderedDict[Present, None] = OrderedDict()
        """Who was heard last is the last of them: so the others need not be looked at."""
        self._looked_at = clock()
        self._calling: asyncio.Task[None] | None = None
        self._is_wanted = Together[Present, bool](_each_wanted)

    async def enter(self, present: Present) -> None:
        """Call it, too, until it leaves; and ring it if there is something to do already.

        After a restart thousands come, and most have nothing to do.
        """
        self._present[present] = None
        counters.AGENTS.set(len(self._present))
        if self._calling is None or self._calling.done():
            self._calling = asyncio.create_task(self._run())
        try:
            wanted = await self._is_wanted(present)
        except Exception:  # it looks for itself, and again where that fails, too
            log.exception("could not look for %s", present.client)
            wanted = True
        if wanted:
            present.ring()

    def heard(self, present: Present) -> None:
        """There was a sign of life of its agent."""
        if present in self._present:
            self._present.move_to_end(present)

    def leave(self, present: Present) -> None:
        self._present.pop(present, None)
        counters.AGENTS.set(len(self._present))

    async def _run(self) -> None:
        while self._present:
            await asyncio.sleep(CALL_SECONDS)
            try:
                await self.call()
            except Exception:  # say, the database restarts: what was not noted is noted next time
                log.exception("could not look after the connections")

    async def call(self) -> None:
        """Note who was heard; ring for who has something to do, or somebody to give up."""
        now = self._clock()
        for each in takewhile(_is_silent, list(self._present)):
            each.ring()
        heard = list(_unnoted(reversed(self._present)))
        if heard:
            wall = timezone.now()
            signs = [
                (each.client.pk, each.epoch, wall - timedelta(seconds=now - at))
                for each, at in heard
            ]
            await database_sync_to_async(all_seen)(signs)
            for each, at in heard:
                each.noted(at)
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            for each in await database_sync_to_async(_wanted)(list(self._present)):
                each.ring()


def _is_silent(each: Present) -> bool:
    return each.is_silent


def _unnoted(present: Iterable[Present]) -> Iterator[tuple[Present, float]]:
    """Those who were heard since that was noted last, and when; who was heard last is the first of them."""
    for each in present:
        if (at := each.unnoted) is None:
            return
        yield each, at


def _wanted(present: Sequence[Present]) -> list[Present]:
    """Whose rows say that there may be something to do: a transfer, or a change of the client itself."""
    standing: dict[str, Standing] = {}
    busy: set[str] = set()
    for first in range(0, len(present), MOST):
        pks = [each.client.pk for each in present[first : first + MOST]]
        standing |= Client.standing(pks)
        busy |= Transfer.objects.live_clients(pks)
    return [
        each
        for each in present
        if each.client.pk in busy
        or standing.get(each.client.pk) != Standing(each.epoch, each.client.token_sha256)
    ]


def _each_wanted(present: Sequence[Present]) -> list[bool]:
    wanted = set(map(id, _wanted(present)))
    return [id(each) in wanted for each in present]


@cache
def of_this_process() -> RollCall:
    return RollCall()
