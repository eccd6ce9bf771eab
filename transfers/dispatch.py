"""The doorbell: the only code that knows group names and channel-layer messages.

Every connected agent's consumer is in one group a client. Ringing says "look at your rows", and
nothing else: the row is the truth. A ring may get lost (the layer is at most once, and silent about
it), so consumers also look at every connect and every heartbeat.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import BaseChannelLayer, get_channel_layer

RING: dict[str, Any] = {"type": "doorbell"}
"""Handled by `AgentConsumer.doorbell`: the name of a handler comes from the type."""

log = logging.getLogger(__name__)


def _layer() -> BaseChannelLayer:
    layer = get_channel_layer()
    if layer is None:
        raise RuntimeError("CHANNEL_LAYERS has no default layer")
    return layer


def group_of(client_id: str) -> str:
    """The group of a client's connections. Client ids have only letters that groups allow."""
    return f"agent.{client_id}"


async def join(client_id: str, channel_name: str) -> None:
    """Hear the doorbell of a client. Membership ends by itself: join again at each heartbeat."""
    with _only_logged(f"join the group of {client_id}"):
        await _layer().group_add(group_of(client_id), channel_name)


async def leave(client_id: str, channel_name: str) -> None:
    with _only_logged(f"leave the group of {client_id}"):
        await _layer().group_discard(group_of(client_id), channel_name)


async def ring(client_id: str) -> None:
    """Have the client's connection, in whichever process it is, look at its rows."""
    with _only_logged(f"ring for {client_id}"):
        await _layer().group_send(group_of(client_id), RING)


ring_from_sync = async_to_sync(ring)


@contextlib.contextmanager
def _only_logged(what: str) -> Iterator[None]:
    """A doorbell that is out of order is no reason to stop: the next heartbeat does its work."""
    try:
        yield
    except Exception:
        log.warning("could not %s; heartbeats will do", what, exc_info=True)
