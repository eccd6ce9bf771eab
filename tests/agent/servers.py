"""Servers that play a script to a real agent, in the test's own process."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import TypeVar
from uuid import UUID

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from agent.gate import Gate
from agent.gate.own_files import OwnFiles
from agent.gate.policy import Policy
from agent.journal import Journal
from agent.link import Identity
from agent.state_folder import StateFolder
from agent.wire.messages import (
    PROTOCOL,
    Ack,
    Chunk,
    End,
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
            await self.say(Ack(transfer, len(data), offer.size, 0))
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


def gate(policy: Policy) -> Gate:
    """The gate of an agent with this policy, and the state folder of the tests."""
    state = StateFolder.chosen(None)
    state.create()
    return Gate(policy, OwnFiles(state), Journal(state, "ws://test"))
