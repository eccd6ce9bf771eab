"""What is pushed to an open page, to whom, and when no more."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import Permission, User
from django.http import QueryDict
from django.test import Client as Browser
from django.utils import timezone

from transfers.console import live
from transfers.console.looks import LOOKS, Gone, Look, Screen, look
from transfers.models import Client, Label, Scope, Transfer

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = 20
MIB = 1024 * 1024
Make = Callable[..., Transfer]


@pytest.fixture
def make(client1: Client) -> Make:
    def make(status: str = "receiving", **values: Any) -> Transfer:
        return Transfer.objects.create(
            **{"client": client1, "status": status, "duplicate": True} | values
        )

    return make


def somebody(name: str, *rights: str) -> User:
    """Somebody with these rights: of groups, a flushed database has none."""
    user = User.objects.create_user(name)
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    return user


@pytest.fixture
def operator(db: None) -> User:
    return somebody("olga", "view_client", "view_transfer", "change_transfer", "fetch_file")


def seen(user: User, path: str, query: str = "") -> Look:
    return look(user, path, QueryDict(query))


# What moves --------------------------------------------------------------------------------------


def test_only_the_cell_that_changed_is_sent(make: Make, operator: User) -> None:
    one, _ = make(name="a", size=10, received=1), make(name="b", size=10, received=1)
    screen = Screen()
    first = screen.update(seen(operator, "/transfers/"))
    assert 'innerHTML:[id="rows"]' in first
    assert screen.update(seen(operator, "/transfers/")) == ""
    Transfer.objects.filter(pk=one.pk).update(received=5)
    second = screen.update(seen(operator, "/transfers/"))
    assert second.count("hx-swap-oob") == 1
    assert f'innerHTML:[id="progress-{one.pk}"]' in second
    assert "50 %" in second
    Transfer.objects.filter(pk=one.pk).update(status="completed", finished_at=timezone.now())
    third = screen.update(seen(operator, "/transfers/"))
    assert {name for name in ("state", "progress", "actions") if f'[id="{name}-{one.pk}"]' in third} == {
        "state", "progress", "actions",
    }  # fmt: skip


def test_a_new_row_brings_the_body_of_the_list_and_no_cell_twice(
    make: Make, operator: User
) -> None:
    make(name="a")
    screen = Screen()
    screen.update(seen(operator, "/transfers/"))
    new = make(name="b")
    said = screen.update(seen(operator, "/transfers/"))
    assert said.count("hx-swap-oob") == 2, "the rows and how many there are"
    assert f'id="state-{new.pk}"' in said


def test_a_client_that_comes_online_is_told_of(client1: Client, operator: User) -> None:
    screen = Screen()
    screen.update(seen(operator, "/clients/"))
    until = timezone.now() + timedelta(minutes=1)
    Client.objects.update(online_until=until)
    said = screen.update(seen(operator, "/clients/"))
    assert 'innerHTML:[id="state-client1"]' in said
    assert "Online" in said


def test_a_page_shows_what_its_address_asks_for(make: Make, operator: User) -> None:
    make(name="a.db")
    make("failed", name="b.db", error_code="timed_out")
    rows = seen(operator, "/transfers/", "state=failed").rows()
    assert "b.db" in rows
    assert "a.db" not in rows


def test_the_page_of_a_transfer_moves(make: Make, operator: User) -> None:
    transfer = make(name="a", size=10 * MIB, received=MIB)
    screen = Screen()
    screen.update(seen(operator, f"/transfers/{transfer.pk}/"))
    transfer.cancel()
    said = screen.update(seen(operator, f"/transfers/{transfer.pk}/"))
    for part in ("headline", "history", "buttons"):
        assert f'innerHTML:[id="{part}"]' in said
    assert "rows" not in said, "the page has no list"
    Transfer.objects.update(name="b")
    assert 'innerHTML:[id="title"]' in screen.update(seen(operator, f"/transfers/{transfer.pk}/"))


def test_the_name_that_the_agent_offers_takes_the_place_of_the_path(
    make: Make, operator: User
) -> None:
    transfer = make("requested", path="/var/x")
    screen = Screen()
    screen.update(seen(operator, "/transfers/"))
    Transfer.objects.update(name="x.db")
    assert f'innerHTML:[id="name-{transfer.pk}"]' in screen.update(seen(operator, "/transfers/"))


def test_the_page_of_a_client_has_its_presence_and_its_transfers(
    make: Make, operator: User
) -> None:
    make(name="a")
    other = Client.objects.create(id="other")
    Transfer.objects.create(client=other, name="b")
    now = seen(operator, "/clients/client1/")
    assert "Offline" in now.parts["presence"]
    assert now.order is not None
    assert len(now.order) == 1


@pytest.mark.parametrize("path", ["/", "/nothing/", "/admin/", "/login/", "/clients/nobody/"])
def test_no_other_page_moves(operator: User, path: str) -> None:
    with pytest.raises(Gone):
        seen(operator, path)


def test_nothing_of_what_is_outside_of_a_scope_or_without_a_right(
    make: Make, operator: User
) -> None:
    transfer = make(name="a")
    pages = ["/clients/", "/transfers/", "/clients/client1/", f"/transfers/{transfer.pk}/"]
    assert len(pages) == len(LOOKS)
    newcomer = User.objects.create_user("newcomer")
    for path in pages:
        with pytest.raises(Gone):
            seen(newcomer, path)
    Scope.objects.create(user=operator).labels.add(Label.objects.create(name="rome"))
    narrowed = User.objects.get(pk=operator.pk)
    for path in pages[:2]:
        assert seen(narrowed, path).order == ()
    for path in pages[2:]:
        with pytest.raises(Gone):
            seen(narrowed, path)


# The socket --------------------------------------------------------------------------------------


def cookie_of(user: User) -> str:
    browser = Browser()
    browser.force_login(user)
    return f"sessionid={browser.cookies['sessionid'].value}"


@asynccontextmanager
async def opened(
    cookie: str = "", page: str = "/transfers/", origin: str = "http://testserver"
) -> AsyncIterator[tuple[bool, WebsocketCommunicator]]:
    """A page's socket, and whether it was let in."""
    headers = {"host": "testserver", "origin": origin, "cookie": cookie}
    socket = WebsocketCommunicator(
        live.console,
        f"/ws/console/?{urlencode({'page': page})}",
        headers=[(name.encode(), value.encode()) for name, value in headers.items() if value],
    )
    connected, _ = await socket.connect(timeout=PATIENCE)
    yield connected, socket
    await socket.disconnect(timeout=PATIENCE)


@pytest.mark.parametrize(
    ("origin", "let_in"),
    [
        ("http://testserver", True),
        ("https://testserver", True),
        ("http://testserver:8001", False),
        ("https://evil.example", False),
        ("null", False),
        ("http://[", False),
        ("", False),
    ],
)
async def test_only_our_own_pages_are_let_in(operator: User, origin: str, let_in: bool) -> None:
    cookie = await sync_to_async(cookie_of)(operator)
    async with opened(cookie, origin=origin) as (connected, _):
        assert connected is let_in


async def test_nobody_is_not_let_in() -> None:
    async with opened() as (connected, _):
        assert not connected


async def test_what_changes_is_pushed(make: Make, operator: User) -> None:
    transfer = await sync_to_async(make)(name="a", size=10, received=1)
    cookie = await sync_to_async(cookie_of)(operator)
    async with opened(cookie) as (_, socket):
        assert "10 %" in await socket.receive_from(timeout=PATIENCE)
        await Transfer.objects.filter(pk=transfer.pk).aupdate(received=7)
        assert "70 %" in await socket.receive_from(timeout=PATIENCE)


async def test_who_logs_out_sees_no_more(
    make: Make, operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SURE_SECONDS", 0)
    await sync_to_async(make)(name="a")
    browser = Browser()
    await sync_to_async(browser.force_login)(operator)
    async with opened(f"sessionid={browser.cookies['sessionid'].value}") as (_, socket):
        await socket.receive_from(timeout=PATIENCE)
        await sync_to_async(browser.logout)()
        assert "Not live" in await socket.receive_from(timeout=PATIENCE)
        assert (await socket.receive_output(timeout=PATIENCE))["code"] == 4003


async def test_a_right_that_is_taken_away_ends_it(
    make: Make, client1: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SURE_SECONDS", 0)
    user = await sync_to_async(somebody)("vera", "view_client")
    cookie = await sync_to_async(cookie_of)(user)
    async with opened(cookie, "/clients/") as (_, socket):
        await socket.receive_from(timeout=PATIENCE)
        await sync_to_async(user.user_permissions.clear)()
        assert "Not live" in await socket.receive_from(timeout=PATIENCE)


async def test_a_user_has_a_bound_of_open_pages(
    operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live._pages, "most", 1)
    cookie = await sync_to_async(cookie_of)(operator)
    async with opened(cookie) as (first, socket):
        await socket.receive_from(timeout=PATIENCE)
        async with opened(cookie) as (second, _):
            assert (first, second) == (True, False)


async def test_a_quiet_page_is_kept_open(operator: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(live, "QUIET_SECONDS", 0.05)
    cookie = await sync_to_async(cookie_of)(operator)
    async with opened(cookie) as (_, socket):
        await socket.receive_from(timeout=PATIENCE)
        assert await socket.receive_from(timeout=PATIENCE) == "<!-- -->"


async def test_a_page_that_talks_is_closed(operator: User) -> None:
    cookie = await sync_to_async(cookie_of)(operator)
    async with opened(cookie) as (_, socket):
        await socket.send_to(text_data="hello")
        while (said := await socket.receive_output(timeout=PATIENCE))["type"] != "websocket.close":
            await asyncio.sleep(0)
        assert said["code"] == 4008
