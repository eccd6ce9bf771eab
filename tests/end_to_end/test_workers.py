"""Several server processes, on PostgreSQL and Redis, are one server."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import Server, eventually, free_port, make_file

MIB = 1 << 20


def program(name: str) -> str:
    """The path of a program of the distribution, or a skip that says what to do."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([*map(str, places), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed; `make system-deps` does it")
    return found


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of an empty database on a PostgreSQL of our own."""
    initdb, binary, createdb = program("initdb"), program("postgres"), program("createdb")
    folder = Path(tempfile.mkdtemp(prefix="silentmode-postgres-"))
    root: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        root = {"user": "postgres", "group": "postgres", "extra_groups": []}
    data, port = folder / "data", free_port()
    subprocess.run(
        [initdb, "-D", data, "-U", "silentmode", "--auth=trust", "-N"],
        check=True, capture_output=True, cwd=folder, **root,
    )  # fmt: skip
    command = [binary, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **root)
    create = [createdb, "-h", "127.0.0.1", "-p", str(port), "-U", "silentmode", "silentmode"]
    eventually(
        "a running PostgreSQL",
        lambda: subprocess.run(create, check=False, capture_output=True).returncode == 0,
    )
    yield f"postgres://silentmode@127.0.0.1:{port}/silentmode"
    server.send_signal(signal.SIGINT)  # fast: SIGTERM would wait for clients
    server.wait()
    shutil.rmtree(folder)


class Redis:
    """One of our own, which can be stopped and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        ping = [program("redis-cli"), "-p", str(self.port), "ping"]
        eventually(
            "a running Redis",
            lambda: b"PONG" in subprocess.run(ping, check=False, capture_output=True).stdout,
        )

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    redis = Redis()
    redis.start()
    yield redis
    redis.stop()


def two_workers(folder: Path, postgres: str, redis: Redis) -> tuple[Server, Server]:
    environment = {"DATABASE_URL": postgres, "REDIS_URL": redis.url, "SILENTMODE_WORKERS": "2"}
    one = Server(folder / "server", **environment)
    one.start()
    return one, one.beside()


@pytest.fixture
def workers(tmp_path: Path, postgres: str, redis: Redis) -> Iterator[tuple[Server, Server]]:
    """Two processes that share the database, the layer and the data directory."""
    one, other = two_workers(tmp_path, postgres, redis)
    yield one, other
    ends = [server.program.terminate() for server in (one, other)]
    assert ends == [0, 0]
    for server in (one, other):
        assert "Traceback" not in server.program.output, server.program.output


def test_a_request_to_one_worker_reaches_the_agent_of_another(
    workers: tuple[Server, Server], start_agent: StartAgent, tmp_path: Path
) -> None:
    one, other = workers
    source = make_file(tmp_path / "data.bin", 20 * MIB)
    agent = start_agent(
        "client1", one.manage("add_client", "client1", "--token"), one.port, file=source
    )
    agent.wait_for("registered as client1")
    assert other.call("GET", "/api/v1/clients/client1/")[1]["online"]
    # Under the heartbeat: it was the doorbell.
    other.wait_landed(other.ask("client1"), source, seconds=10)


def test_a_transfer_moves_to_another_worker_with_its_agent(
    workers: tuple[Server, Server], start_agent: StartAgent, tmp_path: Path
) -> None:
    one, other = workers
    source = make_file(tmp_path / "data.bin", 300 * MIB)
    token = one.manage("add_client", "client2", "--token")
    start_agent("client2", token, one.port, file=source).wait_for("registered")
    transfer = other.ask("client2")
    one.wait_status(transfer, "receiving")
    start_agent("client2", token, other.port, file=source)
    other.wait_landed(transfer, source)
    assert other.transfer(transfer)["attempts"] >= 2


def test_an_idle_agent_stays_connected_over_redis(
    workers: tuple[Server, Server], start_agent: StartAgent, tmp_path: Path
) -> None:
    """Longer than the 5 s for which the layer waits for a message at a time."""
    one, _ = workers
    token = one.manage("add_client", "idle", "--token")
    agent = start_agent("idle", token, one.port, roots=[tmp_path])
    agent.wait_for("registered")
    eventually("a lease renewed by a heartbeat, after 15 s", lambda: _seen_for(one, "idle") > 10)
    assert agent.output.count("connected to") == 1


def test_an_outage_of_redis_takes_no_agent_away_and_loses_no_request(
    postgres: str, redis: Redis, start_agent: StartAgent, tmp_path: Path
) -> None:
    one, other = two_workers(tmp_path, postgres, redis)
    source = make_file(tmp_path / "data.bin", MIB)
    token = one.manage("add_client", "outage", "--token")
    agent = start_agent("outage", token, one.port, file=source)
    agent.wait_for("registered")
    redis.stop()
    try:
        one.wait_landed(one.ask("outage"), source, seconds=10)
        other.wait_landed(other.ask("outage"), source)
    finally:
        redis.start()
    eventually(
        "a ring over Redis, which both have found again",
        lambda: _lands_soon(other, source),
    )
    assert agent.output.count("connected to") == 1
    assert [server.program.terminate() for server in (one, other)] == [0, 0]


def _lands_soon(server: Server, source: Path) -> bool:
    """Long before the roll call would find it."""
    asked = server.ask("outage", duplicate=True)
    try:
        server.wait_landed(asked, source, seconds=5)
    except AssertionError:
        server.wait_landed(asked, source)
        return False
    return True


def test_all_workers_write_one_audit_log_without_a_branch(workers: tuple[Server, Server]) -> None:
    one, _ = workers
    one.manage("add_client", "audited")
    before = _rows(one)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(workers[n % 2].ask, "audited", f"/{n}") for n in range(100)]
        transfers = [each.result() for each in asked]
        for answer in [
            pool.submit(workers[n % 2].call, "POST", f"/api/v1/transfers/{transfer}/cancel/")
            for n, transfer in enumerate(transfers)
        ]:
            assert answer.result()[0] == 200
    assert _rows(one) == before + 200


def _rows(server: Server) -> int:
    """How many rows the audit log has, once it was found whole."""
    return int(server.manage("verify_audit").partition(":")[0])


def _seen_for(server: Server, client: str) -> float:
    """Seconds from the client's registration until it was last seen."""
    answer = server.call("GET", f"/api/v1/clients/{client}/")[1]
    seen, made = (datetime.fromisoformat(answer[name]) for name in ("last_seen", "created_at"))
    return (seen - made).total_seconds()
