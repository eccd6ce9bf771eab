"""The server's process under daphne: tending the rows while it runs, draining when it stops.

Daphne 4.2.3 has no ASGI lifespan, so both hang on Twisted's reactor. Its own `kill_all_applications`
cannot be relied on to drain, and `doorkeeper.Server` has none: it raises KeyError, with nothing cancelled,
beside an HTTP connection whose answer is complete, and it waits for the first application only (a gather
ends with the first cancellation). So on SIGTERM and Ctrl-C the agents' connections are cancelled here, which
they use to say good-bye and to keep what has arrived (`AgentConsumer`, `Attendant.leave`), and are waited
for, as are the requests under way (`draining`); new ones are refused meanwhile, and the process ends should
a disk or a database hang.
"""

import asyncio
import contextlib
import gc
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from functools import partial

from channels.db import database_sync_to_async
from django.utils import timezone
from twisted.internet.defer import Deferred

from . import dispatch, recovery, webhooks
from .models import Client

STOPS = "The server is being stopped."

RETRY_AFTER = 5
"""Seconds, for the `Retry-After` of a server that stops: it is usually back by then."""

STOP_SECONDS = 9.5
"""From the signal to the end of the process at the latest."""

TEND_SECONDS = 5.0
"""How often this process looks at rows that no connection looks after."""

RING_SECONDS = 2.0
"""How often this process looks for clients whose connections were to look at their rows. Without Redis
nothing else tells it what a management command has done: revoked a client, say."""

RING_AGAIN = timedelta(seconds=3 * RING_SECONDS)
"""A ring costs one look, so each is heard about three times, and a round that failed loses none."""

TELL_SECONDS = 3.0
"""How often this process looks for events that a webhook is to be told of."""

GARBAGE = 5_000, 10, 10
"""New objects before the youngest generation is looked at, and how often that before each older one. Each
connection that has ended leaves some 20 KiB that only such a look finds: Twisted's, daphne's, autobahn's."""

log = logging.getLogger(__name__)

_stopping = threading.Event()


def is_stopping() -> bool:
    """Whether the process is about to end: no new work, then."""
    return _stopping.is_set()


_staying: dict["asyncio.Task[object] | None", float | None] = {}
"""The tasks that the process waits for, and how long each may go on when it stops, in seconds."""

_all_left = asyncio.Event()
"""Set once, while stopping: those who leave before leave others behind."""


@contextlib.contextmanager
def staying(seconds: float | None) -> Iterator[None]:
    """The process does not end while this task is in here, for `STOP_SECONDS` at the most.

    It is cancelled so many seconds after the process was told to stop; None: it is not.
    """
    task = asyncio.current_task()
    _staying[task] = seconds
    try:
        yield
    finally:
        del _staying[task]
        _look_around()


def _look_around() -> None:
    if is_stopping() and not _staying:
        _all_left.set()


def install() -> None:
    """Once, before daphne runs the reactor."""
    from twisted.internet import reactor  # noqa: PLC0415  # daphne has chosen which by now

    reactor.callWhenRunning(_start)
    reactor.addSystemEventTrigger("before", "shutdown", _stop)  # type: ignore[arg-type]


def _start() -> None:
    # A look for cycles stops everything: 0.47 s beside 5,000 agents, whose connections came in 9 s of which
    # 1.8 were such looks. What the start has made is never looked at again, and the rest less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    tend = database_sync_to_async(recovery.tend)
    tell = database_sync_to_async(partial(webhooks.tell, is_stopping), thread_sensitive=False)
    for what, do, seconds in (
        ("look after the rows", tend, TEND_SECONDS),
        ("ring for who was not heard", _ring_late, RING_SECONDS),
        ("hear whom other processes ring for", dispatch.listen, RING_SECONDS),
        ("tell the webhooks", tell, TELL_SECONDS),
    ):
        _tasks.add(asyncio.get_event_loop().create_task(_for_ever(what, do, seconds)))


_tasks: set["asyncio.Task[None]"] = set()
"""An event loop holds no tasks itself."""


async def _for_ever(what: str, do: Callable[[], Awaitable[object]], seconds: float) -> None:
    while not is_stopping():
        try:
            await do()
        except Exception:  # say, the database or Redis restarts: the next round does it
            log.exception("could not %s", what)
        await asyncio.sleep(seconds)


async def _ring_late() -> None:
    """Ring again for whom it was rung lately, as that may have been in a process that none of ours hears."""
    since = timezone.now() - RING_AGAIN
    for client_id in await database_sync_to_async(Client.rung_since)(since):
        await dispatch.ring(client_id)


def _stop() -> "Deferred[bool]":
    """Twisted waits for what comes of this before it stops the reactor."""
    _stopping.set()
    log.info("Stopping: keeping what has arrived")
    # Threads may hang in a write or a query; the interpreter would wait for them.
    last_resort = threading.Timer(STOP_SECONDS, os._exit, (1,))
    last_resort.daemon = True
    last_resort.start()
    for task, seconds in _staying.items():
        if task is not None and seconds is not None:
            asyncio.get_event_loop().call_later(seconds, task.cancel)
    _look_around()
    return Deferred.fromFuture(asyncio.ensure_future(_all_left.wait()))
