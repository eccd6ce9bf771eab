"""The row of one transfer, held by one connection: its verbs, called in the database's thread."""

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from channels.db import database_sync_to_async

from .models import Transfer

P = ParamSpec("P")
R = TypeVar("R")


class Claim:
    """What the connection of `epoch` may do with a transfer for as long as the row says it is its own."""

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
        return await database_sync_to_async(verb)(self.transfer, self.epoch, *args, **kwargs)

    async def look(self) -> Transfer:
        """The row as it is now, whoever holds it."""
        await database_sync_to_async(self.transfer.refresh_from_db)()
        return self.transfer
