"""What an agent's own policy means to the operator who asks."""

import json
import os
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import Server, eventually, make_file

MIB = 1 << 20


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    logs = tmp_path / "logs"
    (logs / "private").mkdir(parents=True)
    for name in ("a.log", "b.log", "c.log", "private/d.log", "e.txt"):
        make_file(logs / name, 2 * MIB)
    make_file(logs / "large.log", 3 * MIB)
    return logs


@pytest.fixture
def policy(tmp_path: Path, logs: Path) -> Path:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f"""
        file = "{logs}/a.log"
        max_file_size = "2 MiB"
        rate_limit = "512 KiB/s"
        transfers_at_once = 1
        [[roots]]
        path = "{logs}"
        allow = ["**/*.log"]
        deny = ["private"]
        """
    )
    return policy


def test_an_operator_gets_what_the_policy_allows_and_learns_nothing_of_the_rest(
    shared_server: Server, start_agent: StartAgent, logs: Path, policy: Path
) -> None:
    client = f"policy-{os.getpid()}"
    token = shared_server.manage("add_client", client, "--token")
    agent = start_agent(client, token, shared_server.port, policy=policy)
    shared_server.wait_landed(shared_server.ask(client), logs / "a.log")
    for path, code in [
        ("private/d.log", "forbidden"), ("private/gone.log", "forbidden"), ("e.txt", "forbidden"),
        ("/etc/passwd", "forbidden"), ("/etc/gone", "forbidden"), (str(policy), "forbidden"),
        ("large.log", "too_large"),
    ]:  # fmt: skip
        failed = shared_server.wait_status(shared_server.ask(client, path), "failed")
        assert failed["error"]["code"] == code
        assert str(logs) not in failed["error"]["detail"]
    assert _events(agent.state / "requests.jsonl") == ["allowed", "landed"]
    assert _events(agent.state / "refusals.jsonl") == ["refused"] * 7


def _events(journal: Path) -> list[str]:
    return [json.loads(line)["event"] for line in journal.read_text().splitlines()]


def test_transfers_that_an_agent_is_too_busy_for_land_later(
    tmp_path: Path, start_agent: StartAgent, logs: Path, policy: Path
) -> None:
    """Each takes four seconds at this rate, and there is one place; the server asks again by itself."""
    server = Server(tmp_path / "server", SILENTMODE_RETRY_PAUSE="1")
    server.start()
    try:
        token = server.manage("add_client", "client1", "--token")
        agent = start_agent("client1", token, server.port, policy=policy)
        names = ["a.log", "b.log", "c.log"]
        transfers = [server.ask("client1", name) for name in names]
        for name, transfer in zip(names, transfers, strict=True):
            server.wait_landed(transfer, logs / name)
        eventually("all in the journal", lambda: _landed(agent.state) == sorted(names))
        assert "(busy)" in agent.output
    finally:
        assert server.program.terminate() == 0


def _landed(state: Path) -> list[str]:
    lines = map(json.loads, (state / "requests.jsonl").read_text().splitlines())
    return sorted(line["asked"] for line in lines if line["event"] == "landed")
