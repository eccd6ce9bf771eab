"""Calls of the database that come at once, made together: after a restart thousands connect in seconds.

Each hop to the database's one thread, each query and each commit costs about as much for one as for
hundreds.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from channels.db import database_sync_to_async
from django.db import InterfaceError, OperationalError

A = TypeVar("A")
R = TypeVar("R")

MOST = 500
"""In one call: so many names are in one query."""


ONE_TOO_MANY = frozenset({"40001", "40P01"})
"""PostgreSQL's codes for a transaction that got in the way of another one: it can be done again."""


class Together(Generic[A, R]):
    """`call` is given those that wait, and answers each, in their order: with a result, or an exception.

    One call at a time: who comes while it is under way is in the next one.
    """

    def __init__(
        self, call: Callable[[list[A]], Sequence[R | Exception]], most: int = MOST
    ) -> None:
        self._call = call
        self._most = most
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, one: A) -> R:
        """Its answer. Raises what it was answered with, or what the call raised."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, answer))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            batch = [
                (one, answer) for one, answer in batch if not answer.done()
            ]  # who has not left
            results = await self._results([one for one, _ in batch])
            for (_, answer), result in zip(batch, results, strict=True):
                if answer.done():
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    async def _results(self, ones: list[A]) -> Sequence[R | Exception]:
        """Where it fails as a whole, each alone: what the database does not take of one harms no other."""
        try:
            return await database_sync_to_async(self._call)(ones) if ones else ()
        except Exception as error:
            if len(ones) == 1 or _is_away(error):
                return [error] * len(ones)
        return [result for one in ones for result in await self._results([one])]


def _is_away(error: Exception) -> bool:
    """Whether the database would not answer another question either."""
    sqlstate = getattr(error.__cause__, "sqlstate", None)
    return isinstance(error, OperationalError | InterfaceError) and sqlstate not in ONE_TOO_MANY
