"""One connection: what the agent does on it, and how it ends."""

import asyncio
from pathlib import Path
from uuid import UUID

import pytest
from websockets.asyncio.client import ClientConnection

from agent.gate.policy import Policy
from agent.link import Identity, Link, LinkDown, Refused
from agent.wire.errors import CloseCode
from agent.wire.messages import (
    Abort,
    Cancel,
    Chunk,
    Heartbeat,
    Hello,
    Offer,
    Request,
    Start,
    Welcome,
)
from tests.agent.servers import (
    SECONDS,
    TOKEN,
    TRANSFER,
    Server,
    gate,
    identity,
    serving,
)

pytestmark = pytest.mark.timeout(60)


async def link_ends(url: str, policy: Policy | None = None, *, within: float = SECONDS) -> str:
    """Run one link until it is down; why."""
    async with asyncio.timeout(within):
        with pytest.raises(LinkDown) as down:
            await Link(identity(url), gate(policy or Policy())).serve()
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
            await Link(identity(url), gate(Policy())).serve()


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
        await server.say(Start(TRANSFER, ((0, 300_000),), 100_000))
        await server.hear(Chunk)
        server.socket.transport.abort()

    async with serving(script) as url:
        await link_ends(url, Policy(file))
        await asyncio.sleep(0)
        running = [task.get_coro() for task in asyncio.all_tasks()]
        names = {getattr(coroutine, "__qualname__", "") for coroutine in running}
        assert not {name for name in names if name.startswith(("Sending.", "Link."))}


async def test_a_socket_that_does_not_close_cleanly_is_a_lost_link_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """websockets may abort a transport that asyncio has taken apart (found by `make chaos`)."""

    async def close(self: ClientConnection, code: int = 1000, reason: str = "") -> None:
        raise AttributeError("'NoneType' object has no attribute 'call_soon'")

    async def script(server: Server) -> None:
        await server.welcome()
        await server.say(Abort(None, "cancelled", "Bye."))
        server.socket.transport.abort()

    async with serving(script) as url:
        with monkeypatch.context() as patch:
            patch.setattr(ClientConnection, "close", close)
            assert "Bye." in await link_ends(url)
    assert "did not close cleanly" in capsys.readouterr().err
