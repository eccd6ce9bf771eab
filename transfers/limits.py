"""Whether there is room for a transfer: on the disk, and in what a day may bring.

Looked at before it begins and, as what others have promised is believed in part only, while it goes on.
The numbers are in the log: they tell about other clients, and neither an agent nor a row is told them.
"""

import logging
import time
from collections.abc import Callable
from functools import cache

from channels.db import database_sync_to_async
from django.conf import settings

from . import storage
from .arrival import CHECKPOINT_BYTES, in_thread
from .attempt import Refused
from .models import QuotaExceeded, Transfer, check_quota

CHECK_SECONDS = 5.0
CHECK_BYTES = CHECKPOINT_BYTES
"""After so long, or so many bytes, it is looked whether a transfer may go on, with room for so many more."""

SPARE_SECONDS = 1.0
SPARE_PART = 4
"""What a look found to spare is given out for so long without another look, and a fourth of it at most: other
processes do so, too. To look for each of a thousand small files took a tenth of what they cost."""

log = logging.getLogger(__name__)


class Spare:
    """Bytes of room that nobody needs, as a look of this process has found."""

    def __init__(self) -> None:
        self._left = 0
        self._until = 0.0

    def found(self, count: int, now: float) -> None:
        """So many, at this time in seconds."""
        self._left, self._until = count // SPARE_PART, now + SPARE_SECONDS

    def take(self, count: int, now: float) -> bool:
        """Whether there are so many, and they are the caller's now."""
        if now >= self._until or count > self._left:
            return False
        self._left -= count
        return True


@cache
def spare_of_this_process() -> Spare:
    return Spare()


class Limits:
    """What one transfer has to keep to."""

    def __init__(self, transfer: Transfer, clock: Callable[[], float] = time.monotonic) -> None:
        self._transfer = transfer
        self._clock = clock
        self._spare = spare_of_this_process()
        self._checked_at = 0.0
        self._next_at = 0
        """The next look is when so many bytes are still to come, at the latest."""

    def spares(self, rest: int) -> bool:
        """Whether there is room for all `rest` bytes that are still to come, without a look."""
        has_quota = settings.BYTES_PER_DAY or settings.BYTES_PER_DAY_PER_CLIENT
        if has_quota or not self._spare.take(rest, self._clock()):
            return False
        self._checked(rest)
        return True

    async def may_begin(self, rest: int) -> None:
        """Whether there is room for them, by a look. Raises Refused.

        The row has to say what is about to come.
        """
        await self._check(rest, rest, begins=True)

    async def may_go_on(self, rest: int) -> None:
        """Whether there still is room for the next of them; looks now and then only. Raises Refused."""
        due = self._checked_at + CHECK_SECONDS
        if self._clock() >= due or rest <= self._next_at:
            await self._check(rest, min(rest, CHECK_BYTES), begins=False)

    async def _check(self, rest: int, to_come: int, *, begins: bool) -> None:
        free = await in_thread(storage.free_space, settings.PARTIAL_DIR)
        await database_sync_to_async(self._check_rows)(to_come, free, begins=begins)
        self._checked(rest)

    def _checked(self, rest: int) -> None:
        self._checked_at, self._next_at = self._clock(), rest - CHECK_BYTES

    def _check_rows(self, to_come: int, free: int, *, begins: bool) -> None:
        try:
            check_quota(self._transfer, to_come)
        except QuotaExceeded as exceeded:
            raise Refused(exceeded.code, str(exceeded)) from None
        self._check_room(to_come, free, begins=begins)

    def _check_room(self, to_come: int, free: int, *, begins: bool) -> None:
        """Also for what those that began before it will bring: where room gets scarce, they go first.

        So the last to begin give way while the first still have room to end. All that began at once,
        and none of them with room to end, would be the alternative.
        """
        foreseen = Transfer.objects.foreseen_before(self._transfer)
        spare = free - foreseen - to_come - settings.MIN_FREE_SPACE
        if spare >= 0:
            if begins:  # else there are younger ones, and more of this one is to come
                self._spare.found(spare, self._clock())
            return
        log.warning(
            "No room for %s: %d bytes are free, %d are foreseen for what began before it, %d are still "
            "to come of it, and %d stay free",
            self._transfer, free, foreseen, to_come, settings.MIN_FREE_SPACE,
        )  # fmt: skip
        raise Refused(
            "storage_full",
            f"No room for {self._transfer}: what is free goes to transfers that began before it, or stays "
            "free (SILENTMODE_MIN_FREE_SPACE).",
        )
