"""What anybody sends to the real server stays on its line in whatever the server writes."""

import json
import socket
from pathlib import Path

import pytest

from tests.end_to_end.harness import PATIENCE, Server, eventually

AGENT = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
REQUESTS = {
    "escaped": b"GET /%0A[server]%20forged%1B[2J%E2%80%AE HTTP/1.1\r\nHost: localhost\r\n",
    "raw": b"GET /\x1b[2J\x07\xe2\x80\xae HTTP/1.1\r\nHost: localhost\r\n",
    "bare return": b"GET /a\r[server] forged HTTP/1.1\r\nHost: localhost\r\n",
    "method": b"\x1b[2JGET / HTTP/1.1\r\nHost: localhost\r\n",
    "host": b"GET / HTTP/1.1\r\nHost: \x1b[2J\xe2\x80\xae\r\n",
    "agent": b"GET /ws/agent/a%0A[server]%20forged%1B[2J/ HTTP/1.1\r\nHost: localhost\r\n" + AGENT,
    "agent, raw": b"GET /ws/agent/\x1b[2J/ HTTP/1.1\r\nHost: localhost\r\n" + AGENT,
    "no agent": b"GET /%0A%1B[2J HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n",
}


class Logging(Server):
    """With an access log."""

    @property
    def listening(self) -> list[str]:
        return [*super().listening, "--access-log", str(self.directory / "access.log")]


@pytest.mark.parametrize("kind", ["text", "json"])
def test_no_line_can_be_forged_or_moves_a_terminal(tmp_path: Path, kind: str) -> None:
    server = Logging(tmp_path / "server", SILENTMODE_LOG_FORMAT=kind)
    access = server.directory / "access.log"
    server.start()
    try:
        for request in REQUESTS.values():
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
                connection.sendall(request + b"Connection: close\r\n\r\n")
                connection.recv(65536)
        eventually("an access log", lambda: access.exists() and "WSREJECT" in access.read_text())
    finally:
        assert server.program.terminate() == 0
    written = server.program.output + access.read_text()
    assert r"Refused an agent for a\n[server] forged" in written.replace(r"\\", "\\")
    for line in written.splitlines():
        assert line.isprintable(), line
        assert not line.startswith("[server] forged"), line
    if kind == "json":
        for line in server.program.output.splitlines():
            assert "message" in json.loads(line)
