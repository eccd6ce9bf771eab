"""What a stale connection, or a database that goes away, must never do to a file."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError

from agent.wire.messages import Abort, Ack, Cancel, Offer, Request, Start
from tests.transfers.test_intake import (
    DATA,
    EPOCH,
    PATIENCE,
    Agent,
    House,
    house,
    silent,
)
from transfers import arrival as arrival_module
from transfers import dialogue as dialogue_module
from transfers.inbox import LinkLost
from transfers.models import Transfer

__all__ = ["house"]  # the fixture

pytestmark = pytest.mark.django_db(transaction=True)

AWAY = OperationalError("the server closed the connection unexpectedly")


async def take_over(house: House, row: Transfer) -> "asyncio.Task[None]":
    """A newer connection of the client claims the transfer and begins."""
    fresh = await house.fresh(row)
    await sync_to_async(fresh.claim)(EPOCH + 1)
    return asyncio.create_task(house.agent.attend(fresh, EPOCH + 1).run())


async def asked_and_silent(house: House, row: Transfer) -> tuple[Agent, "asyncio.Task[None]"]:
    """An older connection whose agent has not answered yet; the house has a new agent."""
    old = house.agent
    old.on = {Request: silent, Cancel: old.confirm}
    task = await house.start(row)
    await old.hear(Request)
    house.agent = Agent(DATA)
    return old, task


async def ended(task: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(PATIENCE):
        await task


async def test_a_late_abort_of_an_older_connection_leaves_the_landed_file(house: House) -> None:
    row = await house.row()
    old, task = await asked_and_silent(house, row)
    await ended(await take_over(house, row))
    old.say(Abort(row.pk, "unreadable"))
    await ended(task)
    assert (await house.fresh(row)).status == "completed"
    assert house.landed == [DATA]


@pytest.mark.parametrize("sends", [Agent.send_three, Agent.send_on], ids=["some", "all"])
async def test_a_late_offer_of_an_older_connection_leaves_the_partial_file(
    house: House, sends: Callable[[Agent, Start], None]
) -> None:
    row = await house.row()
    old, task = await asked_and_silent(house, row)
    old.on[Start] = partial(sends, old)
    house.agent.on[Start] = house.agent.send_three
    house.agent.on[Ack] = silent
    newer = await take_over(house, row)
    await house.agent.hear(Ack)
    house.agent.intake.leave(LinkLost())
    await ended(newer)
    old.say(Offer(row.pk, "till.db", len(DATA), 0, "1"))
    await ended(task)
    assert (await house.fresh(row)).checkpoint == 3000
    assert house.partial(row) == DATA[:3000]


async def test_a_link_that_is_lost_after_the_end_of_its_transfer_fails_nothing_inside(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    row, task = await house.begun()
    await house.cancel(row)
    house.intake.leave(LinkLost())
    await ended(task)
    assert (await house.fresh(row)).status == "cancelled"
    assert house.partial(row) is None
    assert "failed inside" not in caplog.text


async def test_an_older_connection_that_waits_in_vain_leaves_what_has_landed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await house.row()
    monkeypatch.setattr(dialogue_module, "ANSWER_SECONDS", 0.5)
    _, task = await asked_and_silent(house, row)
    await ended(await take_over(house, row))
    await ended(task)
    assert (await house.fresh(row)).status == "completed"
    assert house.landed == [DATA]


async def test_a_database_that_goes_away_before_the_last_word_leaves_the_landed_file(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row stays `verifying`, and the next look completes it."""

    def landed(transfer: Transfer, epoch: int) -> None:
        raise AWAY

    with monkeypatch.context() as patch:
        patch.setattr(Transfer, "landed", landed)
        transfer = await house.run(await house.row())
    assert transfer.status == "verifying"
    assert house.landed == [DATA]
    assert await sync_to_async(transfer.finish_landing)()
    assert (await house.fresh(transfer)).status == "completed"


async def test_a_database_whose_answer_is_lost_after_the_last_word_leaves_the_landed_file(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    landed = Transfer.landed

    def unheard(transfer: Transfer, epoch: int, **counts: Any) -> None:
        landed(transfer, epoch, **counts)
        raise AWAY

    monkeypatch.setattr(Transfer, "landed", unheard)
    transfer = await house.run(await house.row())
    assert transfer.status == "completed"
    assert house.landed == [DATA]


async def test_a_database_that_is_away_for_a_moment_fails_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the intake leaves, a later look takes up again."""
    monkeypatch.setattr(arrival_module, "PROGRESS_SECONDS", 0.0)

    def progressed(transfer: Transfer, epoch: int, **values: Any) -> None:
        raise AWAY

    row = await house.row()
    with monkeypatch.context() as patch:
        patch.setattr(Transfer, "progressed", progressed)
        left = await house.run(row)
    assert (left.status, left.error_code) == ("receiving", "")
    waiting = await sync_to_async(lambda: list(Transfer.objects.waiting_for("client1", EPOCH)))()
    assert waiting == [left]
    house.agent = Agent(DATA)
    assert (await house.run(left)).status == "completed"
    assert house.landed == [DATA]


async def test_chunks_of_others_count_as_life_while_an_offer_is_awaited(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow uplink an offer waits behind the chunks of other transfers."""
    monkeypatch.setattr(dialogue_module, "ANSWER_SECONDS", 0.05)
    row = await house.row()
    house.agent.on[Request] = silent
    await sync_to_async(row.claim)(EPOCH)
    task = asyncio.create_task(house.agent.attend(row, EPOCH).run())
    await house.agent.hear(Request)
    for _ in range(50):  # ten times as long as it would wait in silence
        house.agent.pulse.beat(chunk=True)
        await asyncio.wait((task,), timeout=0.01)
    house.agent.offer(house.agent.told(Request)[0])
    await ended(task)
    assert (await house.fresh(row)).status == "completed"
