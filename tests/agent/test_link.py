"""The link: a real agent's end against a scripted server on a real socket."""

import asyncio
import contextlib
import gc
import itertools
import json
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from agent.link import (
    MAX_DELAY,
    MIN_DELAY,
    STABLE_SECONDS,
    Identity,
    Link,
    LinkDown,
    Refused,
    ask_why,
    delays,
    stay_online,
)
from agent.source import Policy
from agent.wire.errors import CloseCode
from agent.wire.messages import (
    PROTOCOL,
    Abort,
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
from agent.wire.session import Session
from agent.wire.state import Side

pytestmark = pytest.mark.timeout(60)

TRANSFER = UUID("12345678-1234-5678-1234-567812345678")
TOKEN = "the-token"
SECONDS = 20.0
"""For what should take none."""

M = TypeVar("M", bound=Message)


class Server:
    """The server's end of one conversation."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.session = Session(Side.SERVER)

    async def say(self, message: Message) -> None:
        await self.socket.send(self.session.send(message))

    async def hear(self, kind: type[M]) -> M:
        """The next message, which must be of this kind."""
        async with asyncio.timeout(SECONDS):
            message = self.session.receive(await self.socket.recv())
        assert isinstance(message, kind), message
        return message

    async def welcome(self, heartbeat: int = 30) -> None:
        hello = await self.hear(Hello)
        assert hello.protocol == PROTOCOL
        await self.say(Welcome("client1", heartbeat, 512 * 1024, "2026-11-23T06:32:00Z"))

    async def pull(self, path: str | None = None, transfer: UUID = TRANSFER) -> bytes:
        """A whole file."""
        await self.say(Request(transfer, path))
        offer = await self.hear(Offer)
        await self.say(Start(transfer, ((0, offer.size),), offer.size))
        data = b""
        while len(data) < offer.size:
            data += (await self.hear(Chunk)).payload
        end = await self.hear(End)
        await self.say(Landed(transfer, end.sha256))
        return data

    async def gone(self) -> int:
        """The code that the agent closes with; what it sends before is dropped."""
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.socket.recv()
        return self.socket.close_code or 0


Script = Callable[[Server], Awaitable[None]]
Answer = Callable[[HttpRequest], tuple[int, dict[str, str], bytes] | None]


@contextlib.asynccontextmanager
async def serving(script: Script, answer: Answer | None = None) -> AsyncIterator[str]:
    """A server that plays the script with each agent, and its URL. A failed script fails the test.

    `answer`: status, headers and body for a request, or None to go on with the WebSocket.
    """
    failures: list[BaseException] = []

    async def play(connection: ServerConnection) -> None:
        try:
            await script(Server(connection))
        except Exception as failure:
            failures.append(failure)

    def process(connection: ServerConnection, request: HttpRequest) -> Response | None:
        answered = answer(request) if answer else None
        if answered is None:
            return None
        status, headers, body = answered
        response = connection.respond(HTTPStatus(status), "")
        del response.headers["Content-Length"]
        response.headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            response.headers[name] = value
        response.body = body
        return response

    async with serve(
        play,
        "127.0.0.1",
        0,
        subprotocols=[PROTOCOL],  # type: ignore[list-item]  # a NewType of str
        compression=None,
        process_request=process,
        close_timeout=2,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}"
    if failures:
        raise failures[0]


def refusing(code: str, detail: str = "No.") -> Answer:
    """What the product's server does: a bare 403 to a handshake, and the reason to who asks."""

    def answer(request: HttpRequest) -> tuple[int, dict[str, str], bytes]:
        if "Upgrade" in request.headers:
            return 403, {}, b""
        status = 401 if code == "unauthorized" else 403
        return status, {}, json.dumps({"code": code, "detail": detail}).encode()

    return answer


async def never(server: Server) -> None:
    raise AssertionError("no agent should come this far")


async def welcome(server: Server) -> None:
    """Greet the agent, and stay until it goes."""
    await server.welcome()
    await server.gone()


def identity(url: str) -> Identity:
    return Identity(url, "client1", TOKEN)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's proxy is not for a server on this machine."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a test leaves behind is complained about in this test, not in the middle of another."""
    yield
    gc.collect()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "data.bin"
    file.write_bytes(os.urandom(300_000))
    return file


async def link_ends(url: str, policy: Policy | None = None, *, within: float = SECONDS) -> str:
    """Run one link until it is down; why."""
    async with asyncio.timeout(within):
        with pytest.raises(LinkDown) as down:
            await Link(identity(url), policy or Policy()).serve()
    return str(down.value)


# One connection


def test_the_address_carries_the_id_and_the_header_the_token() -> None:
    who = Identity("wss://files.example.com", "till 1/2", TOKEN)
    assert who.url == "wss://files.example.com/ws/agent/till%201%2F2/"
    assert TOKEN not in who.url
    assert who.headers == {"Authorization": f"Bearer {TOKEN}"}


async def test_it_introduces_itself_and_is_registered(capsys: pytest.CaptureFixture[str]) -> None:
    async def script(server: Server) -> None:
        assert server.socket.request is not None
        assert server.socket.request.path == "/ws/agent/client1/"
        assert server.socket.request.headers["Authorization"] == f"Bearer {TOKEN}"
        assert "Origin" not in server.socket.request.headers
        assert "Sec-WebSocket-Extensions" not in server.socket.request.headers
        assert server.socket.subprotocol == "silentmode.v1"
        hello = await server.hear(Hello)
        assert hello.protocol == "silentmode.v1"
        assert hello.hostname
        await server.say(Welcome("client1", 30, 512 * 1024, ""))

    async with serving(script) as url:
        await link_ends(url)
    assert capsys.readouterr().err.splitlines() == [f"connected to {url}", "registered as client1"]


async def test_a_file_is_pulled(file: Path) -> None:
    async def script(server: Server) -> None:
        await server.welcome()
        assert await server.pull() == file.read_bytes()

    async with serving(script) as url:
        await link_ends(url, Policy(file))


async def test_the_same_transfer_may_be_asked_for_again(file: Path) -> None:
    """A source that changed is asked for anew, under the same id, on the same connection."""

    async def script(server: Server) -> None:
        await server.welcome()
        for _ in range(3):
            await server.say(Request(TRANSFER))
            await server.hear(Offer)
            await server.say(Cancel(TRANSFER))
            assert await server.hear(Abort) == Abort(TRANSFER, "cancelled")
        assert await server.pull() == file.read_bytes()

    async with serving(script) as url:
        await link_ends(url, Policy(file))


async def test_two_transfers_at_once_do_not_wait_for_each_other(file: Path) -> None:
    async def script(server: Server) -> None:
        await server.welcome()
        stalled = UUID(int=1)
        await server.say(Request(stalled))
        await server.hear(Offer)
        await server.say(Start(stalled, ((0, 10),), 0))
        assert await server.pull() == file.read_bytes()

    async with serving(script) as url:
        await link_ends(url, Policy(file))


async def test_it_sends_heartbeats_and_is_content_with_the_answers() -> None:
    async def script(server: Server) -> None:
        await server.welcome(heartbeat=1)
        for _ in range(4):  # longer than the three that make it give up
            await server.hear(Heartbeat)
            await server.say(Heartbeat())

    async with serving(script) as url:
        assert await link_ends(url) == "the server closed it (code 1000)"


async def test_three_heartbeats_of_silence_are_a_dead_link() -> None:
    async def script(server: Server) -> None:
        await server.welcome(heartbeat=1)
        assert await server.gone() == 1006, "a dead link is cut, without a good-bye"

    async with serving(script) as url:
        began = asyncio.get_running_loop().time()
        assert await link_ends(url) == "nothing heard for 3 s"
        assert 2.5 < asyncio.get_running_loop().time() - began < 6


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ("{}", CloseCode.PROTOCOL_ERROR),
        ("not JSON", CloseCode.INVALID_DATA),
        (b"short", CloseCode.PROTOCOL_ERROR),
        ("[1]", CloseCode.PROTOCOL_ERROR),
    ],
)
async def test_a_server_that_breaks_the_rules_is_told_so_and_left(
    wrong: str | bytes, code: CloseCode
) -> None:
    async def script(server: Server) -> None:
        await server.welcome()
        await server.socket.send(wrong)
        assert (await server.hear(Abort)).code == "protocol_error"
        assert await server.gone() == code

    async with serving(script) as url:
        assert (await link_ends(url)).startswith("the server broke the protocol: ")


async def test_a_server_that_breaks_the_rules_is_told_so_in_the_middle_of_a_transfer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not that the agent failed inside."""
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(256 * 1024**2)

    async def script(server: Server) -> None:
        await server.welcome()
        await server.say(Request(TRANSFER))
        offer = await server.hear(Offer)
        await server.say(Start(TRANSFER, ((0, offer.size),), offer.size))
        await server.hear(Chunk)
        await server.socket.send("{}")
        assert await server.gone() == CloseCode.PROTOCOL_ERROR

    async with serving(script) as url:
        assert (await link_ends(url, Policy(big))).startswith("the server broke the protocol: ")
    assert "failed inside" not in capsys.readouterr().err


async def test_a_server_that_breaks_the_rules_and_does_not_read_is_left_soon(
    tmp_path: Path,
) -> None:
    """An agent that waits for ever to say good-bye is lost to its operators."""
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(256 * 1024**2)
    done = asyncio.Event()

    async def script(server: Server) -> None:
        await server.welcome(heartbeat=1)
        await server.say(Request(TRANSFER))
        offer = await server.hear(Offer)
        await server.say(Start(TRANSFER, ((0, offer.size),), offer.size))
        await asyncio.sleep(1)  # until the agent's buffers are full
        await server.socket.send("{}")
        await done.wait()
        server.socket.transport.abort()

    async with serving(script) as url:
        try:
            await link_ends(url, Policy(big), within=8)
        finally:
            done.set()


async def test_a_server_that_does_not_read_is_left_once_it_is_silent(tmp_path: Path) -> None:
    """Full buffers in the middle of a transfer hold up neither the noticing nor the leaving."""
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(256 * 1024**2)
    done = asyncio.Event()

    async def script(server: Server) -> None:
        await server.welcome(heartbeat=1)
        await server.say(Request(TRANSFER))
        offer = await server.hear(Offer)
        await server.say(Start(TRANSFER, ((0, offer.size),), offer.size))
        await done.wait()
        server.socket.transport.abort()

    async with serving(script) as url:
        try:
            assert await link_ends(url, Policy(big)) == "nothing heard for 3 s"
        finally:
            done.set()


async def test_an_abort_of_the_conversation_ends_the_link() -> None:
    async def script(server: Server) -> None:
        await server.welcome()
        await server.say(Abort(None, "internal", "Restarting."))
        await server.gone()

    async with serving(script) as url:
        assert await link_ends(url) == "the server says: Restarting. (internal)"


async def test_revoked_access_is_final() -> None:
    async def script(server: Server) -> None:
        await server.welcome()
        await server.say(Abort(None, "revoked", "This client was removed."))
        await server.gone()

    async with serving(script) as url:
        with pytest.raises(Refused, match=r"This client was removed\. \(revoked\)"):
            await Link(identity(url), Policy()).serve()


async def test_a_second_agent_with_the_same_token_is_named_as_the_reason() -> None:
    async def script(server: Server) -> None:
        await server.welcome()
        await server.socket.close(CloseCode.SUPERSEDED)

    async with serving(script) as url:
        assert await link_ends(url) == "another agent connected with this client's token"


async def test_a_cut_connection_is_a_lost_link() -> None:
    async def script(server: Server) -> None:
        await server.welcome()
        server.socket.transport.abort()

    async with serving(script) as url:
        assert await link_ends(url) == "the link was lost"


async def test_a_link_lost_in_the_middle_of_a_transfer_leaves_no_task_behind(file: Path) -> None:
    async def script(server: Server) -> None:
        await server.welcome()
        await server.say(Request(TRANSFER))
        await server.hear(Offer)
        await server.say(Start(TRANSFER, ((0, 300_000),), 1000))
        await server.hear(Chunk)
        server.socket.transport.abort()

    async with serving(script) as url:
        await link_ends(url, Policy(file))
        await asyncio.sleep(0)
        running = [task.get_coro() for task in asyncio.all_tasks()]
        names = {getattr(coroutine, "__qualname__", "") for coroutine in running}
        assert not {name for name in names if name.startswith(("Sending.", "Link."))}


# Staying online


class Pauses:
    """Pauses of no length, counted; the one after `enough` does not end."""

    def __init__(self, enough: int) -> None:
        self.lives = 0
        """How often the delays began again."""
        self.taken = 0
        self.enough = asyncio.Event()
        self._most = enough

    def __call__(self) -> Iterator[float]:
        self.lives += 1
        while True:
            self.taken += 1
            if self.taken >= self._most:
                self.enough.set()
                yield 3600.0
            yield 0.0


async def tries_again(url: str, pauses: Pauses, clock: Callable[[], float] | None = None) -> None:
    """Stay online until there were enough pauses; whatever ends it earlier is raised."""
    options = {"clock": clock} if clock else {}
    online = asyncio.create_task(stay_online(identity(url), Policy(), pauses=pauses, **options))
    enough = asyncio.create_task(pauses.enough.wait())
    await asyncio.wait([online, enough], timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
    try:
        if online.done():
            online.result()
        assert enough.done()
    finally:
        online.cancel()
        enough.cancel()
        await asyncio.wait([online, enough])


async def is_refused(url: str) -> str:
    """Stay online until refused for good; why."""
    with pytest.raises(Refused) as refused:
        await tries_again(url, Pauses(2))
    return str(refused.value)


async def test_a_lost_link_is_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    async def script(server: Server) -> None:
        await server.welcome()
        server.socket.transport.abort()

    async with serving(script) as url:
        await tries_again(url, Pauses(3))
    said = capsys.readouterr().err.splitlines()
    assert said.count("registered as client1") == 3
    assert "offline: the link was lost; trying again in 0.0 s" in said


async def test_a_server_that_is_not_there_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    await tries_again(f"ws://127.0.0.1:{port}", Pauses(3))


@pytest.mark.parametrize("status", [404, 429, 500, 502, 503])
async def test_a_server_in_trouble_is_tried_again(
    status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(never, lambda request: (status, {}, b"")) as url:
        await tries_again(url, Pauses(3))
    assert f"the server answered HTTP {status}" in capsys.readouterr().err


async def test_what_is_no_websocket_server_is_tried_again() -> None:
    """A captive portal, say."""
    async with serving(never, lambda request: (200, {}, b"<html>Log in")) as url:
        await tries_again(url, Pauses(3))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Forbidden</html>",
        b"[]",
        b"null",
        b'"revoked"',
        b'{"code": "revoked"}',
        b'{"code": "overloaded", "detail": "Later."}',
        b"\xff\xfe",
        b'{"code": "revoked", "detail": "' + b"x" * 5000,
    ],
)
async def test_a_403_without_a_clear_reason_may_pass(body: bytes) -> None:
    """An overloaded server answers so, and many a proxy."""
    async with serving(never, lambda request: (403, {}, body)) as url:
        await tries_again(url, Pauses(2))


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_a_reason_counts_only_in_a_refusal(status: int) -> None:
    def answer(request: HttpRequest) -> tuple[int, dict[str, str], bytes]:
        if "Upgrade" in request.headers:
            return 403, {}, b""
        return status, {}, b'{"code": "revoked", "detail": "No."}'

    async with serving(never, answer) as url:
        await tries_again(url, Pauses(2))


async def test_a_wrong_id_is_final() -> None:
    async with serving(never, refusing("wrong_id", "This token is of client2.")) as url:
        assert await is_refused(url) == "This token is of client2. (wrong_id)"


async def test_a_token_that_was_revoked_is_final() -> None:
    async with serving(never, refusing("revoked")) as url:
        assert await is_refused(url) == "No. (revoked)"


async def test_a_token_that_never_worked_is_final() -> None:
    async with serving(never, refusing("unauthorized")) as url:
        assert await is_refused(url) == "No. (unauthorized)"


async def test_a_token_that_worked_before_is_tried_again() -> None:
    """The server may be in the middle of a restore: a fleet must not go dark for it."""
    handshakes = itertools.count()

    def answer(request: HttpRequest) -> tuple[int, dict[str, str], bytes] | None:
        if "Upgrade" in request.headers and next(handshakes) == 0:
            return None
        return refusing("unauthorized")(request)

    async def script(server: Server) -> None:
        await server.welcome()
        await server.socket.close()

    async with serving(script, answer) as url:
        await tries_again(url, Pauses(4))


async def test_a_revocation_is_final_even_after_it_had_worked() -> None:
    handshakes = itertools.count()

    def answer(request: HttpRequest) -> tuple[int, dict[str, str], bytes] | None:
        if "Upgrade" in request.headers and next(handshakes) == 0:
            return None
        return refusing("revoked")(request)

    async def script(server: Server) -> None:
        await server.welcome()
        await server.socket.close(CloseCode.REVOKED)

    async with serving(script, answer) as url:
        assert await is_refused(url) == "No. (revoked)"


@pytest.mark.parametrize("ask", ["handshake", "reason"])
async def test_the_token_does_not_travel_to_where_a_redirect_leads(ask: str) -> None:
    tokens: list[str | None] = []

    def elsewhere(request: HttpRequest) -> tuple[int, dict[str, str], bytes]:
        tokens.append(request.headers.get("Authorization"))
        return 404, {}, b""

    def answer(request: HttpRequest) -> tuple[int, dict[str, str], bytes]:
        if "Upgrade" in request.headers and ask == "reason":
            return 403, {}, b""
        scheme = "ws" if "Upgrade" in request.headers else "http"
        return 302, {"Location": other.replace("ws:", f"{scheme}:")}, b""

    async with serving(never, elsewhere) as other, serving(never, answer) as url:
        await tries_again(url, Pauses(2))
    assert f"Bearer {TOKEN}" not in tokens
    if ask == "reason":
        assert tokens == []


# Asking why


@contextlib.asynccontextmanager
async def answering(raw: bytes) -> AsyncIterator[str]:
    """A server that answers every connection with these bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_server_that_cannot_be_asked_gives_no_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    code, detail = await asyncio.to_thread(ask_why, identity(f"ws://127.0.0.1:{port}"))
    assert code == ""
    assert "does not say why" in detail


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(
            b"garbage\r\n\r\n",
            id="no HTTP",
        ),
        pytest.param(
            b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            id="a broken body",
        ),
        pytest.param(
            b"HTTP/1.1 403 No\r\nContent-Length: 4000\r\n\r\n" + b"[" * 4000,
            id="nested too deeply",
        ),
    ],
)
async def test_nonsense_instead_of_a_reason_gives_no_reason(raw: bytes) -> None:
    """And does not end the agent: it never raises."""
    async with answering(raw) as url:
        code, _detail = await asyncio.to_thread(ask_why, identity(url))
    assert code == ""


# The pauses


def test_the_pauses_are_drawn_below_a_ceiling_that_doubles_up_to_a_minute() -> None:
    drawn = delays(uniform=lambda least, most: most)
    assert list(itertools.islice(drawn, 8)) == [2, 4, 8, 16, 32, 60, 60, 60]
    drawn = delays(uniform=lambda least, most: least)
    assert set(itertools.islice(drawn, 8)) == {MIN_DELAY}


def test_the_pauses_are_from_one_second_to_a_minute_and_never_alike() -> None:
    """A fleet that lost its server together does not come back together."""
    random.seed(1)
    agents = [list(itertools.islice(delays(), 10)) for _ in range(100)]
    assert all(MIN_DELAY <= pause <= MAX_DELAY for pauses in agents for pause in pauses)
    assert len({pauses[0] for pauses in agents}) == 100


@pytest.mark.parametrize(("seconds", "lives"), [(STABLE_SECONDS / 4, 1), (STABLE_SECONDS * 2, 3)])
async def test_only_a_session_of_a_minute_makes_the_pauses_short_again(
    seconds: float, lives: int
) -> None:
    """A server that accepts and closes at once is not hammered."""
    now = 0.0

    async def script(server: Server) -> None:
        nonlocal now
        await server.welcome()
        now += seconds
        await server.socket.close()

    pauses = Pauses(3)
    async with serving(script) as url:
        await tries_again(url, pauses, clock=lambda: now)
    assert (pauses.taken, pauses.lives) == (3, lives)


async def test_a_redirect_to_nonsense_does_not_end_the_agent() -> None:
    async with serving(never, lambda request: (302, {"Location": "ws://x:99999/"}, b"")) as url:
        await tries_again(url, Pauses(2))


@pytest.mark.parametrize("final", ["handshake", "conversation"])
async def test_a_final_refusal_carries_no_control_characters(final: str) -> None:
    """It is printed on the terminal of whoever started the agent."""
    hostile = "gone\x1b[2J"

    async def script(server: Server) -> None:
        await server.welcome()
        await server.say(Abort(None, "revoked", hostile))
        await server.gone()

    answer = refusing("revoked", hostile) if final == "handshake" else None
    async with serving(script, answer) as url:
        assert (await is_refused(url)).isprintable()
