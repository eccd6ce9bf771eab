"""The rows of transfers that connections hold: their verbs, called in the database's thread.

What the connections of this process have to record at one moment is one transaction: a commit is a sync of
the database's log, and costs as much as what it commits (0.7 of 1.5 ms for each step of a small file).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django.db import transaction

from .models import Status, StatusConflict, Transfer, counted_together, recorded_together
from .together import Together

P = ParamSpec("P")
R = TypeVar("R")

VERBS_AT_ONCE = 64
"""In one transaction: SQLite has one writer, and others wait for it."""


class Claim:
    """What the connection of `epoch` may do with a transfer: take it on, and the rest for as long as the row
    says it is its own."""

    def __init__(self, transfer: Transfer, epoch: int) -> None:
        self.transfer = transfer
        self.epoch = epoch

    async def do(
        self,
        verb: Callable[Concatenate[Transfer, int, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Call a verb of the row as the holder of this epoch. Raises StatusConflict where it is not."""
        call = partial(verb, self.transfer, self.epoch, *args, **kwargs)
        result: R = await _together(Step(self.transfer, call))
        return result

    async def take(self) -> None:
        """Take the transfer on. Raises StatusConflict where somebody else was first."""
        if self.transfer.status == Status.VERIFYING:
            # It may have landed, which is looked for on the disk: not while others wait for the transaction.
            await database_sync_to_async(self.transfer.claim)(self.epoch)
        else:
            await self.do(Transfer.claim)

    async def look(self) -> Transfer:
        """The row as it is now, whoever holds it."""
        await database_sync_to_async(self.transfer.refresh_from_db)()
        return self.transfer


@dataclass(frozen=True)
class Step:
    """A verb of one transfer that is to be called."""

    transfer: Transfer
    call: Callable[[], Any]


def take_steps(steps: Sequence[Step]) -> list[Any]:
    """In one transaction: what each came to, a StatusConflict for one that was too late.

    Where anything else fails, nothing has happened, and no transfer looks as if it had.
    """
    if len(steps) < 2:  # no transaction for nothing, and a verb has its own where it needs one
        return [_take(step) for step in steps]
    before = [dict(step.transfer.__dict__) for step in steps]
    # In one order, or two processes could wait for each other: rows, then usage, then the audit log.
    order = sorted(range(len(steps)), key=lambda number: steps[number].transfer.pk)
    answers: dict[int, Any] = {}
    try:
        with transaction.atomic(), recorded_together(), counted_together():
            for number in order:
                answers[number] = _take(steps[number])
    except BaseException:
        for step, was in zip(steps, before, strict=True):
            # Its rate limit is what the connection was told meanwhile, in another thread.
            step.transfer.__dict__.update(was | {"rate_limit": step.transfer.rate_limit})
        raise
    return [answers[number] for number in range(len(steps))]


def _take(step: Step) -> Any:
    try:
        return step.call()
    except StatusConflict as conflict:  # others go on: it has changed nothing
        return conflict


_together = Together[Step, Any](take_steps, VERBS_AT_ONCE)
