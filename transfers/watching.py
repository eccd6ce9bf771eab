"""Who watches for as long as it lasts, an open page or a stream of events: how many each user has, and where
they look at the database."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from channels.db import database_sync_to_async

THREADS = 2
"""Not the one thread of the database that transfers wait for: a look takes up to 50 ms."""

P = ParamSpec("P")
R = TypeVar("R")


class Watchers:
    """Those of one kind, in this process: so many for each user."""

    def __init__(self, name: str, most: int) -> None:
        self.most = most
        self._open: Counter[int] = Counter()
        self._lookers = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix=name)

    def has_room(self, user: int) -> bool:
        """Whether this user may have one more."""
        return self._open[user] < self.most

    @contextmanager
    def counted(self, user: int) -> Iterator[None]:
        """One more, in here."""
        self._open[user] += 1
        try:
            yield
        finally:
            self._open[user] -= 1
            if not self._open[user]:
                del self._open[user]

    async def look(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call what asks the database."""
        call = database_sync_to_async(function, thread_sensitive=False, executor=self._lookers)
        result: R = await call(*args, **kwargs)
        return result
