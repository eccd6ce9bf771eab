"""Connecting again: when, how soon, and what ends it for good."""

import asyncio
import contextlib
import itertools
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from websockets.http11 import Request as HttpRequest

from agent.gate.policy import Policy
from agent.link import Link, Refused
from agent.reconnect import (
    MAX_DELAY,
    MIN_DELAY,
    RETRY_AFTER_MOST,
    STABLE_SECONDS,
    ask_why,
    delays,
    retry_after,
    stay_online,
)
from agent.wire.errors import CloseCode
from agent.wire.messages import (
    Abort,
)
from tests.agent.servers import (
    SECONDS,
    TOKEN,
    Server,
    gate,
    identity,
    never,
    refusing,
    serving,
)

pytestmark = pytest.mark.timeout(60)

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


async def tries_again(
    url: str,
    pauses: Pauses,
    clock: Callable[[], float] = time.monotonic,
    policy: Policy | None = None,
) -> None:
    """Stay online until there were enough pauses; whatever ends it earlier is raised."""
    online = asyncio.create_task(
        stay_online(identity(url), gate(policy or Policy()), pauses=pauses, clock=clock)
    )
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


async def test_a_bug_is_no_reason_to_go_dark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is near the machine to start the agent again."""

    async def serve(self: Link) -> None:
        raise AttributeError("'NoneType' object has no attribute 'call_soon'")

    monkeypatch.setattr(Link, "serve", serve)
    await tries_again("ws://127.0.0.1:9", Pauses(3))
    said = capsys.readouterr().err
    assert "offline: failed inside: AttributeError" in said
    assert "Traceback" in said


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
    answer = await asyncio.to_thread(ask_why, identity(f"ws://127.0.0.1:{port}"))
    assert answer.code == ""
    assert "does not say why" in answer.detail


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
        answer = await asyncio.to_thread(ask_why, identity(url))
    assert answer.code == ""


# The pauses


def test_the_pauses_are_drawn_below_a_ceiling_that_doubles() -> None:
    drawn = delays(uniform=lambda least, most: most)
    assert list(itertools.islice(drawn, 7)) == [4, 8, 16, 32, 45, 45, 45]
    drawn = delays(uniform=lambda least, most: least)
    assert set(itertools.islice(drawn, 8)) == {MIN_DELAY}


def test_the_pauses_are_from_one_second_to_the_most_and_never_alike() -> None:
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


async def test_a_connection_that_brought_a_file_on_makes_the_pauses_short_again(file: Path) -> None:
    """Or an uplink that drops every few seconds would be waited for most of the time."""

    async def script(server: Server) -> None:
        await server.welcome()
        await server.pull()
        await server.socket.close()

    pauses = Pauses(3)
    async with serving(script) as url:
        await tries_again(url, pauses, clock=lambda: 0.0, policy=Policy(file))
    assert (pauses.taken, pauses.lives) == (3, 3)


# Being asked to wait


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        ("86400", RETRY_AFTER_MOST),
        ("-5", 0),
        ("soon", 0),
        ("Thu, 1 Jan 999999999999999 00:00:00 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 9),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_a_retry_after_is_a_number_of_seconds_or_a_date(value: str | None, seconds: float) -> None:
    assert retry_after(value, now=lambda: 1.0) == seconds


@pytest.mark.parametrize("ask", ["handshake", "reason"])
async def test_a_server_that_asks_for_time_is_given_it(
    ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.Event().wait()

    def answer(request: HttpRequest) -> tuple[int, dict[str, str], bytes]:
        if "Upgrade" in request.headers and ask == "reason":
            return 403, {}, b""
        return 503, {"Retry-After": "30"}, b""

    monkeypatch.setattr("agent.reconnect.asyncio.sleep", sleep)
    async with serving(never, answer) as url:
        await tries_again(url, Pauses(1))
    assert waits == [30 + 3600]  # what was asked for, and the pause on top


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
