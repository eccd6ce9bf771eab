"""An agent's end of a connection down to the bytes: for what no library lets one do."""

import base64
import contextlib
import json
import os
import socket
import struct
import time
import urllib.parse
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar

from agent.wire.codec import decode, encode
from agent.wire.messages import (
    PROTOCOL,
    Abort,
    Chunk,
    Hello,
    Message,
    Offer,
    Request,
    Start,
    Welcome,
)
from tests.end_to_end.harness import PATIENCE

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10

VILLAINS = "127.0.0.66"
"""Where they come from: not the honest agent's address (all of 127.0.0.0/8 is this machine on Linux)."""

M = TypeVar("M", bound=Message)


class Refused(Exception):
    """The handshake was answered with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class Gone(Exception):
    """The connection has ended: with this close code, or without one (1006)."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """A WebSocket frame (RFC 6455, section 5.2); `length` is what it says, whatever it carries."""
    size = len(payload) if length is None else length
    first = fin << 7 | reserved << 4 | opcode
    if size < 126:
        header = struct.pack("!BB", first, masked << 7 | size)
    elif size < 1 << 16:
        header = struct.pack("!BBH", first, masked << 7 | 126, size)
    else:
        header = struct.pack("!BBQ", first, masked << 7 | 127, size)
    return header + (bytes(4) if masked else b"") + payload  # masked with zeros: as it is


class Villain:
    """One TCP connection; a context manager."""

    def __init__(self, port: int, source: str = VILLAINS) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0))
        self._heard = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    # Bytes --------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Raises Gone."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, TimeoutError):
            raise Gone(1006) from None

    def receive(self, count: int) -> bytes:
        """So many bytes. Raises Gone where there are no more."""
        while len(self._heard) < count:
            try:
                more = self.socket.recv(1 << 16)
            except ConnectionError:
                more = b""
            if not more:
                raise Gone(1006)
            self._heard += more
        data, self._heard = self._heard[:count], self._heard[count:]
        return data

    def until_closed(self) -> tuple[bytes, float]:
        """All that still comes, and how many seconds until the connection was closed."""
        since, heard = time.monotonic(), b""
        with contextlib.suppress(Gone):
            while True:
                heard += self.receive(1)
        return heard, time.monotonic() - since

    # HTTP ---------------------------------------------------------------------------------------

    def ask_in(self, client: str, token: str, **headers: str) -> bytes:
        """The bytes of a handshake."""
        lines = {
            "Host": "localhost",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Protocol": PROTOCOL,
            "Authorization": f"Bearer {token}",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        path = f"/ws/agent/{urllib.parse.quote(client, safe='')}/"
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()

    def status(self) -> int:
        """Of the answer; its header is read."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.receive(1)
        return int(head.split()[1])

    def handshake(self, client: str, token: str, **headers: str) -> Self:
        """Raises Refused."""
        self.send(self.ask_in(client, token, **headers))
        if (status := self.status()) != 101:
            raise Refused(status)
        return self

    # Messages -----------------------------------------------------------------------------------

    def say(self, *messages: Message | str | bytes) -> None:
        """Messages, or anything at all, each in a frame as it should be."""
        for message in messages:
            data = message if isinstance(message, str | bytes) else encode(message)
            binary = isinstance(data, bytes)
            payload = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
            self.send(frame(BINARY if binary else TEXT, payload))

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """What the server sends, as (opcode, payload)."""
        while True:
            first, second = self.receive(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", self.receive(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self.receive(8))
            yield first & 0x0F, self.receive(size)

    def messages(self) -> Iterator[Message]:
        """Raises Gone at the end."""
        for opcode, payload in self.frames():
            if opcode == CLOSE:
                raise Gone(struct.unpack("!H", payload[:2])[0] if payload else 1005)
            if opcode == TEXT:
                yield decode(payload.decode())

    def hear(self, kind: type[M]) -> M:
        """The next message of this kind."""
        for message in self.messages():
            if isinstance(message, kind):
                return message
            assert not isinstance(message, Abort), message
        raise AssertionError

    def last_words(self) -> tuple[str, int]:
        """What the server says about why it ends the connection, and the close code."""
        said = ""
        try:
            for message in self.messages():
                if isinstance(message, Abort):
                    said = f"{message.code}: {message.detail}" if message.detail else message.code
        except Gone as gone:
            return said, gone.code
        raise AssertionError

    def greet(self, client: str, token: str, hostname: str = "till-66") -> Self:
        """Connected and welcome."""
        self.handshake(client, token)
        self.say(Hello(PROTOCOL, "0", "test", hostname))
        self.hear(Welcome)
        return self

    def offer(self, size: int, name: str = "evil.bin") -> Start:
        """Answer a request, and get leave to send."""
        request = self.hear(Request)
        self.say(Offer(request.transfer, name, size, 0, "1", request.path))
        return self.hear(Start)

    def chunks(self, start: Start, count: int, length: int = 4096) -> None:
        """So many chunks from the beginning, as they should be."""
        for number in range(count):
            self.say(Chunk(start.transfer, number * length, bytes(length)))


def as_text(**values: object) -> str:
    """JSON of a message whose fields need not be right."""
    return json.dumps(values)
