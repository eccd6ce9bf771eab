"""One agent's connection, from the handshake to its end: the ASGI application, without a socket."""

import asyncio
import contextlib
import gc
import hashlib
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from asgiref.sync import sync_to_async
from autobahn.exception import Disconnected
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.urls import path
from django.utils import timezone
from pytest_django import Settings

from agent.wire.codec import decode, encode
from agent.wire.errors import CloseCode
from agent.wire.messages import (
    MAX_CHUNK,
    MIN_CHUNK,
    PROTOCOL,
    Abort,
    Ack,
    Cancel,
    Chunk,
    End,
    Heartbeat,
    Hello,
    Landed,
    Message,
    Offer,
    Request,
    Start,
    Welcome,
)
from transfers import consumers, dispatch, rollcall
from transfers.attendant import Attendant
from transfers.consumers import AgentConsumer, refuse
from transfers.models import HEARTBEAT, LEASE, Client, Transfer, request_file
from transfers.tokens import digest, new_token

AT_ONCE = 8
"""SILENTMODE_MAX_ACTIVE_PER_CLIENT, by default."""

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = 20
DATA = b"0123456789abcdef" * 4096
SHA = hashlib.sha256(DATA).hexdigest()
HELLO = Hello(PROTOCOL, "1.2", "Linux", "till-7")

# Django's types know views only; channels routes to ASGI applications.
routes: list[Any] = [path("ws/agent/<client_id>/", AgentConsumer.as_asgi())]  # type: ignore[arg-type]
application: Any = URLRouter(routes)

M = TypeVar("M", bound=Message)


class Line:
    """An agent's end of a connection: what a test says, and what it hears."""

    def __init__(
        self,
        token: str,
        client: str = "client1",
        *,
        subprotocols: tuple[str, ...] = (PROTOCOL,),
        **headers: str,
    ) -> None:
        all_headers = {"authorization": f"Bearer {token}"} | headers
        self.socket = WebsocketCommunicator(
            application,
            f"/ws/agent/{client}/",
            headers=[(name.encode(), value.encode()) for name, value in all_headers.items()],
            subprotocols=list(subprotocols),
        )

    async def connect(self) -> tuple[bool, Any]:
        return await self.socket.connect(timeout=PATIENCE)

    async def greet(self) -> Welcome:
        await self.say(HELLO)
        return await self.hear(Welcome)

    async def say(self, message: Message | str | bytes) -> None:
        data = message if isinstance(message, str | bytes) else encode(message)
        kind = "bytes" if isinstance(data, bytes) else "text"
        await self.socket.send_input({"type": "websocket.receive", kind: data})

    async def next(self) -> dict[str, Any]:
        return dict(await self.socket.receive_output(timeout=PATIENCE))

    async def hear(self, kind: type[M]) -> M:
        """The next message of this kind; before it only heartbeats and acks may come."""
        while True:
            event = await self.next()
            assert event["type"] == "websocket.send", event
            message = decode(event["text"])
            if isinstance(message, kind):
                return message
            assert isinstance(message, Heartbeat | Ack), message

    async def last_words(self) -> tuple[list[Message], object]:
        """What the server says until it closes, and the close code."""
        heard: list[Message] = []
        while (event := await self.next())["type"] == "websocket.send":
            heard.append(decode(event["text"]))
        assert event["type"] == "websocket.close"
        return heard, event.get("code")

    async def offer(self, size: int = len(DATA)) -> Start:
        request = await self.hear(Request)
        await self.say(Offer(request.transfer, "till.db", size, 0, "1", request.path))
        return await self.hear(Start)

    async def silent(self) -> None:
        """A heartbeat is answered, and nothing was said before the answer."""
        await self.say(Heartbeat())
        event = await self.next()
        assert decode(event["text"]) == Heartbeat()


@asynccontextmanager
async def connected(token: str) -> AsyncIterator[Line]:
    """A connection that has been welcomed; gone afterwards."""
    line = Line(token)
    assert await line.connect() == (True, PROTOCOL)
    await line.greet()
    try:
        yield line
    finally:
        await line.socket.disconnect(timeout=PATIENCE)


@pytest.fixture
async def line(client1: Client, token: str) -> AsyncIterator[Line]:
    """`client1`, connected and welcomed."""
    async with connected(token) as line:
        yield line


async def ask(client: Client, path: str | None = "/a") -> Transfer:
    return await sync_to_async(request_file)(client, path, duplicate=True)


async def fresh(transfer: Transfer) -> Transfer:
    return await Transfer.objects.aget(pk=transfer.pk)


async def row(client: Client) -> Client:
    return await Client.objects.aget(pk=client.pk)


def chunk(transfer: Transfer, offset: int = 0, size: int = 4096) -> Chunk:
    return Chunk(transfer.pk, offset, DATA[offset : offset + size])


# The handshake -----------------------------------------------------------------------------------


async def refused(line: Line) -> None:
    accepted, _ = await line.connect()
    assert not accepted
    await line.socket.disconnect(timeout=PATIENCE)


async def test_an_unknown_token_is_refused_before_accept(client1: Client) -> None:
    await refused(Line(new_token()))


async def test_a_token_of_another_client_is_refused_before_accept(
    client1: Client, token: str
) -> None:
    await Client.objects.acreate(id="client2", token_sha256=digest(new_token()))
    await refused(Line(token, "client2"))


async def test_a_browser_is_refused_before_accept(client1: Client, token: str) -> None:
    await refused(Line(token, origin="https://silentmode.example"))


@pytest.mark.parametrize("subprotocols", [(), ("silentmode.v0",)])
async def test_who_does_not_speak_the_protocol_is_refused_before_accept(
    client1: Client, token: str, subprotocols: tuple[str, ...]
) -> None:
    await refused(Line(token, subprotocols=subprotocols))


async def test_a_revoked_client_is_refused_before_accept(client1: Client, token: str) -> None:
    await sync_to_async(client1.revoke)()
    await refused(Line(token))


async def test_a_refused_connection_leaves_the_client_as_it_was(
    client1: Client, token: str
) -> None:
    await refused(Line(token, subprotocols=()))
    assert ((await row(client1)).epoch, (await row(client1)).online_until) == (0, None)


async def test_any_other_path_is_refused() -> None:
    socket = WebsocketCommunicator(refuse, "/ws/other/")
    assert (await socket.connect(timeout=PATIENCE))[0] is False
    await socket.wait(PATIENCE)


# Hello and welcome -------------------------------------------------------------------------------


async def test_hello_is_answered_with_what_the_agent_has_to_know(
    client1: Client, token: str
) -> None:
    line = Line(token)
    await line.connect()
    welcome = await line.greet()
    assert (welcome.client, welcome.heartbeat, welcome.max_chunk) == (
        "client1", HEARTBEAT, MAX_CHUNK,
    )  # fmt: skip
    client = await row(client1)
    assert (client.platform, client.hostname, client.agent_version) == ("Linux", "till-7", "1.2")
    assert client.online
    await line.socket.disconnect(timeout=PATIENCE)


async def test_the_largest_chunk_is_the_server_s_to_say(
    client1: Client, token: str, settings: Settings
) -> None:
    settings.MAX_CHUNK = MIN_CHUNK
    transfer = await ask(client1)
    line = Line(token)
    await line.connect()
    assert (await line.greet()).max_chunk == MIN_CHUNK
    await line.offer(2 * MIN_CHUNK)
    await line.say(Chunk(transfer.pk, 0, bytes(MIN_CHUNK + 1)))
    heard, code = await line.last_words()
    assert isinstance(heard[-1], Abort)
    assert heard[-1].detail == f"a chunk of {MIN_CHUNK + 1} bytes is longer than allowed"
    assert code == CloseCode.PROTOCOL_ERROR
    await line.socket.disconnect(timeout=PATIENCE)


async def test_who_has_not_said_hello_is_not_online(client1: Client, token: str) -> None:
    line = Line(token)
    await line.connect()
    assert not (await row(client1)).online
    await line.socket.disconnect(timeout=PATIENCE)


async def test_who_says_no_hello_is_sent_away(
    client1: Client, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "HELLO_SECONDS", 0.01)
    line = Line(token)
    await line.connect()
    heard, code = await line.last_words()
    assert (heard, code) == ([Abort(None, "timed_out", "no hello")], CloseCode.POLICY_VIOLATION)
    await line.socket.disconnect(timeout=PATIENCE)


async def test_who_said_hello_in_time_stays(
    client1: Client, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_longer_expected = asyncio.Event()
    expect = AgentConsumer._expect_hello

    async def expecting(self: AgentConsumer) -> None:
        try:
            await expect(self)
        finally:
            no_longer_expected.set()

    monkeypatch.setattr(consumers, "HELLO_SECONDS", PATIENCE)
    monkeypatch.setattr(AgentConsumer, "_expect_hello", expecting)
    async with connected(token) as line:
        async with asyncio.timeout(PATIENCE / 2):
            await no_longer_expected.wait()
        await line.silent()


async def test_each_accepted_connection_has_a_higher_epoch(client1: Client, token: str) -> None:
    for epoch in (1, 2, 3):
        async with connected(token):
            assert (await row(client1)).epoch == epoch


async def test_another_version_of_the_protocol_is_told_so(client1: Client, token: str) -> None:
    line = Line(token)
    await line.connect()
    await line.say(Hello("silentmode.v9", "1", "", ""))
    (abort,), code = await line.last_words()
    assert isinstance(abort, Abort)
    assert (abort.code, code) == ("protocol_error", CloseCode.PROTOCOL_ERROR)
    assert "silentmode.v9" in abort.detail
    await line.socket.disconnect(timeout=PATIENCE)


# Presence ----------------------------------------------------------------------------------------


async def test_more_heartbeats_than_a_stalled_link_brings_at_once_end_the_connection(
    line: Line,
) -> None:
    for _ in range(consumers.HEARTBEATS_AT_ONCE + 3):
        await line.say(Heartbeat())
    heard, code = await line.last_words()
    assert isinstance(heard[-1], Abort)
    assert heard[-1].detail == "too many heartbeats"
    assert code == 4008


async def test_a_heartbeat_is_answered_and_renews_the_lease(line: Line, client1: Client) -> None:
    past = timezone.now() - timedelta(hours=1)
    await Client.objects.filter(pk=client1.pk).aupdate(online_until=past)
    await line.say(Heartbeat())
    assert await line.hear(Heartbeat) == Heartbeat()
    await rollcall.of_this_process().call()
    until = (await row(client1)).online_until
    assert until is not None
    assert until > timezone.now() + LEASE / 2


async def test_who_disconnects_is_offline_at_once(client1: Client, token: str) -> None:
    async with connected(token):
        assert (await row(client1)).online
    assert not (await row(client1)).online


async def test_who_disconnects_hears_the_doorbell_no_more(client1: Client, token: str) -> None:
    async with connected(token), asyncio.timeout(PATIENCE):
        while "client1" not in dispatch.here._rings:
            await asyncio.sleep(0)
    assert "client1" not in dispatch.here._rings


async def test_a_connection_that_has_ended_is_gone_without_the_garbage_collector(
    client1: Client, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for garbage seldom, and thousands of agents may come and go in between."""
    made: list[weakref.ref[Attendant]] = []
    begin = Attendant.__init__

    def remember(self: Attendant, *args: Any, **kwargs: Any) -> None:
        made.append(weakref.ref(self))
        begin(self, *args, **kwargs)

    monkeypatch.setattr(Attendant, "__init__", remember)
    gc.disable()
    try:
        async with connected(token) as line:
            await line.silent()
        del line
        async with asyncio.timeout(PATIENCE):
            while made[0]() is not None:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_an_application_that_fails_closes_its_connection(
    client1: Client, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Daphne finds out later; meanwhile its agent would talk to nobody."""

    def fails(*args: Any) -> None:
        raise RuntimeError("a bug")

    line = Line(token)
    await line.connect()
    monkeypatch.setattr(AgentConsumer, "_receive", fails)
    await line.say(Heartbeat())
    assert (await line.next())["type"] == "websocket.close"
    with pytest.raises(RuntimeError, match="a bug"):
        await line.socket.wait(PATIENCE)


# The doorbell ------------------------------------------------------------------------------------


async def test_a_request_reaches_the_agent_at_once(line: Line, client1: Client) -> None:
    transfer = await ask(client1)
    assert await line.hear(Request) == Request(transfer.pk, "/a", None)


async def test_what_was_asked_for_while_the_client_was_away_waits_for_it(
    client1: Client, token: str
) -> None:
    transfer = await ask(client1)
    async with connected(token) as line:
        assert await line.hear(Request) == Request(transfer.pk, "/a", None)


async def test_a_ring_that_was_lost_is_made_good_at_the_next_look(
    line: Line, client1: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollcall, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(dispatch, "ring_from_sync", lambda client_id: None)
    transfer = await ask(client1)
    assert (await line.hear(Request)).transfer == transfer.pk


async def test_so_many_transfers_at_once_and_no_more(line: Line, client1: Client) -> None:
    rows = [await ask(client1, f"/{number}") for number in range(AT_ONCE + 1)]
    for _ in range(AT_ONCE):
        await line.hear(Request)
    await line.silent()
    await line.say(Abort(rows[0].pk, "not_found", path=rows[0].path))
    assert (await line.hear(Request)).transfer == rows[AT_ONCE].pk


# A transfer --------------------------------------------------------------------------------------


async def test_a_file_lands(line: Line, client1: Client, data_dir: Path) -> None:
    transfer = await ask(client1)
    await line.offer()
    for offset in range(0, len(DATA), 4096):
        await line.say(chunk(transfer, offset))
    await line.say(End(transfer.pk, len(DATA), SHA, "1", "till.db"))
    assert await line.hear(Landed) == Landed(transfer.pk, SHA)
    (landed,) = (data_dir / "downloads").iterdir()
    assert landed.read_bytes() == DATA
    assert (await fresh(transfer)).status == "completed"


async def test_a_cancel_reaches_the_agent(line: Line, client1: Client) -> None:
    transfer = await ask(client1)
    await line.offer()
    await line.say(chunk(transfer))
    await line.hear(Ack)
    await sync_to_async((await fresh(transfer)).cancel)()
    assert await line.hear(Cancel) == Cancel(transfer.pk)
    await line.say(chunk(transfer, 4096))  # it was on its way
    await line.say(Abort(transfer.pk, "cancelled"))
    await line.silent()


async def test_a_disconnect_keeps_what_arrived(client1: Client, token: str) -> None:
    transfer = await ask(client1)
    async with connected(token) as line:
        await line.offer()
        await line.say(chunk(transfer))
        await line.hear(Ack)
    kept = await fresh(transfer)
    assert (kept.status, kept.checkpoint) == ("interrupted", 4096)
    assert transfer.partial_path.read_bytes() == DATA[:4096]


async def test_a_server_that_is_stopped_keeps_what_arrived(client1: Client, token: str) -> None:
    """Daphne cancels the application on SIGTERM; nothing says `websocket.disconnect`."""
    line = Line(token)
    await line.connect()
    await line.greet()
    transfer = await ask(client1)
    await line.offer()
    await line.say(chunk(transfer))
    await line.hear(Ack)
    line.socket.future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await line.socket.future
    kept = await fresh(transfer)
    assert (kept.status, kept.checkpoint) == ("interrupted", 4096)
    assert transfer.partial_path.read_bytes() == DATA[:4096]
    assert not (await row(client1)).online


async def test_an_agent_that_ends_the_conversation_is_let_go(line: Line, client1: Client) -> None:
    await line.say(Abort(None, "internal", "bye"))
    assert await line.last_words() == ([], None)


# Who has to go -----------------------------------------------------------------------------------


async def test_a_newer_connection_closes_the_older(line: Line, client1: Client, token: str) -> None:
    async with connected(token) as newer:
        heard, code = await line.last_words()
        assert (code, type(code)) == (4001, int)
        assert [abort.code for abort in heard if isinstance(abort, Abort)] == ["cancelled"]
        transfer = await ask(client1)
        assert (await newer.hear(Request)).transfer == transfer.pk
        await line.socket.disconnect(timeout=PATIENCE)
        assert (await row(client1)).online, "the newer keeps the lease"


async def test_a_transfer_moves_to_the_newer_connection_with_all_that_arrived(
    line: Line, client1: Client, token: str
) -> None:
    transfer = await ask(client1)
    await line.offer()
    await line.say(chunk(transfer))
    await line.hear(Ack)
    async with connected(token) as newer:
        await line.last_words()
        await line.socket.disconnect(timeout=PATIENCE)
        start = await newer.offer()
        assert start.transfer == transfer.pk
        assert (await fresh(transfer)).epoch == 2


async def test_a_revoked_client_is_told_so_and_closed(line: Line, client1: Client) -> None:
    transfer = await ask(client1)
    await line.hear(Request)
    await sync_to_async(client1.revoke)()
    heard, code = await line.last_words()
    assert (code, type(code)) == (4003, int)
    assert heard == [Abort(None, "revoked")]
    assert (await fresh(transfer)).error_code == "revoked"


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (encode(HELLO), 4002),
        ("{", 4007),
        ('{"type": "doorbell"}', 4002),
        (b"too short", 4002),
        ("x" * 70_000, 4008),
    ],
    ids=["second hello", "no JSON", "unknown type", "short chunk", "too long"],
)
async def test_who_breaks_the_rules_is_told_so_and_closed(
    line: Line, bad: str | bytes, code: int
) -> None:
    await line.say(bad)
    (abort,), closed = await line.last_words()
    assert isinstance(abort, Abort)
    assert (abort.transfer, abort.code) == (None, "protocol_error")
    assert abort.detail
    assert (closed, type(closed)) == (code, int), "autobahn refuses an enum"


async def test_who_sends_beyond_the_limit_is_closed_for_it(
    line: Line, client1: Client, settings: Any
) -> None:
    settings.WINDOW = 4096
    transfer = await ask(client1)
    await line.offer()
    await line.say(encode(Chunk(transfer.pk, 0, DATA[:4097])))
    (abort,), code = await line.last_words()
    assert isinstance(abort, Abort)
    assert (abort.code, code) == ("protocol_error", 4008)


async def test_what_comes_after_a_broken_rule_is_ignored(line: Line, client1: Client) -> None:
    await line.say("{")
    await line.say("{")
    await line.say(b"?")
    await line.say(Heartbeat())
    heard, code = await line.last_words()
    assert (len(heard), code) == (1, 4007)
    await line.socket.disconnect(timeout=PATIENCE)
    assert line.socket.output_queue.empty()


async def test_a_transfer_of_who_broke_the_rules_waits_with_what_arrived(
    client1: Client, token: str
) -> None:
    transfer = await ask(client1)
    async with connected(token) as line:
        await line.offer()
        await line.say(chunk(transfer))
        await line.hear(Ack)
        await line.say("{")
        await line.last_words()
    kept = await fresh(transfer)
    assert (kept.status, kept.checkpoint) == ("interrupted", 4096)
    assert (kept.error_code, kept.setbacks) == ("protocol_error", 1)


async def test_who_broke_the_rules_is_given_no_more_work(
    client1: Client, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: asyncio.Queue[None] = asyncio.Queue()
    look = Attendant._look

    async def looked(self: Attendant) -> None:
        await look(self)
        looks.put_nowait(None)

    monkeypatch.setattr(Attendant, "_look", looked)
    async with connected(token) as line:
        await line.say("{")
        await line.last_words()
        transfer = await ask(client1)
        with contextlib.suppress(TimeoutError):  # it need not look at all
            async with asyncio.timeout(0.3):
                while True:
                    await looks.get()
    assert (await fresh(transfer)).attempts == 0


async def test_sending_to_a_socket_that_is_gone_is_no_failure(
    line: Line, client1: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(message: object) -> None:
        raise Disconnected("gone")

    monkeypatch.setattr(line.socket.output_queue, "put", gone)
    await line.say(Heartbeat())
    await line.socket.disconnect(timeout=PATIENCE)
    assert not (await row(client1)).online
