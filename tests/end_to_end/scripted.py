"""An agent that does what a test says, and no more: for what a well-behaved one never does."""

from types import TracebackType
from typing import Self, TypeVar

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from agent.wire.codec import decode, encode
from agent.wire.messages import (
    PROTOCOL,
    Ack,
    Heartbeat,
    Hello,
    Message,
    Offer,
    Request,
    Start,
    Welcome,
)
from tests.end_to_end.harness import PATIENCE

M = TypeVar("M", bound=Message)


class ScriptedAgent:
    """A raw connection to the server; a context manager."""

    def __init__(self, port: int, client: str, token: str, **headers: str) -> None:
        self._url = f"ws://127.0.0.1:{port}/ws/agent/{client}/"
        self._headers = {"Authorization": f"Bearer {token}", **headers}

    def __enter__(self) -> Self:
        self.socket = connect(
            self._url,
            subprotocols=[PROTOCOL],  # type: ignore[list-item]
            additional_headers=self._headers,
            compression=None,
        ).__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.__exit__(kind, error, traceback)

    def say(self, message: Message | str | bytes) -> None:
        """Send a message, or anything at all."""
        self.socket.send(message if isinstance(message, str | bytes) else encode(message))

    def hear(self, kind: type[M]) -> M:
        """The next message of this kind; before it only heartbeats and acks may come."""
        while True:
            message = decode(self.socket.recv(timeout=PATIENCE))
            if isinstance(message, kind):
                return message
            assert isinstance(message, Heartbeat | Ack), message

    def greet(self) -> Self:
        self.say(Hello(PROTOCOL, "0", "test", "test"))
        self.hear(Welcome)
        return self

    def offer(self, name: str, size: int, fingerprint: str = "1") -> Start:
        """Answer the server's request, and get its start."""
        request = self.hear(Request)
        self.say(Offer(request.transfer, name, size, 0, fingerprint, request.path))
        return self.hear(Start)

    def last_words(self) -> tuple[list[Message], int]:
        """What the server still says until it closes the connection, and the close code."""
        heard: list[Message] = []
        try:
            while True:
                heard.append(decode(self.socket.recv(timeout=PATIENCE)))
        except ConnectionClosed as closed:
            return heard, closed.rcvd.code if closed.rcvd else 1006
