"""The doorbell: the only code that knows how the connections of a client are told to look.

Ringing says "look at your rows", and nothing else: the row is the truth. The connections of this process
are rung at once; where several processes serve, each of them hears of it over the channel layer, as one
member of one group, and rings its own. A ring may get lost there (the layer is at most once, and silent
about it), so connections also look when they begin, and the roll call finds those with something to do.

Channels' way, a group for each client and a channel for each connection, does not bear many: the in-memory
layer goes through all of them at each ring (5,000 that connected at once cost 24 ms of CPU each, and 2,000
that were idle kept 4 % of a core busy with joining their groups again).
"""

import asyncio
import contextlib
import logging
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import BaseChannelLayer, InMemoryChannelLayer, get_channel_layer

SERVERS = "silentmode.servers"
"""The group of all processes."""

JOIN_SECONDS = 15.0
"""Membership of a group ends by itself, or with a Redis that is restarted: join again so often."""

LAYER_SECONDS = 2.0
"""How long to wait for the channel layer, which may hang with its Redis."""

log = logging.getLogger(__name__)

Ring = Callable[[], None]


class Doorbells:
    """The connections of one process, by their clients."""

    def __init__(self) -> None:
        self._rings: dict[str, dict[Ring, asyncio.AbstractEventLoop]] = defaultdict(dict)

    def enter(self, client_id: str, ring: Ring) -> None:
        """From now on `ring` is called, in the event loop of this caller, when it is rung for the client."""
        self._rings[client_id][ring] = asyncio.get_running_loop()

    def leave(self, client_id: str, ring: Ring) -> None:
        rings = self._rings[client_id]
        rings.pop(ring, None)
        if not rings:
            del self._rings[client_id]

    def ring(self, client_id: str) -> None:
        """From any thread."""
        for ring, loop in list(self._rings.get(client_id, {}).items()):
            with contextlib.suppress(RuntimeError):  # that loop has ended, and its connections too
                loop.call_soon_threadsafe(ring)


here = Doorbells()
"""Those of this process."""

_this_process = uuid.uuid4().hex


def _shared_layer() -> BaseChannelLayer | None:
    """What the processes share; None: there is only this one."""
    layer = get_channel_layer()
    return None if isinstance(layer, InMemoryChannelLayer) else layer


async def ring(client_id: str) -> None:
    """Have the client's connections, in whichever process they are, look at its rows."""
    here.ring(client_id)
    if (layer := _shared_layer()) is not None:
        await _tell(layer, client_id)


def ring_from_sync(client_id: str) -> None:
    """As `ring`, from a thread without an event loop."""
    here.ring(client_id)
    if (layer := _shared_layer()) is not None:
        async_to_sync(_tell)(layer, client_id)


async def _tell(layer: BaseChannelLayer, client_id: str) -> None:
    async with _only_logged(f"ring for {client_id}"):
        ring = {"type": "ring", "client": client_id, "from": _this_process}
        await layer.group_send(SERVERS, ring)


async def listen() -> None:
    """Ring here for what other processes ring for, until cancelled. Raises what the layer does."""
    if (layer := _shared_layer()) is None:
        await asyncio.Event().wait()
        return
    channel = await layer.new_channel()
    async with asyncio.TaskGroup() as group:
        group.create_task(_stay_in_group(layer, channel))
        while True:
            _heard(await layer.receive(channel))


async def _stay_in_group(layer: BaseChannelLayer, channel: str) -> None:
    while True:
        async with _only_logged("join the group of servers"):
            await layer.group_add(SERVERS, channel)
        await asyncio.sleep(JOIN_SECONDS)


def _heard(ring: dict[str, Any]) -> None:
    if ring["from"] != _this_process:
        here.ring(ring["client"])


@contextlib.asynccontextmanager
async def _only_logged(what: str) -> AsyncIterator[None]:
    """A doorbell that is out of order, or hangs, is no reason to stop: the roll call does its work."""
    try:
        async with asyncio.timeout(LAYER_SECONDS):
            yield
    except Exception:
        log.warning("could not %s; the roll call will do", what, exc_info=True)
