"""A machine becomes a client, waits to be let in, changes its token and is thrown out: for real."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import PROJECT, Program, Server, eventually, make_file
from tests.end_to_end.test_workers import postgres
from tests.link import Link, Spoil

__all__ = ["postgres"]  # the fixture

MIB = 1 << 20
CODE = re.compile(r"([0-9A-HJKMNP-TV-Z]{5}-){4}[0-9A-HJKMNP-TV-Z]{5}")

SEEN: list[str] = []
"""Codes and tokens of the present test, none of which may be found anywhere."""


class Machine:
    """A machine that has nothing yet but the agent's program."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.state = home / "state"
        self.port = port
        self.program: Program | None = None
        home.mkdir()

    def enrol(self, code: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command, with the code in the environment, where no process list shows it."""
        return subprocess.run(
            [sys.executable, "-m", "agent", "enrol", "--server", f"ws://127.0.0.1:{self.port}", *more],
            cwd=PROJECT,
            env=self.environment | {"SILENTMODE_CODE": code} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if "SILENTMODE" not in name}
        return {**ours, "SILENTMODE_STATE_DIR": str(self.state)}

    @property
    def kept(self) -> dict[str, str]:
        kept: dict[str, str] = json.loads((self.state / "credentials.json").read_text())
        if kept["token"] not in SEEN:
            SEEN.append(kept["token"])
        return kept

    def moves_to(self, port: int) -> None:
        """The server is there now."""
        kept = self.kept | {"server": f"ws://127.0.0.1:{port}"}
        (self.state / "credentials.json").write_text(json.dumps(kept))

    def start(
        self, source: Path, *more: str, wrapper: tuple[str, ...] = (), **environment: str
    ) -> Program:
        """The agent, with nothing said of server, id or token."""
        log = self.home / "agent.log"
        environment["SILENTMODE_STATE_DIR"] = str(self.state)
        self.program = Program(
            ["-m", "agent", "--file", str(source), *more], log, environment, wrapper
        )
        return self.program


@pytest.fixture
def machines(server: Server, tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """Makes machines; their agents are gone after the test, and no secret has got into any log."""
    made: list[Machine] = []
    SEEN.clear()

    def make(name: str = "till-1", port: int | None = None) -> Machine:
        made.append(Machine(tmp_path / name, port or server.port))
        return made[-1]

    yield make
    for machine in made:
        if machine.program and machine.program.process.poll() is None:
            machine.program.terminate()
        with contextlib.suppress(FileNotFoundError):
            _ = machine.kept
    logs = [server.program.log, *(each.program.log for each in made if each.program)]
    for log in logs:
        assert_secret_free(log.read_text())
    assert_secret_free(audit(server))
    assert "Traceback" not in server.program.output, server.program.output


def assert_secret_free(text: str) -> None:
    for secret in SEEN:
        assert secret not in text
        assert secret.replace("-", "") not in text


def audit(server: Server) -> str:
    return server.manage("export_audit")


def rows(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in audit(server).splitlines() if line]


def events(server: Server) -> list[str]:
    return [row["event"] for row in rows(server)]


def code_for(server: Server, client: str, *more: str) -> str:
    code = server.manage("add_client", client, *more)
    assert CODE.fullmatch(code)
    SEEN.append(code)
    return code


def key_for(server: Server, uses: int, *more: str) -> str:
    key = server.manage("new_enrolment_key", "--uses", str(uses), *more)
    SEEN.append(key)
    return key


def client(server: Server, name: str) -> dict[str, Any]:
    status, body = server.call("GET", f"/api/v1/clients/{name}/")
    assert status == 200, body
    answer: dict[str, Any] = body
    return answer


@pytest.fixture
def boss(server: Server) -> str:
    """An API token of an administrator."""
    return server.manage("add_api_token", "boss", "--group", "admin")


def handshake(server: Server, name: str, token: str) -> tuple[int, str]:
    """What the door says to this token."""
    headers = {"Authorization": f"Bearer {token}"}
    status, answer = server.call("GET", f"/ws/agent/{name}/", headers=headers)
    return status, answer["code"]


def query(server: Server, code: str) -> str:
    return server.manage("shell", "-v", "0", "-c", code)


# A code ------------------------------------------------------------------------------------------


def test_a_machine_enrols_with_a_code_and_its_file_is_pulled(
    server: Server, machines: Callable[..., Machine], tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", MIB)
    machine = machines()
    code = code_for(server, "client1", "--label", "north")
    assert client(server, "client1")["status"] == "invited"
    done = machine.enrol(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        f"enrolled as client1 at ws://127.0.0.1:{server.port}; its token is in {machine.state}",
        "start the agent: python -m agent --file FILE, or --root DIR, or both",
    ]
    assert client(server, "client1")["status"] == "active"
    agent = machine.start(source)
    server.wait_landed(server.ask("client1"), source)
    assert f"connected to ws://127.0.0.1:{server.port}" in agent.output
    assert client(server, "client1")["labels"] == ["north"]
    assert {"client_added", "client_labelled", "code_made", "client_enrolled"} <= set(
        events(server)
    )
    assert_secret_free(done.stdout + done.stderr)


def test_what_is_kept_is_for_the_account_alone(
    server: Server, machines: Callable[..., Machine]
) -> None:
    machine = machines()
    machine.enrol(code_for(server, "client1"))
    assert machine.state.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in machine.state.iterdir()] == ["credentials.json"]
    assert (machine.state / "credentials.json").stat().st_mode & 0o777 == 0o600
    stored = query(server, "from transfers.models import Client; print(*Client.objects.values())")
    assert machine.kept["token"] not in stored
    assert hashlib.sha256(machine.kept["token"].encode()).hexdigest() in stored


def test_what_was_asked_of_an_invited_client_waits_for_it(
    server: Server, machines: Callable[..., Machine], tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", MIB)
    code = code_for(server, "client1")
    asked = server.ask("client1")
    machine = machines()
    machine.enrol(code)
    machine.start(source)
    server.wait_landed(asked, source)


def test_a_code_may_be_typed_as_it_was_read_out(
    server: Server, machines: Callable[..., Machine]
) -> None:
    code = code_for(server, "client1")
    spoken = code.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert machines().enrol(spoken).returncode == 0


def test_a_code_comes_from_standard_input_too(
    server: Server, machines: Callable[..., Machine]
) -> None:
    machine = machines()
    done = subprocess.run(
        [sys.executable, "-m", "agent", "enrol", "--server", server.url.replace("http", "ws")],
        cwd=PROJECT, env=machine.environment, input=code_for(server, "client1") + "\n",
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_machine_does_not_enrol_twice_by_mistake(
    server: Server, machines: Callable[..., Machine]
) -> None:
    machine = machines()
    machine.enrol(code_for(server, "client1"))
    before = machine.kept
    code = code_for(server, "client2")
    done = machine.enrol(code)
    assert done.returncode == 2
    assert "This machine is client client1 of" in done.stderr
    assert machine.kept == before
    assert machine.enrol(code, "--force").returncode == 0
    assert machine.kept["client_id"] == "client2"


@pytest.mark.parametrize("why", ["unknown", "used", "expired", "revoked"])
def test_a_code_that_is_good_for_nothing(
    server: Server, machines: Callable[..., Machine], why: str
) -> None:
    code = code_for(server, "client1", *(["--valid-for", "1s"] if why == "expired" else []))
    match why:
        case "unknown":
            code = "00000-00000-00000-00000-00000"
        case "used":
            assert machines("first").enrol(code).returncode == 0
        case "expired":
            passed = "from transfers.models import *; print(EnrolmentKey.objects.get().status)"
            eventually("an expired code", lambda: query(server, passed) == "expired")
        case "revoked":
            server.manage("revoke_client", "client1")
    machine = machines()
    done = machine.enrol(code)
    assert done.returncode == 3
    assert done.stderr.endswith(f"(code_{why})\n")
    assert not (machine.state / "credentials.json").exists()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_key_of_200_uses_lets_200_in_of_201_at_once(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment = {}
    if database == "postgresql":
        environment["DATABASE_URL"] = request.getfixturevalue("postgres")
    server = Server(tmp_path / "many", **environment)
    server.start()
    key = server.manage("new_enrolment_key", "--uses", "200")
    code = server.manage("add_client", "only-one")

    def enrol(number: int, code: str, name: str) -> tuple[int, str]:
        body = {"code": code, "token_sha256": f"{number:064x}", "client": name}
        status, answer = server.call("POST", "/api/v1/enrol/", body)
        return status, answer.get("code", answer.get("client"))

    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        many = list(pool.map(lambda n: enrol(n, key, f"till-{n}"), range(201)))
        seconds = time.monotonic() - began
        pair = list(pool.map(lambda n: enrol(n, code, "only-one"), range(1000, 1010)))
    print(f"{database}: 201 enrolments at once in {seconds:.1f} s")
    assert sorted(many)[:200] == sorted((201, f"till-{n}") for n in range(201) if many[n][0] == 201)
    assert sorted(many)[200] == (403, "code_used")
    assert sorted(pair) == [(201, "only-one"), *[(403, "code_used")] * 9]
    assert server.manage("verify_audit")
    assert server.program.terminate() == 0
    assert "Traceback" not in server.program.output, server.program.output


def test_one_code_by_two_machines_at_once_lets_exactly_one_in(
    server: Server, machines: Callable[..., Machine]
) -> None:
    code = code_for(server, "client1")
    pair = [machines("one"), machines("two")]
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda machine: machine.enrol(code), pair))
    assert sorted(each.returncode for each in done) == [0, 3]
    winner = pair[[each.returncode for each in done].index(0)]
    assert handshake(server, "client1", winner.kept["token"]) == (426, "upgrade_required")


def test_an_answer_that_is_lost_does_not_burn_the_code(
    server: Server, machines: Callable[..., Machine]
) -> None:
    """Nor does it matter when the answer is lost: the machine has its token before it asks."""
    with Link(server.port) as link:
        machine = machines(port=link.port)
        garbled = link.spoil("down", Spoil("flip", 0))
        code = code_for(server, "client1")
        done = machine.enrol(code)
        assert done.returncode == 1, done.stderr
        assert "Try again" in done.stderr
        assert client(server, "client1")["status"] == "active", "the server had decided"
        assert garbled.is_set()
        assert machine.enrol(code).returncode == 0
    assert handshake(server, "client1", machine.kept["token"])[0] == 426


def test_who_guesses_codes_has_to_wait(server: Server) -> None:
    body = {"code": "0" * 25, "token_sha256": "0" * 64}
    answers = [server.call("POST", "/api/v1/enrol/", body) for _ in range(21)]
    assert [status for status, _ in answers] == [403] * 20 + [429]
    assert answers[-1][1]["code"] == "throttled"


# A key ------------------------------------------------------------------------------------------


def test_a_roll_out_with_a_key(
    server: Server, machines: Callable[..., Machine], boss: str, tmp_path: Path
) -> None:
    """Several machines at once; each waits until it is approved, and then comes online by itself."""
    source = make_file(tmp_path / "data.bin", MIB)
    key = key_for(server, 3, "--label", "west")
    tills = [machines(f"till-{number}") for number in range(4)]
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda till: till.enrol(key, "--id", till.home.name), tills))
    assert sorted(each.returncode for each in done) == [0, 0, 0, 3], "three uses are three uses"
    assert "(code_used)" in "".join(each.stderr for each in done)
    tills = [till for till, each in zip(tills, done, strict=True) if each.returncode == 0]
    agents = [till.start(source) for till in tills]
    for till, agent in zip(tills, agents, strict=True):
        agent.wait_for("waits to be approved")
        name = till.home.name
        assert client(server, name)["status"] == "pending"
        status, answer = server.call("POST", f"/download/{name}", {})
        assert (status, answer["code"]) == (409, "pending")
    first, second, third = (till.home.name for till in tills)
    began = time.monotonic()
    assert server.call("POST", f"/api/v1/clients/{first}/approve/", token=boss)[0] == 200
    server.manage("approve_client", second)
    approve_in_the_admin(server, third)
    for till, agent in zip(tills, agents, strict=True):
        agent.wait_for("registered as")
        server.wait_landed(server.ask(till.home.name), source)
        assert client(server, till.home.name)["labels"] == ["west"]
    print(f"three clients online {time.monotonic() - began:.1f} s after the first was approved")
    assert events(server).count("client_approved") == 3


def approve_in_the_admin(server: Server, name: str) -> None:
    act_in_the_admin(server, name, "approve")


def act_in_the_admin(server: Server, name: str, action: str, **more: str) -> None:
    """As a browser does it, in a process of its own; the running server is not told by any call."""
    query(
        server,
        f"""
from django.contrib.auth.models import User
from django.test import Client as Browser
user, _ = User.objects.get_or_create(username="root", is_staff=True, is_superuser=True)
browser = Browser(headers={{"host": "localhost"}})
browser.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
answer = browser.post(
    "/admin/transfers/client/",
    {{"action": {action!r}, "_selected_action": {name!r}, **{more!r}}},
)
assert answer.status_code in (200, 302), answer.content
""",
    )


def test_a_key_takes_over_no_client(server: Server, machines: Callable[..., Machine]) -> None:
    machine = machines("victim")
    machine.enrol(code_for(server, "client1"))
    done = machines("thief").enrol(key_for(server, 5), "--id", "client1")
    assert done.returncode == 3
    assert done.stderr.endswith("(client_exists)\n")
    assert handshake(server, "client1", machine.kept["token"])[0] == 426


# Rotation ---------------------------------------------------------------------------------------


@pytest.fixture
def enrolled(server: Server, machines: Callable[..., Machine]) -> Machine:
    machine = machines()
    assert machine.enrol(code_for(server, "client1")).returncode == 0
    return machine


def rotated(server: Server, machine: Machine, old: str) -> None:
    """Wait until there is one token: the new one."""

    def done() -> bool:
        return handshake(server, "client1", old) == (401, "unauthorized")

    eventually("an old token that is refused", done)
    assert machine.kept["token"] != old
    assert handshake(server, "client1", machine.kept["token"]) == (426, "upgrade_required")
    assert client(server, "client1")["rotate_requested_at"] is None


def test_a_token_changes_in_the_middle_of_a_transfer_that_goes_on(
    server: Server, enrolled: Machine, boss: str, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 60 * MIB)
    old = enrolled.kept["token"]
    with Link(server.port) as link:
        enrolled.moves_to(link.port)
        agent = enrolled.start(source)
        link.stall_after(10 * MIB)
        asked = server.ask("client1")
        link.wait_stalled()
        assert server.call("POST", "/api/v1/clients/client1/rotate/", token=boss)[0] == 200
        link.flow()
        rotated(server, enrolled, old)
        server.wait_landed(asked, source)
    assert server.transfer(asked)["attempts"] == 1, "the connection was never lost"
    assert agent.output.count("registered as") == 1
    assert agent.output.count("took a new token") == 1
    agent.terminate()
    enrolled.moves_to(server.port)
    again = enrolled.start(source)
    again.wait_for("registered as", times=2)


def test_a_command_rotates_within_seconds_and_more_than_once(
    server: Server, enrolled: Machine, tmp_path: Path
) -> None:
    agent = enrolled.start(make_file(tmp_path / "data.bin", 1))
    agent.wait_for("registered as")
    for times in (1, 2):
        old = enrolled.kept["token"]
        server.manage("rotate_token", "client1")
        began = time.monotonic()
        rotated(server, enrolled, old)
        print(f"rotated {time.monotonic() - began:.1f} s after the command had ended")
        assert events(server).count("client_rotated") == times


def test_an_agent_that_is_offline_takes_its_new_token_when_it_is_back(
    server: Server, enrolled: Machine, tmp_path: Path
) -> None:
    old = enrolled.kept["token"]
    server.manage("rotate_token", "client1")
    enrolled.start(make_file(tmp_path / "data.bin", 1))
    rotated(server, enrolled, old)


@pytest.mark.parametrize("when", ["before it is kept", "after it is kept"])
def test_an_agent_that_is_killed_while_it_takes_a_token_comes_back(
    server: Server, enrolled: Machine, tmp_path: Path, strace: Callable[..., list[str]], when: str
) -> None:
    """Killed in the call that puts the new token in its place: just before that is done, or just after."""
    source = make_file(tmp_path / "data.bin", 1)
    old = enrolled.kept["token"]
    before = when == "before it is kept"
    held = strace(f"rename:delay_{'enter' if before else 'exit'}={10 * 1_000_000}")
    server.manage("rotate_token", "client1")
    agent = enrolled.start(source, wrapper=tuple(held), PYTHONDONTWRITEBYTECODE="1")

    def at_the_rename() -> bool:
        written = any(path.name.startswith(".credentials") for path in enrolled.state.iterdir())
        return written if before else enrolled.kept["token"] != old

    eventually("an agent at the rename", at_the_rename)
    agent.kill()
    assert (enrolled.kept["token"] == old) == before
    assert "took a new token" not in agent.output
    enrolled.start(source)
    rotated(server, enrolled, old)


def test_a_server_that_is_killed_before_it_hears_of_the_new_token_lets_it_in(
    server: Server, enrolled: Machine, tmp_path: Path
) -> None:
    old = enrolled.kept["token"]
    with Link(server.port) as link:
        enrolled.moves_to(link.port)
        agent = enrolled.start(make_file(tmp_path / "data.bin", 1))
        agent.wait_for("registered as")
        link.stall_after(0)  # from the agent to the server
        server.manage("rotate_token", "client1")
        agent.wait_for("took a new token")
        server.program.kill()
        link.cut()
        link.flow()
        assert enrolled.kept["token"] != old
        server.start()
        agent.wait_for("registered as", times=2)
        rotated(server, enrolled, old)


def test_a_server_that_is_killed_before_the_agent_has_the_new_token_sends_another(
    server: Server, enrolled: Machine, tmp_path: Path
) -> None:
    """What it had offered is on record then, and of no use to anybody."""
    old = enrolled.kept["token"]
    with Link(server.port) as link:
        enrolled.moves_to(link.port)
        agent = enrolled.start(make_file(tmp_path / "data.bin", 1))
        agent.wait_for("registered as")
        link.black_hole()
        server.manage("rotate_token", "client1")
        offered = "from transfers.models import *; print(Client.objects.get().next_token_sha256)"
        eventually("an offered token", lambda: query(server, offered) != "None")
        server.program.kill()
        assert enrolled.kept["token"] == old
        link.cut()
        link.heal()
        server.start()
        rotated(server, enrolled, old)


def test_a_token_given_by_hand_cannot_be_rotated_and_the_operator_is_told(
    server: Server, start_agent: StartAgent, boss: str, tmp_path: Path
) -> None:
    token = server.manage("add_client", "client1", "--token")
    agent = start_agent("client1", token, server.port, file=make_file(tmp_path / "data.bin", 1))
    agent.wait_for("registered as")
    status, answer = server.call("POST", "/api/v1/clients/client1/rotate/", token=boss)
    assert (status, answer["code"]) == (409, "not_renewable")
    assert "add_client client1 --renew" in answer["detail"]
    with pytest.raises(subprocess.CalledProcessError) as failed:
        server.manage("rotate_token", "client1")
    assert "given its token by hand" in failed.value.stderr


# Revocation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["api", "admin", "command"])
def test_a_revoked_client_is_gone_within_five_seconds(
    server: Server, enrolled: Machine, boss: str, tmp_path: Path, how: str
) -> None:
    agent = enrolled.start(make_file(tmp_path / "data.bin", 1))
    agent.wait_for("registered as")
    token = enrolled.kept["token"]

    def watch() -> tuple[int, datetime]:
        return agent.process.wait(60), datetime.now(UTC)

    watching = ThreadPoolExecutor().submit(watch)
    match how:
        case "api":
            assert server.call("POST", "/api/v1/clients/client1/revoke/", token=boss)[0] == 200
        case "admin":
            act_in_the_admin(server, "client1", "revoke", ask="Revoke access")
        case "command":
            server.manage("revoke_client", "client1")
    exit_status, gone_at = watching.result()
    revoked = next(row for row in rows(server) if row["event"] == "client_revoked")
    took = (gone_at - datetime.fromisoformat(revoked["at"])).total_seconds()
    print(f"revoked by {how}: the agent was gone {took:.2f} s later")
    assert (exit_status, took < 5) == (3, True)
    assert agent.output.endswith("error: The access of this client was revoked. (revoked)\n")
    status, answer = server.call("POST", "/download/client1", {})
    assert (status, answer["code"]) == (409, "revoked")
    assert handshake(server, "client1", token) == (403, "revoked")
    eventually("a client that is offline", lambda: not client(server, "client1")["online"])
    again = enrolled.start(tmp_path / "data.bin")
    assert again.process.wait(60) == 3, "nor does it come back"


def test_a_new_code_ends_the_old_token_and_lifts_a_revocation(
    server: Server, enrolled: Machine, machines: Callable[..., Machine], tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", MIB)
    agent = enrolled.start(source)
    agent.wait_for("registered as")
    old = enrolled.kept["token"]
    with pytest.raises(subprocess.CalledProcessError) as refused:
        server.manage("add_client", "client1")
    assert "--renew" in refused.value.stderr
    code = code_for(server, "client1", "--renew")
    assert handshake(server, "client1", old)[0] == 426, "nothing has changed yet"
    successor = machines("new-till")
    assert successor.enrol(code).returncode == 0
    assert handshake(server, "client1", old) == (401, "unauthorized")
    assert agent.process.wait(60) == 3
    assert agent.output.endswith(
        "error: This client was enrolled anew, and its earlier token is not valid any more. (revoked)\n"
    )
    server.manage("revoke_client", "client1")
    third = machines("third")
    assert third.enrol(code_for(server, "client1", "--renew")).returncode == 0
    third.start(source)
    server.wait_landed(server.ask("client1"), source)


def test_no_code_and_no_token_is_in_a_process_list(
    server: Server, enrolled: Machine, tmp_path: Path
) -> None:
    """Of ours: whoever writes `--code` on a shared machine has been warned by the help."""
    agent = enrolled.start(make_file(tmp_path / "data.bin", 1))
    agent.wait_for("registered as")
    for process in (agent.process, server.program.process):
        line = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert_secret_free(line)
