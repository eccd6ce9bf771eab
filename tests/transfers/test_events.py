"""Server-sent events: what happens to transfers, each once, and only to who may hear it."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.test import Client as Browser
from django.utils import timezone
from knox.models import AuthToken
from rest_framework.test import APIClient

from transfers import events, lifecycle
from transfers.events import Watch, stream
from transfers.models import Client, Event, Label, Scope, Transfer, record

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_SECONDS", 0.01)


@pytest.fixture
def vera(db: None) -> User:
    user = User.objects.create_user("vera")
    user.user_permissions.set(Permission.objects.filter(codename="view_transfer"))
    return user


@pytest.fixture
def watch(vera: User) -> Watch:
    """Vera's eyes, by a token."""
    token, _ = AuthToken.objects.create(vera)
    return Watch(vera, token)


@pytest.fixture
def transfer(client1: Client) -> Transfer:
    return Transfer.objects.create(client=client1, path="/x")


async def following(watch: Watch, after: int = 0) -> AsyncIterator[dict[str, Any]]:
    """The events, as a script reads them."""
    async for block in stream(watch, after):
        lines = dict(
            line.split(": ", 1) for line in block.decode().splitlines() if line[:1] not in ":"
        )
        if "id" in lines:
            yield {"id": int(lines["id"]), "event": lines["event"], **json.loads(lines["data"])}


async def test_what_happened_and_what_happens_is_told_once_and_in_order(
    watch: Watch, transfer: Transfer
) -> None:
    first = await sync_to_async(record)(Event.REQUESTED, transfer=transfer, path="/x")
    await sync_to_async(record)(Event.CLIENT_APPROVED, client="client1")
    told = following(watch)
    heard = await anext(told)
    assert (heard["id"], heard["event"], heard["client"]) == (first.number, "requested", "client1")
    assert (heard["transfer"], heard["details"]) == (str(transfer.pk), {"path": "/x"})
    await sync_to_async(transfer.cancel)()
    assert (await anext(told))["event"] == "cancelled"
    again = await anext(following(watch, first.number))
    assert again["event"] == "cancelled", "who comes back hears what was missed, and nothing twice"
    assert "address" not in again


async def test_what_is_outside_of_a_scope_is_not_told(
    vera: User, watch: Watch, transfer: Transfer
) -> None:
    rome = await Label.objects.acreate(name="rome")
    scope = await Scope.objects.acreate(user=vera)
    await scope.labels.aadd(rome)
    mine = await Client.objects.acreate(id="mine")
    await mine.labels.aadd(rome)
    await sync_to_async(record)(Event.REQUESTED, transfer=transfer)
    other = await Transfer.objects.acreate(client=mine, path="/y")
    await sync_to_async(record)(Event.REQUESTED, transfer=other)
    assert (await anext(following(watch)))["client"] == "mine"


@pytest.mark.parametrize("loss", ["right", "token", "user", "stop"])
async def test_it_ends_with_the_right_to_hear_it(
    vera: User, transfer: Transfer, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = await sync_to_async(AuthToken.objects.create)(vera)
    await sync_to_async(record)(Event.REQUESTED, transfer=transfer)
    told = following(Watch(vera, token))
    await anext(told)
    match loss:
        case "right":
            await sync_to_async(vera.user_permissions.clear)()
        case "token":
            gone = timezone.now() - timedelta(seconds=1)
            await AuthToken.objects.aupdate(expiry=gone)
        case "user":
            await User.objects.filter(pk=vera.pk).aupdate(is_active=False)
        case "stop":
            monkeypatch.setattr(lifecycle, "is_stopping", lambda: True)
    assert [each async for each in told] == []


async def test_a_quiet_stream_says_that_it_is_there(
    vera: User, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "QUIET_SECONDS", 0.02)
    blocks = stream(watch, 0)
    assert (await anext(blocks)).startswith(b": ")
    assert await anext(blocks) == b": still here\n\n"
    await blocks.aclose()  # type: ignore[attr-defined]  # of a generator
    assert events._streams._open[vera.pk] == 0


async def test_a_session_ends_with_its_stream_and_a_token_without_an_end_does_not(
    vera: User, transfer: Transfer
) -> None:
    await sync_to_async(record)(Event.REQUESTED, transfer=transfer)
    browser = Browser()
    await sync_to_async(browser.force_login)(vera)
    told = following(Watch(vera, None, browser.cookies["sessionid"].value))
    assert (await anext(told))["event"] == "requested"
    await sync_to_async(browser.logout)()
    assert [each async for each in told] == []
    token, _ = await sync_to_async(AuthToken.objects.create)(vera, expiry=None)
    assert (await anext(following(Watch(vera, token))))["event"] == "requested"


async def test_what_was_looked_at_and_is_for_others_is_not_looked_at_again(
    vera: User, watch: Watch, transfer: Transfer
) -> None:
    scope = await Scope.objects.acreate(user=vera)
    await scope.labels.aadd(await Label.objects.acreate(name="rome"))
    last = await sync_to_async(record)(Event.REQUESTED, transfer=transfer)
    assert await sync_to_async(watch.look)(0) == ([], last.number)


async def test_streams_that_are_asked_for_at_once_have_the_same_bound(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events._streams, "most", 1)
    first, second = stream(watch, 0), stream(watch, 0)
    await anext(first)
    assert [block async for block in second] == [b": too many streams of yours are open\n\n"]
    await first.aclose()  # type: ignore[attr-defined]  # of a generator


def caller(user: User) -> APIClient:
    _, token = AuthToken.objects.create(user)
    return APIClient(headers={"Authorization": f"Token {token}"})


def test_a_script_may_ask_for_the_stream_by_its_type_and_from_an_event_on(vera: User) -> None:
    answer = caller(vera).get("/api/v1/events/", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer["Content-Type"]) == (200, "text/event-stream")
    assert answer["X-Accel-Buffering"] == "no"


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_a_refusal_is_json_and_says_so(vera: User, accept: str) -> None:
    headers = {"Last-Event-ID": "-1", "Accept": accept}
    for asking, status, code in (
        (caller(vera), 400, "invalid"),
        (APIClient(), 401, "not_authenticated"),
    ):
        answer = asking.get("/api/v1/events/", headers=headers)
        assert (answer.status_code, answer["Content-Type"]) == (status, "application/json")
        assert answer.json()["code"] == code


def test_a_user_has_a_bound_of_streams(vera: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(events._streams._open, vera.pk, events.MOST_FOR_A_USER)
    assert caller(vera).get("/api/v1/events/").status_code == 429
