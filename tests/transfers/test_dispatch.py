"""The doorbell: rung for one client, heard by its connections, and never in anybody's way."""

import asyncio
import logging
import uuid
from collections.abc import Callable

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import InMemoryChannelLayer, get_channel_layer
from pytest_django import Settings

from transfers import dispatch


@pytest.fixture
def client_id() -> str:
    """The layer outlives a test, so each has a client of its own."""
    return f"till-{uuid.uuid4()}"


join, leave = async_to_sync(dispatch.join), async_to_sync(dispatch.leave)


async def heard(channel: str) -> bool:
    layer = get_channel_layer()
    assert layer is not None
    try:
        async with asyncio.timeout(0.05):
            return bool(await layer.receive(channel) == dispatch.RING)
    except TimeoutError:
        return False


async def connection(client_id: str) -> str:
    layer = get_channel_layer()
    assert layer is not None
    channel = await layer.new_channel()
    await dispatch.join(client_id, channel)
    return channel


async def test_a_ring_reaches_all_connections_of_its_client_and_no_other(client_id: str) -> None:
    mine = [await connection(client_id) for _ in range(2)]
    other = await connection(f"{client_id}-2")
    await dispatch.ring(client_id)
    assert [await heard(channel) for channel in mine] == [True, True]
    assert not await heard(other)


async def test_joining_again_does_not_ring_twice(client_id: str) -> None:
    channel = await connection(client_id)
    await dispatch.join(client_id, channel)
    await dispatch.ring(client_id)
    assert await heard(channel)
    assert not await heard(channel)


async def test_who_left_hears_nothing(client_id: str) -> None:
    channel = await connection(client_id)
    await dispatch.leave(client_id, channel)
    await dispatch.ring(client_id)
    assert not await heard(channel)


async def test_it_can_be_rung_from_synchronous_code(client_id: str) -> None:
    channel = await connection(client_id)
    await sync_to_async(dispatch.ring_from_sync)(client_id)
    assert await heard(channel)


def test_ringing_for_nobody_is_no_error(client_id: str) -> None:
    dispatch.ring_from_sync(client_id)


@pytest.mark.parametrize(
    ("verb", "call", "said"),
    [
        (dispatch.ring_from_sync, "group_send", "could not ring for {}"),
        (lambda client: join(client, "a.channel"), "group_add", "could not join the group of {}"),
        (
            lambda client: leave(client, "a.channel"),
            "group_discard",
            "could not leave the group of {}",
        ),
    ],
    ids=["ring", "join", "leave"],
)
def test_a_layer_that_is_down_is_logged_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    client_id: str,
    verb: Callable[[str], None],
    call: str,
    said: str,
) -> None:
    async def down(*args: object) -> None:
        raise ConnectionError("no Redis")

    monkeypatch.setattr(InMemoryChannelLayer, call, down)
    logger = logging.getLogger("transfers")
    logger.addHandler(caplog.handler)  # ours do not propagate
    try:
        verb(client_id)
    finally:
        logger.removeHandler(caplog.handler)
    assert said.format(client_id) in caplog.text


def test_without_a_layer_a_ring_is_logged_and_stops_nothing(
    settings: Settings, client_id: str
) -> None:
    settings.CHANNEL_LAYERS = {}
    dispatch.ring_from_sync(client_id)
    join(client_id, "a.channel")
    leave(client_id, "a.channel")


@pytest.mark.parametrize("client_id", ["a", "x" * 64, "A.b-c_d", "0"])
def test_every_client_id_makes_a_group_that_layers_take(client_id: str) -> None:
    assert InMemoryChannelLayer().require_valid_group_name(dispatch.group_of(client_id))
