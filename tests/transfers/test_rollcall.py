"""Many connections looked after at once: leases renewed, and whoever has something to do rung for."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from transfers import rollcall
from transfers.models import LEASE, Client, Transfer
from transfers.rollcall import LOOK_SECONDS, RollCall
from transfers.tokens import digest

pytestmark = pytest.mark.django_db(transaction=True)


class Present:
    """A connection: when its agent was heard, and how often it was rung for."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.epoch = client.epoch
        self.unnoted: float | None = None
        self.rings = 0
        self.is_silent = False

    def noted(self, heard: float) -> None:
        self.unnoted = None

    def ring(self) -> None:
        self.rings += 1


class Called(RollCall):
    """A roll call that is made when a test says so, at the hour it says."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(lambda: self.now)

    def add(self, present: Any) -> None:
        """As one that is called already."""
        self._present[present] = None

    async def look(self) -> None:
        self.now += LOOK_SECONDS
        await self.call()


@pytest.fixture
def roll_call() -> Called:
    return Called()


def present(name: str, **values: Any) -> Present:
    client = Client.objects.create(id=name, token_sha256=digest(name), epoch=3, **values)
    return Present(client)


def ends(name: str) -> datetime:
    until = Client.objects.get(pk=name).online_until
    assert until is not None
    return until


def test_the_leases_of_all_that_were_heard_count_from_when_that_was(roll_call: Called) -> None:
    heard, silent = present("heard"), present("silent", online_until=timezone.now())
    before = ends("silent")
    heard.unnoted = roll_call.now - 4
    for each in (heard, silent):
        roll_call.add(each)
    roll_call.heard(heard)
    asyncio.run(roll_call.call())
    late = timezone.now() - timedelta(seconds=4) + LEASE - ends("heard")
    assert timedelta(0) <= late < timedelta(seconds=20)
    assert heard.unnoted is None
    assert ends("silent") == before


@pytest.mark.parametrize("change", [{"epoch": 4}, {"revoked_at": timezone.now()}])
def test_an_older_connection_and_a_revoked_client_get_no_lease(
    roll_call: Called, change: dict[str, Any]
) -> None:
    each = present("till1", online_until=timezone.now())
    before = ends("till1")
    Client.objects.filter(pk="till1").update(**change)
    each.unnoted = roll_call.now
    roll_call.add(each)
    asyncio.run(roll_call.call())
    assert ends("till1") == before


def test_who_has_something_to_do_is_rung_for_and_who_is_idle_is_not(roll_call: Called) -> None:
    names = ("idle", "waiting", "superseded", "revoked", "replaced", "rotated", "done")
    connections = {name: present(name) for name in names}
    Transfer.objects.create(client=connections["waiting"].client, path="/a")
    Transfer.objects.create(client=connections["done"].client, path="/a", status="completed")
    changes: dict[str, dict[str, Any]] = {
        "superseded": {"epoch": 4},
        "revoked": {"revoked_at": timezone.now()},
        "replaced": {"token_sha256": digest("another")},
        "rotated": {"rotate_requested_at": timezone.now()},
    }
    for name, change in changes.items():
        Client.objects.filter(pk=name).update(**change)
    for each in connections.values():
        roll_call.add(each)
    asyncio.run(roll_call.look())
    rung = {name for name, each in connections.items() if each.rings}
    assert rung == {"waiting", "superseded", "revoked", "replaced", "rotated"}


def test_a_thousand_cost_a_few_queries(roll_call: Called) -> None:
    clients = [Client(id=f"till{n}", token_sha256=digest(str(n)), epoch=3) for n in range(1000)]
    for client in Client.objects.bulk_create(clients):
        each = Present(client)
        each.unnoted = roll_call.now + LOOK_SECONDS
        roll_call.add(each)
    with CaptureQueriesContext(connection) as queries:
        asyncio.run(roll_call.look())
    assert len(queries) < 20
    assert Client.objects.filter(online_until__gt=timezone.now()).count() == 1000


def test_what_could_not_be_noted_is_noted_by_the_next_call(
    roll_call: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = present("till1")
    each.unnoted = roll_call.now
    roll_call.add(each)
    with monkeypatch.context() as patch:
        patch.setattr(rollcall, "all_seen", broken)
        with pytest.raises(OSError, match="the database restarts"):
            asyncio.run(roll_call.call())
    assert each.unnoted is not None
    asyncio.run(roll_call.call())
    assert each.unnoted is None
    assert ends("till1") > timezone.now()


async def greeted(newcomers: list[Present]) -> None:
    """Until a real roll call has looked for them."""
    roll_call = RollCall()
    await asyncio.gather(*map(roll_call.enter, newcomers))
    assert roll_call._calling
    roll_call._calling.cancel()


def test_newcomers_are_looked_for_together_and_only_who_has_something_to_do_is_rung_for() -> None:
    newcomers = [present(f"till{n}") for n in range(30)]
    Transfer.objects.create(client=newcomers[7].client)
    with CaptureQueriesContext(connection) as queries:
        asyncio.run(greeted(newcomers))
    assert [each.client.pk for each in newcomers if each.rings] == ["till7"]
    assert len(queries) < 5


def test_who_is_silent_is_rung_for_to_be_given_up(roll_call: Called) -> None:
    silent, heard = present("silent"), present("heard")
    silent.is_silent = True
    for each in (silent, heard):
        roll_call.add(each)
    asyncio.run(roll_call.call())
    assert (silent.rings, heard.rings) == (1, 0)


def test_who_is_heard_again_and_again_is_noted_each_time(roll_call: Called) -> None:
    each, other = present("each"), present("other")
    for one in (each, other):
        roll_call.add(one)
    for seconds in (0, 20, 40):
        roll_call.now = 1000.0 + seconds
        each.unnoted = roll_call.now
        roll_call.heard(each)
        asyncio.run(roll_call.call())
        assert each.unnoted is None
        Client.objects.update(online_until=None)
        other.unnoted = roll_call.now
        roll_call.heard(other)
        asyncio.run(roll_call.call())
        assert (ends("other") > timezone.now(), other.unnoted) == (True, None)


def test_who_has_left_is_not_called_for_a_late_sign_of_life(roll_call: Called) -> None:
    each = present("till1")
    roll_call.add(each)
    roll_call.leave(each)
    each.unnoted = roll_call.now
    roll_call.heard(each)
    asyncio.run(roll_call.call())
    assert each.unnoted is not None


def test_newcomers_look_for_themselves_where_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "standing", broken)
    newcomers = [present(f"till{n}") for n in range(3)]
    asyncio.run(greeted(newcomers))
    assert [each.rings for each in newcomers] == [1, 1, 1]


def broken(signs: object) -> None:
    raise OSError("the database restarts")
