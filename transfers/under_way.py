"""How far the transfers of this process are: fresher than their rows, which say so every two seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

_received: dict[UUID, int] = {}


def note(transfer: UUID, received: int) -> None:
    """So many bytes have been received by now."""
    _received[transfer] = received


def received(transfer: UUID) -> int:
    """By now; 0 where another process is at it, or none."""
    return _received.get(transfer, 0)


@contextmanager
def here(transfer: UUID) -> Iterator[None]:
    """It is this process' until the end of this."""
    try:
        yield
    finally:
        _received.pop(transfer, None)
