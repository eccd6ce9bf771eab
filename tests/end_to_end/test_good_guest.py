"""What a store notices of a transfer: its uplink, its CPU, its disk and its memory stay its own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import Server, eventually, make_file
from tests.link import Link

MIB = 1024 * 1024

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc, and ionice")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


def nice(pid: int) -> set[int]:
    """Of all threads of a process."""
    return {
        int((task / "stat").read_text().rpartition(") ")[2].split()[16])
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


def on_disk(pid: int) -> str:
    command = ["ionice", "-p", str(pid)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@linux
def test_the_agent_steps_back_unless_it_is_told_not_to(
    shared_server: Server, start_agent: StartAgent, root: Path
) -> None:
    """Its threads, too: those that read and hash are what takes the CPU."""
    token = shared_server.manage("add_client", "polite", "--token")
    file = make_file(root / "a", MIB)
    agent = start_agent("polite", token, shared_server.port, roots=[root])
    shared_server.wait_landed(shared_server.ask("polite", "a"), file)
    assert nice(agent.process.pid) == {10}
    assert "this agent runs with CPU nice 10, disk best-effort 7; no limit" in agent.output
    assert on_disk(agent.process.pid) == "best-effort: prio 7"
    agent.terminate()
    agent = start_agent(
        "polite", token, shared_server.port, roots=[root], options=["--normal-priority"]
    )
    agent.wait_for("registered")
    assert "this agent runs with normal priority; no limit" in agent.output
    assert nice(agent.process.pid) == {0}
    assert "prio 7" not in on_disk(agent.process.pid)


@linux
def test_what_is_even_more_modest_stays_so(
    shared_server: Server, start_agent: StartAgent, root: Path
) -> None:
    token = shared_server.manage("add_client", "humble", "--token")
    agent = start_agent(
        "humble", token, shared_server.port, roots=[root],
        wrapper=("nice", "-n", "15", "ionice", "-c", "idle"),
    )  # fmt: skip
    agent.wait_for("registered")
    assert "this agent runs with CPU nice 15, disk idle; no limit" in agent.output
    assert nice(agent.process.pid) == {15}
    assert on_disk(agent.process.pid) == "idle"


@linux
def test_what_the_kernel_refuses_does_not_stop_the_agent(
    shared_server: Server, start_agent: StartAgent, strace: Callable[..., list[str]], root: Path
) -> None:
    token = shared_server.manage("add_client", "refused", "--token")
    file = make_file(root / "a", MIB)
    agent = start_agent(
        "refused", token, shared_server.port, roots=[root],
        wrapper=strace("setpriority:error=EPERM", "ioprio_set:error=EPERM"),
    )  # fmt: skip
    shared_server.wait_landed(shared_server.ask("refused", "a"), file)
    assert "this agent runs with normal priority" in agent.output


@pytest.mark.parametrize("options", [[], ["--limit-rate", "1M"]])
def test_small_files_go_past_a_large_one(
    shared_server: Server, start_agent: StartAgent, root: Path, options: list[str]
) -> None:
    """On an uplink of 1 MiB/s, made by the link or by the agent's own limit: ten of them land while the
    large one, which takes minutes, is still on its way."""
    client = f"busy{len(options)}"
    token = shared_server.manage("add_client", client, "--token")
    make_file(root / "large", 128 * MIB)
    small = [make_file(root / f"small{number}", 20_000) for number in range(10)]
    with Link(shared_server.port) as link:
        if not options:
            link.slow_down(MIB)
        start_agent(client, token, link.port, roots=[root], options=options)
        first = shared_server.ask(client, "large")
        eventually("some of it", lambda: shared_server.transfer(first)["received"] > MIB)
        for pk, file in [(shared_server.ask(client, file.name), file) for file in small]:
            shared_server.wait_landed(pk, file)
        assert shared_server.transfer(first)["status"] == "receiving"
        assert shared_server.call("POST", f"/api/v1/transfers/{first}/cancel/")[0] == 200


def test_the_server_makes_a_transfer_slower_and_faster_in_the_middle(
    server: Server, start_agent: StartAgent, root: Path
) -> None:
    """And does not take it for one that hangs: its least rate here is far above the limit."""
    server.program.terminate()
    server.environment["SILENTMODE_MIN_RATE"] = str(1024 * MIB)
    server.start()
    token = server.manage("add_client", "client1", "--token")
    file = make_file(root / "a", 16 * MIB)
    start_agent("client1", token, server.port, roots=[root])
    pk = server.ask("client1", "a", rate_limit=64 * 1024)
    server.wait_status(pk, "receiving")
    eventually("some of it", lambda: server.transfer(pk)["received"] > 0)
    slow = server.transfer(pk)
    assert (slow["rate_limit"], slow["status"]) == (64 * 1024, "receiving")
    status, faster = server.call("PATCH", f"/api/v1/transfers/{pk}/", {"rate_limit": None})
    assert (status, faster["rate_limit"]) == (200, None)
    server.wait_landed(pk, file)  # at the old rate it would take four minutes


@linux
@pytest.mark.skipif(shutil.which("fincore") is None, reason="fincore is in util-linux")
def test_a_pull_leaves_the_page_cache_as_it_was(
    shared_server: Server, start_agent: StartAgent, root: Path
) -> None:
    """What the till works with stays in memory; what it does not use is not brought there."""
    token = shared_server.manage("add_client", "cached", "--token")
    cold, warm = make_file(root / "cold", 8 * MIB), make_file(root / "warm", 8 * MIB)
    # In a process of its own: the harness' look at what has landed reads it, too.
    forget = (
        "import os, sys; f = os.open(sys.argv[1], 0); os.fsync(f); os.posix_fadvise(f, 0, 0, 4)"
    )
    subprocess.run([sys.executable, "-c", forget, str(cold)], check=True)
    if in_memory(cold):
        pytest.skip("a file system that is in memory")
    start_agent("cached", token, shared_server.port, roots=[root])
    for file in (cold, warm):
        pk = shared_server.ask("cached", file.name)
        shared_server.wait_status(pk, "completed")
    assert in_memory(warm) == 8 * MIB
    assert in_memory(cold) < 4 * MIB  # 0 since Linux 6.14; before it a little may stay


def in_memory(path: Path) -> int:
    command = ["fincore", "--json", "--bytes", "--output", "RES", str(path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(json.loads(said)["fincore"][0]["res"])
