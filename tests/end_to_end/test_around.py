"""What is around the transfers of a real server: webhooks, the stream of events, and the figures."""

import http.client
import json
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import PATIENCE, Server, eventually, make_file, sha256
from tests.receiver import Receiver

MIB = 1 << 20
STOP_SECONDS = 10.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    own = Server(tmp_path / "server", SILENTMODE_WEBHOOK_PAUSE="0.2")
    own.start()
    yield own
    if own.program.process.poll() is None:
        own.program.terminate()


def test_a_receiver_that_fails_three_times_is_told_of_a_landing(
    server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", MIB)
    token = server.manage("add_client", "client1", "--token")
    with Receiver() as receiver:
        receiver.answers = [(500, {}), (502, {}), (503, {})]
        make = f"from transfers.models import Webhook; Webhook.objects.create(url={receiver.url!r})"
        server.manage("shell", "-c", make)
        start_agent("client1", token, server.port, file=source)
        transfer = server.ask("client1")
        eventually("four tries", lambda: len(receiver.heard) == 4)
    told = [json.loads(body) for _, body in receiver.heard]
    assert all(each == told[0] for each in told)
    assert (told[0]["event"], told[0]["transfer"]) == ("landed", transfer)
    assert told[0]["details"]["sha256"] == sha256(source)


def test_a_script_hears_what_happens_and_the_server_stops_all_the_same(
    server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", MIB)
    token = server.manage("add_client", "client1", "--token")
    start_agent("client1", token, server.port, file=source)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    with closing(connection):
        headers = {"Authorization": f"Token {server.token}", "Accept": "text/event-stream"}
        connection.request("GET", "/api/v1/events/", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200
        transfer = server.ask("client1")
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["event"] != "landed":
            if (line := answer.readline()).startswith(b"data: "):
                heard.append(json.loads(line.removeprefix(b"data: ")))
        assert [each["event"] for each in heard] == ["requested", "landed"]
        assert {each["transfer"] for each in heard} == {transfer}
        server.program.process.terminate()
        assert server.program.process.wait(STOP_SECONDS) == 0
    assert "Traceback" not in server.program.output


def test_the_figures_are_those_of_what_happened(
    server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", MIB)
    token = server.manage("add_client", "client1", "--token")
    start_agent("client1", token, server.port, file=source)
    server.wait_landed(server.ask("client1"), source)
    server.wait_status(server.ask("client1", "/etc/shadow"), "failed")
    request = urllib.request.Request(
        f"{server.url}/metrics", headers={"Authorization": f"Token {server.token}"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        figures = answer.read().decode().splitlines()
    for line in (
        "silentmode_agents 1.0",
        "silentmode_clients_online 1.0",
        "silentmode_received_bytes_total 1.048576e+06",
        'silentmode_transfers{status="completed"} 1.0',
        'silentmode_transfers_ended_total{code="forbidden",status="failed"} 1.0',
        "silentmode_transfer_seconds_count 1.0",
    ):
        assert line in figures
