"""The main job: one request, and the file is there, whole and verified."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import threading
import venv
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import (
    PATIENCE,
    PROJECT,
    Program,
    Server,
    eventually,
    make_file,
    sha256,
)
from tests.tls import recording

MIB = 1 << 20


def test_a_request_lands_the_agents_file_as_the_seed_says(
    server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 20 * MIB)
    agent = start_agent(
        "client1", server.manage("add_client", "client1", "--token"), server.port, file=source
    )
    agent.wait_for("registered as client1")
    landed = server.wait_landed(server.ask("client1"), source)
    assert re.fullmatch(r"client1_\d{8}T\d{6}Z_data\.bin", landed.name)
    assert landed.stat().st_mode & 0o777 == 0o600
    assert server.partials == []
    agent.wait_for("[client] File sent successfully")
    for line in (
        f"connected to ws://127.0.0.1:{server.port}",
        f"[client] Sending file: data.bin ({20 * MIB} bytes)",
        f"[client] SHA256: {sha256(source)}",
        "[client] Uploading data.bin: 100.0%",
    ):
        assert line in agent.output
    for line in (
        "[server] Registered client client1",
        "[server] Sending request_file to client1",
        f"[server] Start receiving data.bin from client1 ({20 * MIB} bytes)",
        "[server] Receiving data.bin: 100.0%",
        "[server] Finished receiving from client1",
        f"[server] Final SHA256: {sha256(source)}",
        "[server] ✅ Hash verified successfully",
    ):
        assert line in server.program.output


def test_a_zero_byte_file_lands(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "empty", 0)
    token = shared_server.manage("add_client", "empty", "--token")
    start_agent("empty", token, shared_server.port, file=source).wait_for("registered")
    assert shared_server.wait_landed(shared_server.ask("empty"), source).stat().st_size == 0


def test_three_agents_send_at_once_and_all_land(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    sources = {}
    for number in range(3):
        name = f"crowd{number}"
        sources[name] = make_file(tmp_path / name, 30 * MIB)
        token = shared_server.manage("add_client", name, "--token")
        start_agent(name, token, shared_server.port, file=sources[name]).wait_for("registered")
    asked = {name: shared_server.ask(name) for name in sources}
    for name, transfer in asked.items():
        shared_server.wait_landed(transfer, sources[name])


def test_one_agent_sends_three_files_at_once(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    sources = [make_file(tmp_path / f"file{number}", 30 * MIB) for number in range(3)]
    token = shared_server.manage("add_client", "busy", "--token")
    start_agent("busy", token, shared_server.port, roots=[tmp_path]).wait_for("registered")
    asked = [shared_server.ask("busy", source.name) for source in sources]
    for transfer, source in zip(asked, sources, strict=True):
        shared_server.wait_landed(transfer, source)


def test_a_file_asked_for_while_the_client_is_offline_lands_once_it_connects(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "later.bin", MIB)
    token = shared_server.manage("add_client", "sleeper", "--token")
    transfer = shared_server.ask("sleeper")
    assert shared_server.transfer(transfer)["status"] == "queued"
    start_agent("sleeper", token, shared_server.port, file=source)
    shared_server.wait_landed(transfer, source)


def test_more_requests_than_run_at_once_all_land(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "often.bin", 1000)
    token = shared_server.manage("add_client", "often", "--token")
    start_agent("often", token, shared_server.port, file=source).wait_for("registered")
    landed = {
        shared_server.wait_landed(transfer, source)
        for transfer in [shared_server.ask("often", duplicate=True) for _ in range(20)]
    }
    assert len(landed) == 20


def test_pull_shows_the_hash_and_exits_0_only_when_it_has_landed(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "pulled.bin", MIB)
    token = shared_server.manage("add_client", "pulled", "--token")
    start_agent("pulled", token, shared_server.port, file=source).wait_for("registered")
    pull = ["--server", shared_server.url]
    api = {"SILENTMODE_API_TOKEN": shared_server.token}
    assert shared_server.manage("pull", "pulled", *pull, **api).startswith(sha256(source))
    with pytest.raises(subprocess.CalledProcessError) as failed:
        shared_server.manage("pull", "pulled", "/etc/passwd", *pull, **api)
    assert "forbidden" in failed.value.stderr
    with pytest.raises(subprocess.CalledProcessError) as unknown:
        shared_server.manage("pull", "nobody", *pull, **api)
    assert "There is no client 'nobody'" in unknown.value.stderr
    with pytest.raises(subprocess.CalledProcessError) as tokenless:
        shared_server.manage("pull", "pulled", *pull, SILENTMODE_API_TOKEN="")
    assert "SILENTMODE_API_TOKEN" in tokenless.value.stderr
    with pytest.raises(subprocess.CalledProcessError) as unanswered:
        shared_server.manage("pull", "pulled", "--server", "http://127.0.0.1:9", **api)
    assert "does not answer" in unanswered.value.stderr
    transfer = shared_server.manage("pull", "pulled", "--no-wait", *pull, **api)
    shared_server.wait_landed(transfer, source)


def test_the_agent_runs_from_a_copy_of_its_folder_with_its_own_requirements_alone(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    shutil.copytree(PROJECT / "agent", tmp_path / "till" / "agent")
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    requirements = tmp_path / "till" / "agent" / "requirements.txt"
    subprocess.run([*install, "-r", requirements], check=True, capture_output=True)
    source = make_file(tmp_path / "alone.bin", MIB)
    token = shared_server.manage("add_client", "alone", "--token")
    # `env -i` in effect: coverage's own start-up file needs a package that is not there.
    agent = subprocess.Popen(
        [python, "-m", "agent", "--id", "alone", "--file", str(source), "--server", f"ws://127.0.0.1:{shared_server.port}"],
        cwd=tmp_path / "till",
        env={"SILENTMODE_TOKEN": token},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        shared_server.wait_landed(shared_server.ask("alone"), source)
    finally:
        agent.terminate()
        assert agent.wait(10) == 0


def test_an_agent_that_is_sending_stops_soon_after_sigterm(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "long.bin", 300 * MIB)
    token = shared_server.manage("add_client", "leaving", "--token")
    agent = start_agent("leaving", token, shared_server.port, file=source)
    transfer = shared_server.ask("leaving")
    agent.wait_for("Sending file")
    agent.process.terminate()
    assert agent.process.wait(20) == 0  # 2 s, on a machine that does nothing else
    shared_server.wait_status(transfer, "interrupted", "queued")


def start_pull(server: Server, client: str, tmp_path: Path) -> Program:
    """A `pull` of the client's file, under way."""
    environment = {**server.environment, "SILENTMODE_API_TOKEN": server.token}
    command = ["manage.py", "pull", client, "--server", server.url]
    return Program(command, tmp_path / "pull.log", environment)


def test_pull_waits_through_a_restart_of_the_server(
    server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", MIB)
    token = server.manage("add_client", "client1", "--token")
    pull = start_pull(server, "client1", tmp_path)
    eventually("a request", lambda: server.call("GET", "/api/v1/transfers/")[1]["count"] == 1)
    server.program.terminate()
    server.start()
    start_agent("client1", token, server.port, file=source)
    assert pull.process.wait(60) == 0, pull.output
    assert sha256(source) in pull.output


def test_pull_says_what_happens_on_the_way_and_how_the_file_came(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 30 * MIB)
    token = shared_server.manage("add_client", "dropping", "--token")
    agent = start_agent("dropping", token, shared_server.port, file=source)
    agent.wait_for("registered")
    status, transfer = shared_server.call(
        "POST", "/api/v1/transfers/", {"client": "dropping", "rate_limit": 4 * MIB}
    )
    assert status == 202
    pull = start_pull(shared_server, "dropping", tmp_path)
    path = f"/api/v1/transfers/{transfer['id']}/"
    eventually("some of it", lambda: shared_server.call("GET", path)[1]["received"])
    agent.kill()
    pull.wait_for("the link was lost (link_lost) – Nothing to do: it goes on by itself")
    assert shared_server.call("PATCH", path, {"rate_limit": None})[0] == 200
    start_agent("dropping", token, shared_server.port, file=source)
    assert pull.process.wait(PATIENCE) == 0, pull.output
    assert "Z  Attempt 1 ended after" in pull.output
    assert "from 4.0 MB/s to no limit" in pull.output
    assert r"\xa0" not in pull.output
    assert "Landed in the server's downloads folder: 30.0\xa0MB, in" in pull.output
    assert "SHA-256 verified: the client read the same." in pull.output
    assert sha256(source) in pull.output
    assert pull.output.count("link_lost") == 1


def test_ctrl_c_ends_pull_and_says_that_the_transfer_goes_on(
    shared_server: Server, tmp_path: Path
) -> None:
    shared_server.manage("add_client", "absent", "--token")
    pull = start_pull(shared_server, "absent", tmp_path)
    asked = "/api/v1/transfers/?client=absent"
    eventually("a request", lambda: shared_server.call("GET", asked)[1]["count"] == 1)
    pull.process.send_signal(signal.SIGINT)
    assert pull.process.wait(30) == 130
    assert "the transfer goes on without you" in pull.output
    assert "Traceback" not in pull.output


class Slow(BaseHTTPRequestHandler):
    """Has taken a request, and answers it when the test says so."""

    asked: ClassVar[threading.Event]
    answer: ClassVar[threading.Event]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.set()
        self.answer.wait(PATIENCE)
        body = b'{"id": "the-id-of-the-transfer"}'
        with contextlib.suppress(OSError):
            self.send_response(202)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def slow() -> Iterator[tuple[type[Slow], str]]:
    """Such a server, and its URL."""

    class This(Slow):
        asked = threading.Event()
        answer = threading.Event()

    with ThreadingHTTPServer(("127.0.0.1", 0), This) as http:
        threading.Thread(target=http.serve_forever).start()
        yield This, f"http://127.0.0.1:{http.server_port}"
        This.answer.set()
        http.shutdown()


def pull_from(url: str, tmp_path: Path, *more: str, **environment: str) -> Program:
    environment |= {
        "SILENTMODE_DATA_DIR": str(tmp_path / "data"),
        "SILENTMODE_API_TOKEN": "a-token-that-nobody-else-may-see",
    }
    command = ["manage.py", "pull", "client1", "--server", url, *more]
    return Program(command, tmp_path / "pull.log", environment)


@pytest.mark.parametrize("more", [[], ["--no-wait"]], ids=["waiting", "only asking"])
def test_ctrl_c_while_the_server_is_being_asked_tells_which_transfer_goes_on(
    slow: tuple[type[Slow], str], tmp_path: Path, more: list[str]
) -> None:
    handler, url = slow
    pull = pull_from(url, tmp_path, *more)
    assert handler.asked.wait(PATIENCE)
    pull.process.send_signal(signal.SIGINT)
    handler.answer.set()
    assert pull.process.wait(PATIENCE) == 130
    assert f"POST {url}/api/v1/transfers/the-id-of-the-transfer/cancel/" in pull.output
    assert "Traceback" not in pull.output


def test_a_second_ctrl_c_does_not_wait_for_a_server_that_does_not_answer(
    slow: tuple[type[Slow], str], tmp_path: Path
) -> None:
    handler, url = slow
    pull = pull_from(url, tmp_path)
    assert handler.asked.wait(PATIENCE)
    pull.process.send_signal(signal.SIGINT)
    pull.wait_for("Ctrl-C again")
    pull.process.send_signal(signal.SIGINT)
    assert pull.process.wait(PATIENCE) == 130
    assert f"GET {url}/api/v1/transfers/?client=client1" in pull.output
    assert "Traceback" not in pull.output


def test_without_tls_the_api_token_leaves_the_machine_only_if_that_is_said(tmp_path: Path) -> None:
    """0.0.0.0 leads here and is no name of this machine."""
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    with recording(None, refusal) as record:
        url = f"http://0.0.0.0:{record.port}"
        pull = pull_from(url, tmp_path)
        assert pull.process.wait(PATIENCE) == 1
        assert "Use https://, or --allow-insecure" in pull.output
        assert (record.connections, record.told) == (0, b"")
        assert pull_from(url, tmp_path, "--allow-insecure").process.wait(PATIENCE) == 1
    assert b"a-token-that-nobody-else-may-see" in record.told


def test_no_proxy_gets_the_api_token_of_this_machines_server(tmp_path: Path) -> None:
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    with recording(None, refusal) as proxy, recording(None, refusal) as record:
        through = {"http_proxy": f"http://127.0.0.1:{proxy.port}", "no_proxy": "", "NO_PROXY": ""}
        pull = pull_from(f"http://127.0.0.1:{record.port}", tmp_path, **through)
        assert pull.process.wait(PATIENCE) == 1
    assert (proxy.connections, record.connections) == (0, 1)


def test_an_answer_that_breaks_off_is_no_answer(tmp_path: Path) -> None:
    broken_off = b'HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\n{"id": '
    with recording(None, broken_off) as record:
        pull = pull_from(f"http://127.0.0.1:{record.port}", tmp_path)
        assert pull.process.wait(PATIENCE) == 1
    assert "does not answer as it should" in pull.output
    assert "Traceback" not in pull.output


class Older(BaseHTTPRequestHandler):
    """A server without what has come to the API since, which writes what a terminal would act on."""

    landed: ClassVar[dict[str, Any]] = {
        "id": "it",
        "status": "completed",
        "name": "till.db",
        "size": 3,
        "received": 3,
        "wire_bytes": 3,
        "attempts": 1,
        "rate_limit": None,
        "next_attempt_at": None,
        "error": None,
        "started_at": None,
        "finished_at": None,
        "sha256": "abc",
        "source_sha256": "abc",
        "file": "till\x1b[2J.db",
    }
    answers: ClassVar[dict[str, Any]] = {
        "/download/client1": landed | {"status": "queued", "error": None},
        "/api/v1/transfers/it/": landed,
    }
    otherwise = 404

    def do_GET(self) -> None:
        answer = self.answers.get(self.path)
        body = json.dumps(answer).encode()
        self.send_response(200 if self.path in self.answers else self.otherwise)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def older() -> Iterator[tuple[type[Older], str]]:
    """Such a server, and its URL."""

    class This(Older):
        answers = dict(Older.answers)

    with ThreadingHTTPServer(("127.0.0.1", 0), This) as http:
        threading.Thread(target=http.serve_forever).start()
        yield This, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_pull_does_with_what_an_older_server_says(
    older: tuple[type[Older], str], tmp_path: Path
) -> None:
    pull = pull_from(older[1], tmp_path)
    assert pull.process.wait(PATIENCE) == 0
    assert "abc  till\\x1b[2J.db" in pull.output
    assert "\x1b[2J" not in pull.output


def test_pull_says_when_it_cannot_tell_what_happened_on_the_way(
    older: tuple[type[Older], str], tmp_path: Path
) -> None:
    handler, url = older
    handler.otherwise = 500
    pull = pull_from(url, tmp_path)
    assert pull.process.wait(PATIENCE) == 0
    assert f"What happened on the way is not told: {url}: HTTP 500" in pull.output


def test_pull_tells_a_reason_that_it_does_not_know(
    older: tuple[type[Older], str], tmp_path: Path
) -> None:
    handler, url = older
    failed = {
        "status": "failed",
        "error": {"code": "comet", "detail": "It fell\x1b[2J from above."},
    }
    handler.answers["/api/v1/transfers/it/"] = handler.landed | failed
    pull = pull_from(url, tmp_path)
    assert pull.process.wait(PATIENCE) == 1
    assert "failed: It fell\\x1b[2J from above. (comet)" in pull.output
    assert "Traceback" not in pull.output


@pytest.mark.parametrize("answer", [[], {}, "yes", 1])
def test_an_answer_of_something_else_is_said_to_be_one(
    older: tuple[type[Older], str], tmp_path: Path, answer: object
) -> None:
    handler, url = older
    handler.answers["/download/client1"] = answer
    pull = pull_from(url, tmp_path)
    assert pull.process.wait(PATIENCE) == 1
    assert f"{url} answers as no server of this version does" in pull.output
    assert "Traceback" not in pull.output


@pytest.mark.parametrize(
    "url", ["files.example.com", "ftp://files.example.com", "https://", "http://[::1"]
)
def test_pull_says_what_a_server_looks_like(tmp_path: Path, url: str) -> None:
    pull = pull_from(url, tmp_path)
    assert pull.process.wait(PATIENCE) == 1
    assert f"--server {url}: " in pull.output
    assert "Traceback" not in pull.output
