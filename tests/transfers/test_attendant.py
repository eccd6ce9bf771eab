"""One connection and its client's rows: what is asked for, what is left, and when to go."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from agent.wire.errors import CloseCode
from agent.wire.messages import (
    MAX_CHUNK,
    PROTOCOL,
    Abort,
    Ack,
    Cancel,
    End,
    Hello,
    Landed,
    Offer,
    Renew,
    Renewed,
    Request,
    Start,
    Welcome,
)
from agent.wire.session import Session
from agent.wire.state import OVER, Side
from tests.online import came_online
from transfers import attendant as attendant_module
from transfers import rollcall, turns
from transfers.attendant import Attendant
from transfers.dialogue import Outgoing
from transfers.models import HEARTBEAT, Client, Outlook, Transfer
from transfers.models.queries import TransferQuerySet
from transfers.tokens import digest

AT_ONCE = 8
"""SILENTMODE_MAX_ACTIVE_PER_CLIENT, by default."""

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = 20.0


class Connection:
    """What an attendant talks to: everything it says, and how it ended the connection."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.renewable = True
        self.said: asyncio.Queue[Outgoing | Renew] = asyncio.Queue()
        self.ended: asyncio.Queue[tuple[CloseCode, Abort]] = asyncio.Queue()
        self.looks_begun = 0
        self.looks: asyncio.Queue[int] = asyncio.Queue()
        self.agent = Session(Side.AGENT)
        self.session = Session(Side.SERVER)
        hello = Hello(PROTOCOL, "1", "test", "test", renewable=True)
        self.session.receive(self.agent.send(hello))
        self.agent.receive(self.session.send(Welcome(client.pk, HEARTBEAT, MAX_CHUNK, "now")))

    async def open(self) -> None:
        epoch = await sync_to_async(came_online)(
            self.client, platform="test", hostname="test", agent_version="1"
        )
        self.attendant = Attendant(
            self.client,
            epoch,
            self.session,
            self._reply,
            self._close,
            renewable=self.renewable,
        )

    async def _reply(self, message: Outgoing | Renew) -> None:
        over = (
            not isinstance(message, Renew)
            and message.transfer
            and self.session.stage(message.transfer) in OVER
        )
        if isinstance(message, Request) or not over:
            self.agent.receive(self.session.send(message))
            self.said.put_nowait(message)

    async def _close(self, code: CloseCode, farewell: Abort) -> None:
        self.ended.put_nowait((code, farewell))

    def keep(self, renew: Outgoing | Renew) -> str:
        """Answer as an agent that has kept the new token; its digest."""
        assert isinstance(renew, Renew)
        renewed = Renewed(digest(renew.token))
        assert self.session.receive(self.agent.send(renewed)) == renewed
        self.attendant.renewed(renewed.token_sha256)
        return renewed.token_sha256

    def say(self, message: Offer | End | Abort) -> None:
        assert self.session.receive(self.agent.send(message)) == message
        self.attendant.receive(message)

    async def look(self) -> None:
        """Ring, and wait for the end of a look that began after it."""
        number = self.looks_begun
        self.attendant.ring()
        async with asyncio.timeout(PATIENCE):
            while await self.looks.get() <= number:
                pass

    async def hear(self) -> Outgoing | Renew:
        async with asyncio.timeout(PATIENCE):
            return await self.said.get()

    async def end(self) -> tuple[CloseCode, Abort]:
        async with asyncio.timeout(PATIENCE):
            return await self.ended.get()


@pytest.fixture
async def connection(client1: Client, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connection]:
    """Of `client1`, not open yet; left after the test."""
    connection = Connection(client1)
    look = Attendant._look

    async def looked(self: Attendant) -> None:
        connection.looks_begun += 1
        number = connection.looks_begun
        try:
            await look(self)
        finally:
            connection.looks.put_nowait(number)

    monkeypatch.setattr(Attendant, "_look", looked)
    yield connection
    await connection.attendant.leave()


async def wanted(client: Client, path: str = "/a", **values: Any) -> Transfer:
    """A row that somebody has made, and nobody has rung for."""
    return await Transfer.objects.acreate(client=client, path=path, **values)


async def fresh(transfer: Transfer) -> Transfer:
    return await Transfer.objects.aget(pk=transfer.pk)


async def lease(client: Client) -> Any:
    return (await Client.objects.aget(pk=client.pk)).online_until


async def expired_lease(client: Client) -> Any:
    """The lease of a client that nothing has been heard of."""
    past = timezone.now() - timedelta(hours=1)
    await Client.objects.filter(pk=client.pk).aupdate(online_until=past)
    return past


# What waits --------------------------------------------------------------------------------------


async def test_what_waits_is_asked_for_as_soon_as_the_client_is_there(
    connection: Connection,
) -> None:
    transfer = await wanted(connection.client)
    await connection.open()
    assert await connection.hear() == Request(transfer.pk, "/a", None)
    row = await fresh(transfer)
    assert (row.status, row.epoch, row.attempts) == ("requested", 1, 1)


async def test_a_ring_is_enough_for_what_is_new(connection: Connection) -> None:
    await connection.open()
    await connection.look()
    transfer = await wanted(connection.client)
    connection.attendant.ring()
    assert await connection.hear() == Request(transfer.pk, "/a", None)


async def test_an_idle_one_is_called_where_nobody_rings(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollcall, "CALL_SECONDS", 0.01)
    monkeypatch.setattr(rollcall, "LOOK_SECONDS", 0.01)
    await connection.open()
    await connection.look()
    transfer = await wanted(connection.client)
    assert await connection.hear() == Request(transfer.pk, "/a", None)


async def test_what_an_older_connection_left_active_is_taken_over(connection: Connection) -> None:
    transfer = await wanted(connection.client, status="receiving", epoch=0, received=5)
    await connection.open()
    assert await connection.hear() == Request(transfer.pk, "/a", None)


async def test_the_files_of_another_client_are_not_asked_for(connection: Connection) -> None:
    other = await Client.objects.acreate(id="client2", token_sha256="0" * 64)
    transfer = await wanted(other)
    await connection.open()
    await connection.look()
    assert connection.said.empty()
    assert (await fresh(transfer)).status == "queued"


async def test_what_is_past_its_deadline_is_not_asked_for(connection: Connection) -> None:
    transfer = await wanted(connection.client, deadline=timezone.now() - timedelta(seconds=1))
    await connection.open()
    await connection.look()
    assert connection.said.empty()
    assert (await fresh(transfer)).status == "expired"


async def test_what_is_under_way_is_not_asked_for_twice(connection: Connection) -> None:
    await wanted(connection.client)
    await connection.open()
    await connection.hear()
    await connection.look()
    await connection.look()
    assert connection.said.empty()


async def test_a_client_waits_while_others_have_all_the_turns_and_is_rung(
    connection: Connection,
) -> None:
    other = turns.of_this_process().seat("other", lambda: None)
    elsewhere = turns.of_this_process().seat("elsewhere", lambda: None)
    turns.of_this_process()._free = AT_ONCE + 1
    assert other.take(AT_ONCE) == AT_ONCE
    assert elsewhere.take(1) == 1
    rows = [await wanted(connection.client, path) for path in ("/1", "/2")]
    await connection.open()
    await connection.look()
    assert connection.said.empty()
    assert (await fresh(rows[0])).status == "queued"
    elsewhere.give_back()
    assert await connection.hear() == Request(rows[0].pk, "/1", None)
    await connection.look()
    assert connection.said.empty()
    connection.say(Abort(rows[0].pk, "not_found", path="/1"))
    assert await connection.hear() == Request(rows[1].pk, "/2", None)


async def test_so_many_at_once_and_the_oldest_first(connection: Connection) -> None:
    paths = [f"/{number}" for number in range(AT_ONCE + 2)]
    rows = [await wanted(connection.client, path) for path in paths]
    await connection.open()
    asked = [await connection.hear() for _ in range(AT_ONCE)]
    await connection.look()
    assert {each.transfer for each in asked if isinstance(each, Request)} == {
        row.pk for row in rows[:AT_ONCE]
    }
    assert connection.said.empty(), "the others wait their turn"
    connection.say(Abort(rows[3].pk, "not_found", path=rows[3].path))
    assert await connection.hear() == Request(rows[AT_ONCE].pk, paths[AT_ONCE], None)
    assert (await fresh(rows[-1])).status == "queued"


async def land(connection: Connection, asked: Outgoing | Renew) -> None:
    """Send what was asked for, an empty file, until it has landed."""
    assert isinstance(asked, Request)
    connection.say(Offer(asked.transfer, "a", 0, 0, "1", asked.path))
    assert isinstance(await connection.hear(), Start)
    connection.say(End(asked.transfer, 0, hashlib.sha256().hexdigest(), "1", "a"))
    assert isinstance(await connection.hear(), Landed)


async def test_what_lands_makes_room_for_the_next_without_a_look(connection: Connection) -> None:
    rows = [await wanted(connection.client, f"/{number}") for number in range(AT_ONCE + 3)]
    await connection.open()
    asked = [await connection.hear() for _ in range(AT_ONCE)]
    await connection.look()  # it has turns, so that it reads on
    looks = connection.looks_begun
    for request, row in zip(asked, rows[AT_ONCE:], strict=False):
        await land(connection, request)
        assert await connection.hear() == Request(row.pk, row.path, None)
    assert connection.looks_begun == looks


async def test_what_was_cancelled_before_its_turn_is_not_asked_for(connection: Connection) -> None:
    """Nobody has rung: its row is as it was when it was looked at, for all that this connection knows."""
    rows = [await wanted(connection.client, f"/{number}") for number in range(AT_ONCE + 2)]
    await connection.open()
    asked = [await connection.hear() for _ in range(AT_ONCE)]
    await connection.look()
    await Transfer.objects.filter(pk=rows[AT_ONCE].pk).aupdate(status="cancelled")
    await land(connection, asked[0])
    assert await connection.hear() == Request(rows[-1].pk, rows[-1].path, None)


async def test_who_waits_for_a_first_turn_reads_no_more_than_that(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(AT_ONCE + 3):
        await wanted(connection.client, f"/{number}")
    turns.of_this_process()._free = 0
    await connection.open()
    await connection.look()
    assert len(connection.attendant._ahead) == AT_ONCE


async def test_a_look_that_failed_is_made_good_whatever_wakes_the_connection(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it knows what is next, and something only landed."""
    rows = [await wanted(connection.client, f"/{number}") for number in range(AT_ONCE + 1)]
    await connection.open()
    asked = [await connection.hear() for _ in range(AT_ONCE)]
    await connection.look()
    await Transfer.objects.filter(pk=rows[1].pk).aupdate(status="cancelled")
    monkeypatch.setattr(TransferQuerySet, "outlook", failing_once(TransferQuerySet.outlook))
    await connection.look()
    assert connection.said.empty()
    await land(connection, asked[0])
    said = [await connection.hear() for _ in range(2)]
    assert Cancel(rows[1].pk) in said
    connection.say(Abort(rows[1].pk, "cancelled"))


async def test_a_source_that_changed_is_asked_for_again_at_once(connection: Connection) -> None:
    transfer = await wanted(connection.client)
    await connection.open()
    assert isinstance(await connection.hear(), Request)
    connection.say(Abort(transfer.pk, "source_changed", path="/a"))
    assert await connection.hear() == Request(transfer.pk, "/a", None)
    assert (await fresh(transfer)).attempts == 2


async def test_a_message_about_what_has_just_ended_is_nobodys(connection: Connection) -> None:
    await connection.open()
    connection.attendant.receive(Offer(UUID(int=1), "late", 1, 0, "1"))
    connection.attendant.receive(Abort(None, "internal"))


# What is taken away ------------------------------------------------------------------------------


async def test_what_was_cancelled_is_cancelled_at_the_agent(connection: Connection) -> None:
    transfer = await wanted(connection.client)
    await connection.open()
    await connection.hear()
    await Transfer.objects.filter(pk=transfer.pk).aupdate(status="cancelled")
    connection.attendant.ring()
    assert await connection.hear() == Cancel(transfer.pk)
    connection.say(Abort(transfer.pk, "cancelled"))


async def test_another_rate_limit_is_told_at_once(connection: Connection) -> None:
    """In `start` before it was started, and in the middle in an `ack` of its own."""
    transfer = await wanted(connection.client)
    await connection.open()
    assert isinstance(await connection.hear(), Request)
    await sync_to_async((await fresh(transfer)).limit_rate)(5000)
    await connection.look()
    connection.say(Offer(transfer.pk, "a", 100_000, 0, "1", "/a"))
    start = await connection.hear()
    assert isinstance(start, Start)
    assert start.rate_limit == 5000
    for rate_limit in (1024, None):
        await sync_to_async((await fresh(transfer)).limit_rate)(rate_limit)
        connection.attendant.ring()
        ack = await connection.hear()
        assert ack == Ack(transfer.pk, 0, start.limit, 0, rate_limit)
    await connection.look()
    assert connection.said.empty()


async def test_a_transfer_is_not_asked_for_again_before_the_agent_has_confirmed_its_end(
    connection: Connection,
) -> None:
    transfer = await wanted(connection.client)
    await connection.open()
    await connection.hear()
    await sync_to_async((await fresh(transfer)).fail)(1, "not_found")
    connection.attendant.ring()
    assert await connection.hear() == Cancel(transfer.pk)
    await sync_to_async((await fresh(transfer)).retry)()
    await connection.look()
    assert connection.said.empty()
    connection.say(Abort(transfer.pk, "cancelled"))
    assert await connection.hear() == Request(transfer.pk, "/a", None)


async def test_a_deadline_that_passes_ends_what_is_under_way(connection: Connection) -> None:
    transfer = await wanted(connection.client)
    await connection.open()
    await connection.hear()
    await Transfer.objects.filter(pk=transfer.pk).aupdate(deadline=timezone.now())
    connection.attendant.ring()
    assert await connection.hear() == Cancel(transfer.pk)
    assert (await fresh(transfer)).status == "expired"
    connection.say(Abort(transfer.pk, "cancelled"))


async def test_a_deadline_that_passes_is_seen_although_others_land_all_the_time(
    connection: Connection,
) -> None:
    """Each of them wakes the connection, which knows what is next, before it would look by itself."""
    soon = timezone.now() + timedelta(seconds=2)
    transfer = await wanted(connection.client, "/late", deadline=soon)
    for number in range(AT_ONCE):
        await wanted(connection.client, f"/{number}")
    await connection.open()
    for _ in range(AT_ONCE):
        assert isinstance(await connection.hear(), Request)
    async with asyncio.timeout(PATIENCE):
        while connection.said.empty():
            connection.attendant._bell.set()
            await asyncio.sleep(0.1)
    assert await connection.hear() == Cancel(transfer.pk)
    connection.say(Abort(transfer.pk, "cancelled"))


async def test_a_connection_that_is_not_heard_any_more_is_closed(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A black hole tells nobody of its end; what was under way waits for the next connection."""
    monkeypatch.setattr(rollcall, "CALL_SECONDS", 0.01)
    monkeypatch.setattr(attendant_module, "LEASE", timedelta(seconds=0.3))
    transfer = await wanted(connection.client)
    await connection.open()
    await connection.hear()
    code, farewell = await connection.end()
    assert (code, farewell.code) == (CloseCode.POLICY_VIOLATION, "timed_out")
    async with asyncio.timeout(PATIENCE):
        while (await fresh(transfer)).status != "queued":
            await asyncio.sleep(0.01)
    assert (await fresh(transfer)).setbacks == 0, "no fault of the transfer"


async def test_what_the_agent_broke_is_an_error_of_what_was_under_way(
    connection: Connection,
) -> None:
    transfer = await wanted(connection.client)
    await connection.open()
    await connection.hear()
    connection.attendant.broken("a message of an unknown type")
    async with asyncio.timeout(PATIENCE):
        while not (failed := await fresh(transfer)).error_code:
            await asyncio.sleep(0.01)
    assert (failed.status, failed.error_code) == ("queued", "protocol_error")
    assert failed.error_detail == "a message of an unknown type"


@pytest.mark.parametrize("working", [False, True])
async def test_a_server_that_stops_leaves_idle_leases_to_end_by_themselves(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, working: bool
) -> None:
    """Thousands of idle clients must not hold up those who have bytes to keep."""
    if working:
        await wanted(connection.client)
    await connection.open()
    await connection.look()
    monkeypatch.setattr("transfers.lifecycle.is_stopping", lambda: True)
    await connection.attendant.leave()
    assert (await Client.objects.aget()).online is not working


async def test_a_newer_connection_ends_the_older(connection: Connection) -> None:
    await connection.open()
    await connection.look()
    newer = await Client.objects.aget(pk=connection.client.pk)
    await sync_to_async(came_online)(newer, platform="", hostname="", agent_version="")
    transfer = await wanted(connection.client)
    connection.attendant.ring()
    assert await connection.end() == (
        CloseCode.SUPERSEDED,
        Abort(None, "cancelled", attendant_module.ELSEWHERE),
    )
    assert (await fresh(transfer)).status == "queued", "it is left to the newer"


async def test_a_revoked_client_is_sent_away(connection: Connection) -> None:
    transfer = await wanted(connection.client)
    await connection.open()
    await connection.hear()
    client = await Client.objects.aget(pk=connection.client.pk)
    await sync_to_async(client.revoke)()
    connection.attendant.ring()
    assert await connection.end() == (CloseCode.REVOKED, Abort(None, "revoked"))
    row = await fresh(transfer)
    assert (row.status, row.error_code) == ("failed", "revoked")


# Presence ----------------------------------------------------------------------------------------


async def test_only_a_sign_of_life_renews_the_lease(connection: Connection) -> None:
    roll_call = rollcall.of_this_process()
    await connection.open()
    await connection.look()
    await roll_call.call()
    past = await expired_lease(connection.client)
    await connection.look()
    await roll_call.call()
    assert await lease(connection.client) == past, "a doorbell says nothing about the agent"
    connection.attendant.sign_of_life()
    await roll_call.call()
    assert await lease(connection.client) > timezone.now()


async def test_who_leaves_is_offline_at_once(connection: Connection) -> None:
    await connection.open()
    await connection.look()
    await connection.attendant.leave()
    assert await lease(connection.client) <= timezone.now()


async def test_the_older_connection_leaves_the_lease_to_the_newer(connection: Connection) -> None:
    await connection.open()
    newer = await Client.objects.aget(pk=connection.client.pk)
    await sync_to_async(came_online)(newer, platform="", hostname="", agent_version="")
    await connection.attendant.leave()
    assert await lease(connection.client) > timezone.now()


async def test_who_leaves_waits_until_its_transfers_are_put_down(connection: Connection) -> None:
    transfer = await wanted(connection.client)
    await connection.open()
    await connection.hear()
    await connection.attendant.leave()
    assert (await fresh(transfer)).status == "queued"


async def test_who_leaves_in_the_middle_of_a_look_leaves_nothing_requested(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that says `requested` while nobody is connected would be a lie."""
    looking, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    outlook = TransferQuerySet.outlook

    def slow(transfers: TransferQuerySet, client_id: str) -> Outlook:
        loop.call_soon_threadsafe(looking.set)
        go_on.wait(PATIENCE)
        return outlook(transfers, client_id)

    monkeypatch.setattr(TransferQuerySet, "outlook", slow)
    transfer = await wanted(connection.client)
    await connection.open()
    async with asyncio.timeout(PATIENCE):
        await looking.wait()
        leaving = asyncio.create_task(connection.attendant.leave())
        await asyncio.sleep(0)
        go_on.set()
        await leaving
    assert (await fresh(transfer)).status == "queued"


# Failures ----------------------------------------------------------------------------------------


def failing_once(call: Callable[..., Any]) -> Callable[..., Any]:
    failed: list[bool] = []

    def fail(*args: Any) -> Any:
        if not failed:
            failed.append(True)
            raise OSError("the database restarts")
        return call(*args)

    return fail


async def test_a_look_that_fails_is_made_good_by_the_next(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransferQuerySet, "outlook", failing_once(TransferQuerySet.outlook))
    transfer = await wanted(connection.client)
    await connection.open()
    await connection.looks.get()
    assert (await fresh(transfer)).status == "queued"
    connection.attendant.ring()
    assert await connection.hear() == Request(transfer.pk, "/a", None)


async def test_a_row_that_another_took_first_does_not_stop_the_others(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, free = await wanted(connection.client, "/taken"), await wanted(connection.client)
    claim = Transfer.claim

    def race(transfer: Transfer, epoch: int) -> None:
        if transfer.pk == taken.pk:
            Transfer.objects.filter(pk=taken.pk).update(status="cancelled")
        claim(transfer, epoch)

    monkeypatch.setattr(Transfer, "claim", race)
    await connection.open()
    assert await connection.hear() == Request(free.pk, "/a", None)


# Tokens ------------------------------------------------------------------------------------------


async def rotate(client: Client) -> None:
    """An operator wants it to have a new token, and no ring is heard."""
    await Client.objects.filter(pk=client.pk).aupdate(
        renewable=True, rotate_requested_at=timezone.now()
    )


async def row_of(client: Client) -> Client:
    return await Client.objects.aget(pk=client.pk)


async def test_a_new_token_is_sent_once_and_is_the_only_one_when_it_is_kept(
    connection: Connection,
) -> None:
    old = connection.client.token_sha256
    await connection.open()
    await rotate(connection.client)
    await connection.look()
    renew = await connection.hear()
    await connection.look()
    assert connection.said.empty(), "once is enough"
    row = await row_of(connection.client)
    assert row.token_sha256 == old, "until it is kept, the old one counts"
    assert isinstance(renew, Renew)
    assert row.next_token_sha256 == digest(renew.token)
    kept = connection.keep(renew)
    await connection.look()
    row = await row_of(connection.client)
    assert (row.token_sha256, row.next_token_sha256, row.rotate_requested_at) == (kept, None, None)
    assert connection.ended.empty()


async def test_a_second_rotation_on_one_connection(connection: Connection) -> None:
    await connection.open()
    for _ in range(2):
        await rotate(connection.client)
        await connection.look()
        kept = connection.keep(await connection.hear())
        await connection.look()
        assert (await row_of(connection.client)).token_sha256 == kept
    assert connection.ended.empty()


async def test_an_agent_that_cannot_keep_a_token_gets_none_and_the_log_says_so(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    connection.renewable = False
    await connection.open()
    await rotate(connection.client)
    for _ in range(2):
        await connection.look()
    assert connection.said.empty()
    assert caplog.text.count("cannot be rotated") == 1


async def test_what_could_not_be_recorded_is_recorded_at_the_next_look(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.open()
    await rotate(connection.client)
    await connection.look()
    renew = await connection.hear()
    take = Client.take_token
    with monkeypatch.context() as broken:
        broken.setattr(Client, "take_token", lambda *args: 1 / 0)
        kept = connection.keep(renew)
        await connection.look()
    assert Client.take_token is take
    await connection.look()
    assert (await row_of(connection.client)).token_sha256 == kept


async def test_a_connection_whose_token_was_replaced_is_closed_and_told_so(
    connection: Connection,
) -> None:
    """Not as one that another connection superseded: its agent would come back for ever."""
    await connection.open()
    await Client.objects.filter(pk=connection.client.pk).aupdate(token_sha256="1" * 64, epoch=9)
    connection.attendant.ring()
    code, farewell = await connection.end()
    assert (code, farewell.code) == (CloseCode.REVOKED, "revoked")
    assert "enrolled anew" in farewell.detail
