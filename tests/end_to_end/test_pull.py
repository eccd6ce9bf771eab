"""The main job: one request, and the file is there, whole and verified."""

import re
import shutil
import signal
import subprocess
import venv
from pathlib import Path

import pytest

from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import PROJECT, Program, Server, eventually, make_file, sha256

MIB = 1 << 20


def test_a_request_lands_the_agents_file_as_the_seed_says(
    server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 20 * MIB)
    agent = start_agent("client1", server.manage("add_client", "client1"), server.port, file=source)
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
    token = shared_server.manage("add_client", "empty")
    start_agent("empty", token, shared_server.port, file=source).wait_for("registered")
    assert shared_server.wait_landed(shared_server.ask("empty"), source).stat().st_size == 0


def test_three_agents_send_at_once_and_all_land(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    sources = {}
    for number in range(3):
        name = f"crowd{number}"
        sources[name] = make_file(tmp_path / name, 30 * MIB)
        token = shared_server.manage("add_client", name)
        start_agent(name, token, shared_server.port, file=sources[name]).wait_for("registered")
    asked = {name: shared_server.ask(name) for name in sources}
    for name, transfer in asked.items():
        shared_server.wait_landed(transfer, sources[name])


def test_one_agent_sends_three_files_at_once(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    sources = [make_file(tmp_path / f"file{number}", 30 * MIB) for number in range(3)]
    token = shared_server.manage("add_client", "busy")
    start_agent("busy", token, shared_server.port, roots=[tmp_path]).wait_for("registered")
    asked = [shared_server.ask("busy", source.name) for source in sources]
    for transfer, source in zip(asked, sources, strict=True):
        shared_server.wait_landed(transfer, source)


def test_a_file_asked_for_while_the_client_is_offline_lands_once_it_connects(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "later.bin", MIB)
    token = shared_server.manage("add_client", "sleeper")
    transfer = shared_server.ask("sleeper")
    assert shared_server.transfer(transfer)["status"] == "queued"
    start_agent("sleeper", token, shared_server.port, file=source)
    shared_server.wait_landed(transfer, source)


def test_more_requests_than_run_at_once_all_land(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "often.bin", 1000)
    token = shared_server.manage("add_client", "often")
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
    token = shared_server.manage("add_client", "pulled")
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
    token = shared_server.manage("add_client", "alone")
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


def test_an_agent_that_is_sending_stops_within_2_seconds_of_sigterm(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "long.bin", 300 * MIB)
    token = shared_server.manage("add_client", "leaving")
    agent = start_agent("leaving", token, shared_server.port, file=source)
    transfer = shared_server.ask("leaving")
    agent.wait_for("Sending file")
    agent.process.terminate()
    assert agent.process.wait(2) == 0
    shared_server.wait_status(transfer, "interrupted", "queued")


def test_pull_waits_through_a_restart_of_the_server(
    server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", MIB)
    token = server.manage("add_client", "client1")
    api = {"SILENTMODE_API_TOKEN": server.token}
    command = ["manage.py", "pull", "client1", "--server", server.url]
    pull = Program(command, tmp_path / "pull.log", {**server.environment, **api})
    eventually("a request", lambda: server.call("GET", "/api/v1/transfers/")[1]["count"] == 1)
    server.program.terminate()
    server.start()
    start_agent("client1", token, server.port, file=source)
    assert pull.process.wait(60) == 0
    assert sha256(source) in pull.output


def test_ctrl_c_ends_pull_and_says_that_the_transfer_goes_on(
    shared_server: Server, tmp_path: Path
) -> None:
    shared_server.manage("add_client", "absent")
    api = {"SILENTMODE_API_TOKEN": shared_server.token}
    command = ["manage.py", "pull", "absent", "--server", shared_server.url]
    pull = Program(command, tmp_path / "pull.log", {**shared_server.environment, **api})
    asked = "/api/v1/transfers/?client=absent"
    eventually("a request", lambda: shared_server.call("GET", asked)[1]["count"] == 1)
    pull.process.send_signal(signal.SIGINT)
    assert pull.process.wait(30) == 130
    assert "the transfer goes on without you" in pull.output
    assert "Traceback" not in pull.output
