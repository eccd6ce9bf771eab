"""A landed file is served in flat memory, however slowly it is read."""

import hashlib
import socket
import urllib.request
from pathlib import Path

from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import Server, make_file, sha256

MIB = 1 << 20


def test_a_client_that_does_not_read_costs_the_server_no_memory(
    server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 300 * MIB)
    token = server.manage("add_client", "client1", "--token")
    start_agent("client1", token, server.port, file=source).wait_for("registered")
    transfer = server.ask("client1")
    server.wait_landed(transfer, source)
    before = server.program.resident
    with socket.create_connection(("127.0.0.1", server.port)) as reader:
        reader.sendall(
            f"GET /api/v1/transfers/{transfer}/content/ HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Token {server.token}\r\nConnection: close\r\n\r\n".encode()
        )
        head = reader.recv(MIB)
        # As long as daphne would take to buffer all of it: other requests are answered meanwhile.
        for _ in range(200):
            assert server.call("GET", "/healthz")[0] == 200
        assert server.program.resident - before < 64 * MIB
        header, _, body = head.partition(b"\r\n\r\n")
        digest = hashlib.sha256(body)
        while data := reader.recv(MIB):
            digest.update(data)
    assert header.startswith(b"HTTP/1.1 200 OK")
    assert digest.hexdigest() == sha256(source)
    assert server.program.resident - before < 64 * MIB


def test_a_range_of_a_landed_file_is_served(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", MIB)
    token = shared_server.manage("add_client", "ranged", "--token")
    start_agent("ranged", token, shared_server.port, file=source).wait_for("registered")
    transfer = shared_server.ask("ranged")
    shared_server.wait_landed(transfer, source)
    headers = {"Authorization": f"Token {shared_server.token}", "Range": "bytes=1000-1999"}
    url = f"{shared_server.url}/api/v1/transfers/{transfer}/content/"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as part:
        assert part.status == 206
        assert part.headers["Content-Range"] == f"bytes 1000-1999/{MIB}"
        assert part.read() == source.read_bytes()[1000:2000]
    status, answer = shared_server.call(
        "GET", f"/api/v1/transfers/{transfer}/content/", headers={"Range": f"bytes={MIB}-"}
    )
    assert (status, answer["code"]) == (416, "range_not_satisfiable")
