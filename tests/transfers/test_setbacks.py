"""Errors that may pass: tried again after growing pauses, a few times, and no longer than wanted."""

import errno
import os
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone
from pytest_django import Settings

from agent.wire.errors import ERRORS
from agent.wire.messages import Abort, Ack, Request, Start
from tests.transfers.test_attendant import Connection, connection, fresh, wanted
from tests.transfers.test_intake import DATA, Agent, House, house
from transfers import limits, recovery, storage
from transfers.limits import Limits, Spare, spare_of_this_process
from transfers.models import Client, Source, Transfer, request_file
from transfers.models.row import foreseen
from transfers.turns import of_this_process

__all__ = ["connection", "house"]  # the fixtures

pytestmark = pytest.mark.django_db(transaction=True)

MIB = 1 << 20

WAITING = ("quota_exceeded", "busy")
"""No faults: a turn that has not come yet, however often that is said."""

PASSING = [code for code, info in ERRORS.items() if info.retryable and code not in WAITING]


@pytest.fixture
def transfer(client1: Client) -> Transfer:
    """Held by the connection of epoch 5, with a checkpoint."""
    return Transfer.objects.create(
        client=client1, status="receiving", epoch=5, size=100, received=70, checkpoint=64
    )


@pytest.mark.parametrize("code", PASSING)
def test_an_error_that_may_pass_waits_with_what_arrived(transfer: Transfer, code: str) -> None:
    before = timezone.now()
    transfer.fail(5, code, "It may pass.")
    assert (transfer.status, transfer.received, transfer.setbacks) == ("interrupted", 64, 1)
    assert (transfer.error_code, transfer.error_detail) == (code, "It may pass.")
    assert transfer.finished_at is None
    assert transfer.next_attempt_at is not None
    assert transfer.next_attempt_at >= before + timedelta(seconds=5)


@pytest.mark.parametrize("code", WAITING)
def test_waiting_for_a_turn_uses_up_no_retry(
    transfer: Transfer, settings: Settings, code: str
) -> None:
    settings.RETRIES = 0
    for attempt in range(3):
        transfer.fail(5 + attempt, code)
        assert (transfer.status, transfer.setbacks) == ("interrupted", 0)
        assert transfer.next_attempt_at is not None
        assert transfer.next_attempt_at > timezone.now()
        transfer.claim(6 + attempt)


def test_bytes_that_cannot_be_trusted_are_not_kept(transfer: Transfer) -> None:
    transfer.fail(5, "storage_error", keep=False)
    assert (transfer.status, transfer.received, transfer.checkpoint) == ("queued", 0, 0)


def test_the_pauses_grow_and_have_a_limit(transfer: Transfer, settings: Settings) -> None:
    settings.RETRIES, settings.RETRY_PAUSE = 3, 10.0
    pauses = []
    for attempt in range(3):
        transfer.fail(5 + attempt, "timed_out")
        assert transfer.next_attempt_at is not None
        pauses.append(round((transfer.next_attempt_at - timezone.now()).total_seconds()))
        transfer.claim(6 + attempt)
    assert pauses == [10, 30, 90]
    transfer.fail(8, "timed_out")
    assert (transfer.status, transfer.error_code) == ("failed", "timed_out")
    assert transfer.finished_at is not None


def test_the_next_offer_clears_the_error_and_a_retry_the_count(transfer: Transfer) -> None:
    transfer.fail(5, "unreadable")
    transfer.claim(6)
    transfer.offered(6, Source("f", 100, "1"), 64)
    assert (transfer.error_code, transfer.error_detail, transfer.next_attempt_at) == ("", "", None)
    transfer.fail(6, "not_found")
    transfer.retry()
    assert (transfer.status, transfer.setbacks) == ("queued", 0)


def test_who_pauses_is_not_asked_for_until_it_is_time(transfer: Transfer) -> None:
    transfer.fail(5, "unreadable")
    assert not Transfer.objects.waiting_for("client1", 6)
    assert Transfer.objects.outlook("client1").next_event == transfer.next_attempt_at
    Transfer.objects.update(next_attempt_at=timezone.now())
    assert list(Transfer.objects.waiting_for("client1", 6)) == [transfer]


def test_a_deadline_in_a_pause_ends_it_and_says_what_went_wrong(transfer: Transfer) -> None:
    transfer.fail(5, "unreadable", "The drive sleeps.")
    Transfer.objects.update(deadline=timezone.now())
    assert Transfer.objects.expire_due() == 1
    transfer.refresh_from_db()
    assert (transfer.status, transfer.error_code) == ("expired", "expired")
    assert "unreadable: The drive sleeps." in transfer.error_detail


async def test_a_running_server_expires_what_a_client_that_is_away_was_asked_for(
    client1: Client,
) -> None:
    soon = timezone.now() + timedelta(milliseconds=1)
    asked = await sync_to_async(request_file)(client1, deadline=soon)
    report = await sync_to_async(recovery.tend)()
    assert report.expired == 1
    assert (await fresh(asked)).status == "expired"


def test_a_running_server_interrupts_what_a_dead_one_left(transfer: Transfer) -> None:
    assert recovery.tend().interrupted == 0, "its client may be online in another process"
    Client.objects.update(online_until=timezone.now() - timedelta(seconds=1))
    assert recovery.tend().interrupted == 1
    transfer.refresh_from_db()
    assert transfer.status == "interrupted"


async def test_a_connection_asks_again_once_the_pause_is_over(
    connection: Connection, settings: Settings
) -> None:
    settings.RETRY_PAUSE = 0.1
    asked = await wanted(connection.client)
    await connection.open()
    await connection.hear()
    connection.say(Abort(asked.pk, "unreadable", "busy", "/a"))
    assert await connection.hear() == Request(asked.pk, "/a", None)
    assert (await fresh(asked)).attempts == 2


async def test_an_agent_that_can_not_read_on_keeps_what_it_sent(house: House) -> None:
    row = await house.row()
    house.agent.on[Start] = house.agent.send_three
    house.agent.on[Ack] = lambda ack: house.agent.say(Abort(row.pk, "unreadable"))
    cut = await house.run(row)
    assert (cut.status, cut.error_code) == ("interrupted", "unreadable")
    assert cut.checkpoint == 3000
    house.agent = Agent(DATA)
    await Transfer.objects.filter(pk=row.pk).aupdate(next_attempt_at=None)
    landed = await house.run(await house.fresh(row))
    assert landed.status == "completed"
    assert house.landed == [DATA]


# Room -------------------------------------------------------------------------------------------


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("transfers.storage.free_space", lambda directory: size)


async def test_a_file_that_the_disk_has_no_room_for_is_not_begun(
    house: House, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.MIN_FREE_SPACE = 1000
    free(monkeypatch, len(DATA) + 999)
    refused = await house.run(await house.row())
    assert (refused.status, refused.error_code) == ("queued", "storage_full")
    assert "SILENTMODE_MIN_FREE_SPACE" in refused.error_detail
    assert [abort.code for abort in house.agent.told(Abort)] == ["storage_full"]
    free(monkeypatch, len(DATA) + 1000)
    await Transfer.objects.filter(pk=refused.pk).aupdate(next_attempt_at=None)
    house.agent = Agent(DATA)
    assert (await house.run(await house.fresh(refused))).status == "completed"


async def test_a_rename_for_which_there_is_no_room_is_tried_again_after_a_pause(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And counted: what is kept of it is on record before the failure is."""

    def fails(old: Any, new: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "ROOM", 0)
    monkeypatch.setattr(os, "rename", fails)
    kept = await house.run(await house.row())
    assert (kept.status, kept.error_code, kept.setbacks) == ("interrupted", "storage_full", 1)
    assert (kept.checkpoint, kept.next_attempt_at is not None) == (len(DATA), True)


async def test_of_two_that_fit_one_by_one_the_older_begins(
    house: House, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.MIN_FREE_SPACE = 0
    older = await house.row()
    await house.row("receiving", size=len(DATA))  # asked for later, and about to begin
    free(monkeypatch, len(DATA))
    assert (await house.run(older)).status == "completed"


LONG_AGO = timedelta(hours=8)


async def test_room_is_not_promised_twice(
    house: House, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.MIN_FREE_SPACE = 0
    begun = timezone.now() - LONG_AGO
    await house.row("receiving", size=500, received=100, started_at=begun)
    free(monkeypatch, len(DATA) + 399)
    assert (await house.run(await house.row())).error_code == "storage_full"


@pytest.mark.parametrize(
    ("hours", "received", "expected"),
    [
        (0, 0, 8 * MIB),  # what it has credit for
        (1, 100 * MIB, 400 * MIB),  # a burst is no rate
        (24, 100 * MIB, 100 * MIB),
        (240, 100 * MIB, 10 * MIB),
        (24, 1000 * MIB, 24 * MIB),  # all that is still to come
    ],
)
def test_a_promise_counts_for_what_a_day_will_bring_of_it(
    hours: int, received: int, expected: int
) -> None:
    now = timezone.now()
    assert foreseen(now - timedelta(hours=hours), 1024 * MIB, received, now) == expected


async def test_what_began_last_gives_way_while_what_began_first_still_has_room(
    house: House, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """It keeps what has arrived."""
    monkeypatch.setattr(limits, "CHECK_BYTES", 2000)
    settings.MIN_FREE_SPACE = 0
    await house.row("receiving", size=500, started_at=timezone.now() - LONG_AGO)
    free(monkeypatch, len(DATA) + 500)
    house.agent.on |= {Start: house.agent.send_three, Ack: lambda ack: None}
    task = await house.start(row := await house.row())
    await house.agent.hear(Ack)
    free(monkeypatch, 500 + 1999)
    house.agent.chunks(row.pk, 3)
    kept = await house.ended(task, row)
    assert (kept.status, kept.error_code) == ("interrupted", "storage_full")
    assert house.partial(row) == DATA[: kept.checkpoint]
    assert kept.checkpoint >= 6000


async def test_who_gives_up_a_turn_keeps_what_has_arrived_and_all_retries(
    house: House, settings: Settings
) -> None:
    settings.TURN_SECONDS, settings.RETRIES = 1, 0
    of_this_process()._free = 1
    now = 0.0
    house.agent.on |= {Start: house.agent.send_three, Ack: lambda ack: None}
    house.agent.clock = lambda: now
    task = await house.start(row := await house.row())
    await house.agent.hear(Ack)
    of_this_process().seat("waits", lambda: None).take(1)
    now = 1.0
    house.agent.chunks(row.pk, 1)
    kept = await house.ended(task, row)
    assert (kept.status, kept.error_code, kept.setbacks) == ("interrupted", "busy", 0)
    assert (kept.checkpoint, house.partial(row)) == (4000, DATA[:4000])
    assert [abort.code for abort in house.agent.told(Abort)] == ["busy"]


async def test_what_is_told_of_the_room_has_no_numbers_of_other_clients(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.MIN_FREE_SPACE = 0
    begun = timezone.now() - LONG_AGO
    await house.row("receiving", size=4321, started_at=begun)
    free(monkeypatch, 1234)
    refused = await house.run(await house.row())
    (abort,) = house.agent.told(Abort)
    for told in (refused.error_detail, abort.detail):
        assert not re.search(r"\d", told.replace("client1", "")), told
    assert "1234 bytes are free, 4321 are foreseen" in caplog.text


async def test_room_that_was_found_just_now_is_given_out_without_another_look(
    house: House, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.MIN_FREE_SPACE = 1000
    free(monkeypatch, 1000 + len(DATA) + 4 * len(DATA))
    assert (await house.run(await house.row())).status == "completed"
    free(monkeypatch, 0)
    assert (await house.run(await house.row())).status == "completed"
    refused = await house.run(await house.row())
    assert refused.error_code == "storage_full", "no more than a fourth of it"


async def test_what_is_found_in_the_middle_of_a_transfer_is_given_to_nobody(
    house: House, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """The oldest sees no promises of younger ones, and only a part of its own."""
    settings.MIN_FREE_SPACE = 0
    free(monkeypatch, 100 * len(DATA))
    limits = Limits(await house.row("receiving", size=len(DATA), started_at=timezone.now()))
    await limits.may_go_on(len(DATA))
    assert not spare_of_this_process().take(1, time.monotonic())
    await limits.may_begin(len(DATA))
    assert spare_of_this_process().take(1, time.monotonic())


def test_room_is_given_out_for_a_while_and_once() -> None:
    spare = Spare()
    assert not spare.take(1, 0.0), "nobody has looked yet"
    spare.found(4 * 100, 10.0)
    assert spare.take(60, 10.0)
    assert not spare.take(60, 10.5)
    assert spare.take(40, 10.5)
    spare.found(4 * 100, 11.0)
    assert not spare.take(1, 12.0), "that was a while ago"
    spare.found(-1, 13.0)
    assert not spare.take(1, 13.0)


async def test_where_a_day_has_a_quota_each_transfer_is_looked_at(
    house: House, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.MIN_FREE_SPACE, settings.BYTES_PER_DAY = 0, 1000 * len(DATA)
    free(monkeypatch, 100 * len(DATA))
    assert (await house.run(await house.row())).status == "completed"
    free(monkeypatch, 0)
    assert (await house.run(await house.row())).error_code == "storage_full"


Verb = Callable[[Transfer], Any]


@pytest.mark.parametrize("end", [Transfer.cancel, Transfer.expire])
async def test_who_ends_a_transfer_in_its_pause_removes_what_has_arrived(
    house: House, end: Verb
) -> None:
    row = await house.row("interrupted", checkpoint=3, size=len(DATA), fingerprint="1")
    house.left_behind(row, b"abc")
    await sync_to_async(end)(row)
    assert house.partial(row) is None
