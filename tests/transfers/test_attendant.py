"""One connection and its client's rows: what is asked for, what is left, and when to go."""

import asyncio
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
    Cancel,
    Hello,
    Offer,
    Request,
    Welcome,
)
from agent.wire.session import Session
from agent.wire.state import OVER, Side
from transfers import attendant as attendant_module
from transfers.attendant import AT_ONCE, Attendant
from transfers.dialogue import Outgoing
from transfers.models import HEARTBEAT, Client, Transfer
from transfers.models.queries import TransferQuerySet

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = 20.0


class Connection:
    """What an attendant talks to: everything it says, and how it ended the connection."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.said: asyncio.Queue[Outgoing] = asyncio.Queue()
        self.ended: asyncio.Queue[tuple[CloseCode, Abort]] = asyncio.Queue()
        self.looks_begun = 0
        self.looks: asyncio.Queue[int] = asyncio.Queue()
        self.agent = Session(Side.AGENT)
        self.session = Session(Side.SERVER)
        self.session.receive(self.agent.send(Hello(PROTOCOL, "1", "test", "test")))
        self.agent.receive(self.session.send(Welcome(client.pk, HEARTBEAT, MAX_CHUNK, "now")))

    async def open(self) -> None:
        epoch = await sync_to_async(self.client.came_online)(
            platform="test", hostname="test", agent_version="1"
        )
        self.attendant = Attendant(
            self.client,
            epoch,
            self.session,
            self._reply,
            self._close,
            channel_name="specific.test!attendant",
        )

    async def _reply(self, message: Outgoing) -> None:
        over = message.transfer and self.session.stage(message.transfer) in OVER
        if isinstance(message, Request) or not over:
            self.agent.receive(self.session.send(message))
            self.said.put_nowait(message)

    async def _close(self, code: CloseCode, farewell: Abort) -> None:
        self.ended.put_nowait((code, farewell))

    def say(self, message: Offer | Abort) -> None:
        assert self.session.receive(self.agent.send(message)) == message
        self.attendant.receive(message)

    async def look(self) -> None:
        """Ring, and wait for the end of a look that began after it."""
        number = self.looks_begun
        self.attendant.ring()
        async with asyncio.timeout(PATIENCE):
            while await self.looks.get() <= number:
                pass

    async def hear(self) -> Outgoing:
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


async def test_it_looks_once_a_heartbeat_where_nobody_rings(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendant_module, "HEARTBEAT", 0.01)
    await connection.open()
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


async def test_so_many_at_once_and_the_oldest_first(connection: Connection) -> None:
    paths = [f"/{number}" for number in range(AT_ONCE + 2)]
    rows = [await wanted(connection.client, path) for path in paths]
    await connection.open()
    asked = [await connection.hear() for _ in range(AT_ONCE)]
    await connection.look()
    assert {request.transfer for request in asked} == {row.pk for row in rows[:AT_ONCE]}
    assert connection.said.empty(), "the others wait their turn"
    connection.say(Abort(rows[3].pk, "not_found", path=rows[3].path))
    assert await connection.hear() == Request(rows[AT_ONCE].pk, paths[AT_ONCE], None)
    assert (await fresh(rows[-1])).status == "queued"


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


async def test_a_connection_that_is_not_heard_any_more_is_closed(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A black hole tells nobody of its end; what was under way waits for the next connection."""
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
    await sync_to_async(newer.came_online)(platform="", hostname="", agent_version="")
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
    await connection.open()
    await connection.look()
    await connection.look()
    past = await expired_lease(connection.client)
    await connection.look()
    assert await lease(connection.client) == past, "a doorbell says nothing about the agent"
    connection.attendant.sign_of_life()
    await connection.look()
    assert await lease(connection.client) > timezone.now()


async def test_who_leaves_is_offline_at_once(connection: Connection) -> None:
    await connection.open()
    await connection.look()
    await connection.attendant.leave()
    assert await lease(connection.client) <= timezone.now()


async def test_the_older_connection_leaves_the_lease_to_the_newer(connection: Connection) -> None:
    await connection.open()
    newer = await Client.objects.aget(pk=connection.client.pk)
    await sync_to_async(newer.came_online)(platform="", hostname="", agent_version="")
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
    expire_due = TransferQuerySet.expire_due

    def slow(transfers: TransferQuerySet) -> int:
        loop.call_soon_threadsafe(looking.set)
        go_on.wait(PATIENCE)
        return expire_due(transfers)

    monkeypatch.setattr(TransferQuerySet, "expire_due", slow)
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
    monkeypatch.setattr(TransferQuerySet, "expire_due", failing_once(TransferQuerySet.expire_due))
    transfer = await wanted(connection.client)
    await connection.open()
    await connection.looks.get()
    assert (await fresh(transfer)).status == "queued"
    connection.attendant.ring()
    assert await connection.hear() == Request(transfer.pk, "/a", None)


async def test_a_look_that_fails_forgets_no_sign_of_life(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.open()
    await connection.look()
    await connection.look()
    await expired_lease(connection.client)
    monkeypatch.setattr(Client, "seen", failing_once(Client.seen))
    connection.attendant.sign_of_life()
    await connection.look()
    await connection.look()
    assert await lease(connection.client) > timezone.now()


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
