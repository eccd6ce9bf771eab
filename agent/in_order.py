"""Calls that block, in threads: those of one transfer one after the other, those of several side by side."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

MOST_THREADS = 1000
"""One for each that is at work, so a disk that hangs keeps those of other disks from nothing. They stay for
the next one: a thread of its own for each small file was an eighth of what the agent had to do for it."""

_threads = ThreadPoolExecutor(max_workers=MOST_THREADS, thread_name_prefix="reading")

R = TypeVar("R")


class InOrder:
    """Calls are made in the order in which they were submitted, and never two at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._is_at_work = False

    def submit(self, call: Callable[[], R]) -> "Future[R]":
        """Its result, or what it raised; one that is cancelled before its turn is not made."""
        future: Future[R] = Future()
        with self._lock:
            self._calls.append((future, call))
            if self._is_at_work:
                return future
            self._is_at_work = True
        _threads.submit(self._work)
        return future

    def _work(self) -> None:
        while (following := self._next()) is not None:
            future, call = following
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # for whoever waits for it
                future.set_exception(error)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._lock:
            self._is_at_work = bool(self._calls)
            return self._calls.popleft() if self._calls else None
