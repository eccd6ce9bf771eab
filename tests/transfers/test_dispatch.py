"""The doorbell: rung for one client, heard by its connections, and never in anybody's way."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer, channel_layers
from pytest_django import Settings

from transfers import dispatch
from transfers.dispatch import Doorbells, here

PATIENCE = 20.0


class Bell:
    """A connection: how often it was rung for, and in which thread."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()
        self.rings = 0
        self.thread: int | None = None

    def ring(self) -> None:
        self.rings += 1
        self.thread = threading.get_ident()
        self.rung.set()

    async def heard(self) -> bool:
        """Whether it is rung for soon: what was rung before is heard after one round of the event loop."""
        await asyncio.sleep(0)
        return self.rung.is_set()


@asynccontextmanager
async def connection(client_id: str = "till") -> AsyncIterator[Bell]:
    bell = Bell()
    here.enter(client_id, bell.ring)
    try:
        yield bell
    finally:
        here.leave(client_id, bell.ring)


async def test_a_ring_reaches_all_connections_of_its_client_and_no_other() -> None:
    async with connection() as one, connection() as two, connection("till-2") as other:
        await dispatch.ring("till")
        assert [await each.heard() for each in (one, two, other)] == [True, True, False]


async def test_entering_again_does_not_ring_twice() -> None:
    async with connection() as bell:
        here.enter("till", bell.ring)
        await dispatch.ring("till")
        assert await bell.heard()
        assert bell.rings == 1


async def test_who_left_hears_nothing_and_leaves_nothing_behind() -> None:
    bells, bell = Doorbells(), Bell()
    bells.enter("till", bell.ring)
    bells.leave("till", bell.ring)
    bells.leave("till", bell.ring)
    bells.ring("till")
    assert not await bell.heard()
    assert not bells._rings


async def test_who_is_rung_for_from_a_thread_hears_it_in_its_own() -> None:
    async with connection() as bell:
        await sync_to_async(dispatch.ring_from_sync, thread_sensitive=False)("till")
        async with asyncio.timeout(PATIENCE):
            await bell.rung.wait()
        assert bell.thread == threading.get_ident()


def test_ringing_for_nobody_is_no_error() -> None:
    dispatch.ring_from_sync("nobody")


def test_a_connection_whose_event_loop_has_ended_is_nobody() -> None:
    bells, bell = Doorbells(), Bell()

    async def enter() -> None:
        bells.enter("till", bell.ring)

    asyncio.run(enter())
    bells.ring("till")
    assert bell.rings == 0


# Several processes -------------------------------------------------------------------------------


class Shared(InMemoryChannelLayer):
    """Stands for Redis: two that listen to it are two processes."""


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    monkeypatch.setattr(dispatch, "InMemoryChannelLayer", type(None))
    layer = Shared()
    before = channel_layers.backends
    channel_layers.backends = {"default": layer}
    yield layer
    channel_layers.backends = before


@asynccontextmanager
async def listening(layer: Shared) -> AsyncIterator[None]:
    task = asyncio.create_task(dispatch.listen())
    async with asyncio.timeout(PATIENCE):
        while dispatch.SERVERS not in layer.groups:
            await asyncio.sleep(0)
    yield
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_another_process_rings_for_is_rung_for_here(layer: Shared) -> None:
    async with listening(layer), connection() as mine, connection("till-2") as other:
        ring = {"type": "ring", "client": "till", "from": "another process"}
        await layer.group_send(dispatch.SERVERS, ring)
        async with asyncio.timeout(PATIENCE):
            await mine.rung.wait()
        assert not await other.heard()


async def test_the_other_processes_are_told_and_this_one_rings_once(layer: Shared) -> None:
    channel = await layer.new_channel()
    await layer.group_add(dispatch.SERVERS, channel)
    async with listening(layer), connection() as bell:
        await dispatch.ring("till")
        assert await bell.heard()
        told = await layer.receive(channel)
        assert told["client"] == "till"
        # Its own channel has the same, and is read before that of somebody else's ring.
        await layer.group_send(dispatch.SERVERS, {**told, "from": "another process"})
        bell.rung.clear()
        async with asyncio.timeout(PATIENCE):
            await bell.rung.wait()
        assert bell.rings == 2


async def test_a_membership_that_has_ended_is_renewed(
    layer: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "JOIN_SECONDS", 0.01)
    async with listening(layer):
        layer.groups.clear()  # as a Redis that is restarted forgets it
        async with asyncio.timeout(PATIENCE):
            while dispatch.SERVERS not in layer.groups:
                await asyncio.sleep(0.01)


async def _down(*args: Any) -> None:
    raise ConnectionError("no Redis")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("transfers")
    logger.addHandler(caplog.handler)  # ours do not propagate
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("how", [dispatch.ring, sync_to_async(dispatch.ring_from_sync)])
async def test_a_layer_that_is_down_is_logged_and_this_process_rings_all_the_same(
    layer: Shared, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture, how: Any
) -> None:
    monkeypatch.setattr(Shared, "group_send", _down)
    async with connection() as bell:
        await how("till")
        assert await bell.heard()
    assert "could not ring for till" in said.text


async def test_a_group_that_cannot_be_joined_is_tried_again(
    layer: Shared, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatch, "JOIN_SECONDS", 0.01)
    with monkeypatch.context() as broken:
        broken.setattr(Shared, "group_add", _down)
        task = asyncio.create_task(dispatch.listen())
        async with asyncio.timeout(PATIENCE):
            while "could not join the group of servers" not in said.text:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(PATIENCE):
        while dispatch.SERVERS not in layer.groups:
            await asyncio.sleep(0.01)
    task.cancel()


async def test_without_a_layer_this_process_rings(settings: Settings) -> None:
    settings.CHANNEL_LAYERS = {}
    async with connection() as bell:
        await dispatch.ring("till")
        assert await bell.heard()


def test_the_group_of_servers_is_one_that_layers_take() -> None:
    assert InMemoryChannelLayer().require_valid_group_name(dispatch.SERVERS)
