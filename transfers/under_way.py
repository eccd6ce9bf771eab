"""How far the transfers of this process are: fresher than their rows, which say so every two seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

_here: dict[UUID, "Received"] = {}


class Received:
    """The bytes that one connection has received of a transfer."""

    count = 0


def received(transfer: UUID) -> int:
    """By now; 0 where another process is at it, or none."""
    at_it = _here.get(transfer)
    return at_it.count if at_it else 0


@contextmanager
def here(transfer: UUID) -> Iterator[Received]:
    """It is this process' until the end of this, or until a newer connection of its agent is at it."""
    mine = _here[transfer] = Received()
    try:
        yield mine
    finally:
        if _here.get(transfer) is mine:
            del _here[transfer]
