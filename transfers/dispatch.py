"""The doorbell: the only code that knows group names and channel-layer messages.

Every connected agent's consumer is in one group a client. Ringing says "look at your rows", and
nothing else: the row is the truth. A ring may get lost (the layer is at most once, and silent about
it), so connections also look when they begin, and the roll call finds those with something to do.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import BaseChannelLayer, get_channel_layer

RING: dict[str, Any] = {"type": "doorbell"}
"""What `listen` hears; there is no other message."""

LAYER_SECONDS = 2.0
"""How long to wait for the channel layer, which may hang with its Redis."""

log = logging.getLogger(__name__)


def _layer() -> BaseChannelLayer:
    layer = get_channel_layer()
    if layer is None:
        raise RuntimeError("CHANNEL_LAYERS has no default layer")
    return layer


def group_of(client_id: str) -> str:
    """The group of a client's connections. Client ids have only letters that groups allow."""
    return f"agent.{client_id}"


async def new_channel() -> str:
    """The name of a channel for one connection."""
    return str(await _layer().new_channel())


async def listen(channel_name: str, ring: Callable[[], None]) -> None:
    """Call `ring` for whatever is heard there, until cancelled. Raises what the layer does."""
    layer = _layer()
    while True:
        await layer.receive(channel_name)
        ring()


async def join(client_id: str, channel_name: str) -> None:
    """Hear the doorbell of a client. Membership ends by itself: join again now and then."""
    async with _only_logged(f"join the group of {client_id}"):
        await _layer().group_add(group_of(client_id), channel_name)


async def leave(client_id: str, channel_name: str) -> None:
    async with _only_logged(f"leave the group of {client_id}"):
        await _layer().group_discard(group_of(client_id), channel_name)


async def ring(client_id: str) -> None:
    """Have the client's connection, in whichever process it is, look at its rows."""
    async with _only_logged(f"ring for {client_id}"):
        await _layer().group_send(group_of(client_id), RING)


ring_from_sync = async_to_sync(ring)


@contextlib.asynccontextmanager
async def _only_logged(what: str) -> AsyncIterator[None]:
    """A doorbell that is out of order, or hangs, is no reason to stop: the roll call does its work."""
    try:
        async with asyncio.timeout(LAYER_SECONDS):
            yield
    except Exception:
        log.warning("could not %s; the roll call will do", what, exc_info=True)
