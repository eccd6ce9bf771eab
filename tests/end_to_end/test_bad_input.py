"""What bad input gets: from operators, from the client's disk, from agents, and from the server's disk.

Each through the real server; nothing wrong ever appears in downloads/.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from agent.wire.messages import Abort, Chunk, End, Hello, Landed, Offer, Request, Start
from tests.end_to_end import faults
from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import AgentProgram, Server, eventually, make_file
from tests.end_to_end.scripted import ScriptedAgent

MIB = 1 << 20


# Operators --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(shared_server: Server) -> str:
    shared_server.manage("add_client", "known", "--token")
    return "known"


def test_an_unknown_client_is_404(shared_server: Server) -> None:
    status, answer = shared_server.call("POST", "/download/nobody")
    assert (status, answer["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "JSON"),
        (["path"], "dictionary"),
        (b'{"path": NaN}', "JSON"),
        ({"path": {}}, "path"),
        ({"path": ""}, "path"),
        ({"path": "x" * 5000}, "path"),
        ({"path": "a\0b"}, "path"),
        ({"path": "\ud800"}, "path"),
        ({"pth": "/etc/passwd"}, "pth"),
    ],
)  # fmt: skip
def test_a_malformed_body_or_path_is_400_and_names_the_field(
    shared_server: Server, known: str, body: Any, field: str
) -> None:
    status, answer = shared_server.call("POST", f"/download/{known}", body)
    assert (status, answer["code"] in ("invalid", "parse_error")) == (400, True), answer
    assert field in answer["detail"]


@pytest.mark.parametrize("token", ["", "wrong", "0" * 64, "\xe9\xff"])
def test_no_or_a_wrong_token_is_401(shared_server: Server, known: str, token: str) -> None:
    status, answer = shared_server.call("POST", f"/download/{known}", token=token)
    assert status == 401
    assert set(answer) == {"code", "detail"}


def test_a_user_without_the_right_is_403(shared_server: Server, known: str) -> None:
    script = (
        "from django.contrib.auth.models import User; from knox.models import AuthToken;"
        "print(AuthToken.objects.create(User.objects.create_user('weak'))[1])"
    )
    weak = shared_server.manage("shell", "-v", "0", "-c", script)
    status, answer = shared_server.call("POST", f"/download/{known}", token=weak)
    assert (status, answer["code"]) == (403, "permission_denied")


# Files of the client ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with everything that must not be sent, and one file that may."""
    shelf = tmp_path_factory.mktemp("shelf")
    outside = tmp_path_factory.mktemp("outside")
    make_file(outside / "secret", 10)
    make_file(shelf / "fine", 10)
    (shelf / "folder").mkdir()
    (shelf / "escape").symlink_to(outside / "secret")
    (shelf / "way-out").symlink_to(outside)
    (shelf / "loop").symlink_to(shelf / "loop")
    os.mkfifo(shelf / "fifo")
    with (shelf / "huge").open("wb") as file:
        file.truncate((1 << 30) + 1)
    return shelf


@pytest.fixture(scope="module")
def librarian(
    shared_server: Server, shelf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentProgram]:
    token = shared_server.manage("add_client", "librarian", "--token")
    log = tmp_path_factory.mktemp("librarian") / "log"
    agent = AgentProgram("librarian", token, shared_server.port, log, roots=[shelf, Path("/dev")])
    agent.wait_for("registered")
    yield agent
    agent.terminate()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("missing", "not_found"),
        ("folder", "not_a_file"),
        (".", "not_a_file"),
        ("fifo", "not_a_file"),
        ("/dev/zero", "forbidden"),
        ("loop", "forbidden"),
        ("/etc/passwd", "forbidden"),
        ("../../etc/passwd", "forbidden"),
        ("escape", "forbidden"),
        ("way-out/secret", "forbidden"),
        ("huge", "too_large"),
        (None, "forbidden"),
    ],
)
def test_a_file_that_may_not_be_sent_fails_at_once_and_the_agent_stays(
    shared_server: Server, librarian: AgentProgram, shelf: Path, path: str | None, code: str
) -> None:
    asked = shared_server.ask("librarian", path)
    transfer = shared_server.wait_status(asked, "failed")
    assert transfer["error"]["code"] == code
    assert len(transfer["error"]["detail"]) > 10
    fine = shared_server.ask("librarian", "fine")
    shared_server.wait_landed(fine, shelf / "fine")
    assert librarian.output.count("connected to") == 1


def test_a_file_without_permission_is_unreadable(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    wrapper = []
    if os.geteuid() == 0:  # root reads anything, unless this capability is taken away
        if shutil.which("setpriv") is None:
            pytest.skip("root may read everything, and there is no setpriv")
        powers = "-dac_override,-dac_read_search"
        wrapper = ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}"]
    locked = make_file(tmp_path / "locked", 10)
    locked.chmod(0)
    token = shared_server.manage("add_client", "weakling", "--token")
    agent = start_agent("weakling", token, shared_server.port, file=locked, wrapper=wrapper)
    agent.wait_for("registered")
    transfer = shared_server.wait_status(shared_server.ask("weakling"), "failed")
    assert transfer["error"]["code"] == "unreadable"
    locked.chmod(0o600)
    shared_server.wait_landed(shared_server.ask("weakling"), locked)


# Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "with space.txt",
        "quotes'\".txt",
        "new\nline.txt",
        "..",
        "../../escape",
        "/etc/passwd",
        "back\\slash\\..\\x.txt",
        "🍕🍔.db",
        "n" * 251 + ".txt",
        "right\u202eto-left.txt",
        "",
    ],
)
def test_any_name_lands_under_a_safe_one_and_is_kept(
    shared_server: Server, namer: str, name: str
) -> None:
    content = b"hello"
    with ScriptedAgent(shared_server.port, "namer", namer) as agent:
        agent.greet()
        asked = shared_server.ask("namer")
        start = agent.offer(name, len(content))
        agent.say(Chunk(start.transfer, 0, content))
        agent.say(End(start.transfer, len(content), hashlib.sha256(content).hexdigest(), "1", name))
        agent.hear(Landed)
    transfer = shared_server.wait_status(asked, "completed")
    assert transfer["name"] == name
    landed = shared_server.directory / "data" / "downloads" / transfer["file"]
    assert landed.parent == shared_server.directory / "data" / "downloads"
    assert landed in shared_server.downloads
    assert landed.read_bytes() == content
    assert landed.name.isascii()
    assert landed.name.isprintable()
    assert not set(landed.name) & set("/\\ '\"")


@pytest.fixture(scope="module")
def namer(shared_server: Server) -> str:
    return shared_server.manage("add_client", "namer", "--token")


# Agents -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def villain(shared_server: Server) -> str:
    """The token of the client `villain`."""
    return shared_server.manage("add_client", "villain", "--token")


@pytest.mark.parametrize(
    ("client", "token", "headers"),
    [
        ("villain", "wrong", {}),
        ("villain", "\u00e9", {}),
        ("known", None, {}),
        ("villain", None, {"Origin": "http://evil.example"}),
    ],
)
def test_a_bad_token_a_foreign_id_and_a_browser_are_refused_before_accept(
    shared_server: Server,
    known: str,
    villain: str,
    client: str,
    token: str | None,
    headers: dict[str, str],
) -> None:
    agent = ScriptedAgent(shared_server.port, client, token or villain, **headers)
    with pytest.raises(InvalidStatus) as refused, agent:
        pass
    assert refused.value.response.status_code == 403


def test_a_connection_without_our_subprotocol_is_refused(
    shared_server: Server, villain: str
) -> None:
    url = f"ws://127.0.0.1:{shared_server.port}/ws/agent/villain/"
    headers = {"Authorization": f"Bearer {villain}"}
    with pytest.raises(InvalidStatus), connect(url, additional_headers=headers):
        pass


@pytest.mark.parametrize(
    ("client", "token", "sentence"),
    [("villain", "wrong", "(unauthorized)"), ("known", None, "(wrong_id)")],
)
def test_the_real_agent_says_why_it_was_refused_and_ends(
    shared_server: Server,
    start_agent: StartAgent,
    tmp_path: Path,
    known: str,
    villain: str,
    client: str,
    token: str | None,
    sentence: str,
) -> None:
    agent = start_agent(client, token or villain, shared_server.port, roots=[tmp_path])
    assert agent.process.wait(30) == 3
    assert sentence in agent.output


def test_a_revoked_client_is_closed_told_and_refused(
    shared_server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    token = shared_server.manage("add_client", "traitor", "--token")
    agent = start_agent("traitor", token, shared_server.port, roots=[tmp_path])
    agent.wait_for("registered")
    script = "from transfers.models import Client; Client.objects.get(pk='traitor').revoke()"
    shared_server.manage("shell", "-v", "0", "-c", script)
    assert agent.process.wait(30) == 3
    assert "(revoked)" in agent.output
    again = start_agent("traitor", token, shared_server.port, roots=[tmp_path])
    assert again.process.wait(30) == 3
    assert "(revoked)" in again.output
    assert shared_server.call("POST", "/download/traitor")[0] == 409


def test_an_unknown_protocol_version_is_closed(shared_server: Server, villain: str) -> None:
    with ScriptedAgent(shared_server.port, "villain", villain) as agent:
        agent.say(Hello("silentmode.v9", "0", "test", "test"))
        (abort,), code = agent.last_words()
    assert isinstance(abort, Abort)
    assert "silentmode.v9" in abort.detail
    assert code == 4002


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", 4007),
        ("[" * 50_000, 4007),
        ("[]", 4002),
        ('{"type": "nonsense"}', 4002),
        ('{"type": "offer"}', 4002),
        (b"short", 4002),
        (b"\0" * 32 + b"payload", 4002),
        ('"' + "x" * 70_000 + '"', 4008),
    ],
)
def test_a_malformed_frame_is_closed_with_a_code_and_a_sentence(
    shared_server: Server, villain: str, frame: str | bytes, code: int
) -> None:
    with ScriptedAgent(shared_server.port, "villain", villain) as agent:
        agent.greet()
        agent.say(frame)
        heard, closed = agent.last_words()
    abort = heard[-1]
    assert isinstance(abort, Abort)
    assert (abort.transfer, abort.code) == (None, "protocol_error")
    assert abort.detail
    assert closed == code


FLOOD = 256 * MIB


@pytest.fixture
def small_window(tmp_path: Path) -> Iterator[Server]:
    """A server that gives 1 MiB of credit at a time."""
    server = Server(tmp_path / "server", SILENTMODE_WINDOW=str(MIB))
    server.start()
    yield server
    server.program.terminate()


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Server]:
    """A server to which each error is an end at once."""
    server = Server(tmp_path / "server", SILENTMODE_RETRIES="0")
    server.start()
    yield server
    server.program.terminate()


def misbehave(server: Server, token: str, evil: Any, size: int = 10 * MIB) -> tuple[str, int]:
    """Let a scripted agent send 1 MiB as it should, and then what `evil` says.

    The transfer, and the code that the server closes the connection with.
    """
    with ScriptedAgent(server.port, "villain", token) as agent:
        agent.greet()
        asked = server.ask("villain")
        start = agent.offer("evil.bin", size)
        for offset in range(0, MIB, MIB // 2):
            agent.say(Chunk(start.transfer, offset, bytes(MIB // 2)))
        with contextlib.suppress(ConnectionClosed):  # while it is still talking
            for message in evil(start):
                agent.say(message)
        heard, code = agent.last_words()
        # An acknowledgement that was on its way may come after it.
        (farewell,) = (message for message in heard if isinstance(message, Abort))
        assert farewell.code == "protocol_error"
    return asked, code


def beyond_the_limit(start: Start) -> Iterator[Chunk]:
    """A flood: whatever the server acknowledges, it is never waited for."""
    for offset in range(MIB, FLOOD, MIB // 2):
        yield Chunk(start.transfer, offset, bytes(MIB // 2))


def wrong_offset(start: Start) -> Iterator[Chunk]:
    yield Chunk(start.transfer, 3 * MIB, bytes(1000))


def backward_offset(start: Start) -> Iterator[Chunk]:
    yield Chunk(start.transfer, 0, bytes(1000))


def early_end(start: Start) -> Iterator[End]:
    yield End(start.transfer, FLOOD, "0" * 64, "1", "evil.bin")


def another_size(start: Start) -> Iterator[End]:
    sha256 = hashlib.sha256(bytes(MIB)).hexdigest()
    yield End(start.transfer, MIB, sha256, "1", "evil.bin")


def somebody_elses(start: Start) -> Iterator[Chunk]:
    yield Chunk(uuid.uuid4(), MIB, bytes(1000))


def second_offer(start: Start) -> Iterator[Offer]:
    yield Offer(start.transfer, "again", 5, 0, "2")


@pytest.mark.parametrize(
    ("evil", "code"),
    [
        (beyond_the_limit, 4008),
        (wrong_offset, 4002),
        (backward_offset, 4002),
        (early_end, 4002),
        (another_size, 4002),
        (somebody_elses, 4002),
        (second_offer, 4002),
    ],
)
def test_an_agent_that_breaks_the_rules_is_closed_and_the_transfer_keeps_its_checkpoint(
    small_window: Server, evil: Any, code: int
) -> None:
    server = small_window
    token = server.manage("add_client", "villain", "--token")
    transfer, closed = misbehave(server, token, evil, FLOOD)
    assert closed == code
    assert server.wait_status(transfer, "interrupted")["checkpoint"] >= MIB
    assert server.downloads == []


def test_more_bytes_than_offered_are_refused(server: Server) -> None:
    token = server.manage("add_client", "villain", "--token")
    transfer, closed = misbehave(
        server, token, lambda start: [Chunk(start.transfer, MIB, b"more")], size=MIB
    )
    assert closed == 4002
    server.wait_status(transfer, "interrupted")
    assert server.downloads == []


def test_a_wrong_digest_is_a_checksum_mismatch_and_leaves_nothing(strict: Server) -> None:
    server = strict
    token = server.manage("add_client", "villain", "--token")
    with ScriptedAgent(server.port, "villain", token) as agent:
        agent.greet()
        asked = server.ask("villain")
        start = agent.offer("evil.bin", 5)
        agent.say(Chunk(start.transfer, 0, b"hello"))
        agent.say(End(start.transfer, 5, "0" * 64, "1", "evil.bin"))
        transfer = server.wait_status(asked, "failed")
        assert transfer["error"]["code"] == "checksum_mismatch"
        assert transfer["checkpoint"] == 0
        eventually("no partial file", lambda: server.partials == [])
    assert server.downloads == []


def test_a_file_over_the_limit_is_aborted_and_the_connection_stays(server: Server) -> None:
    token = server.manage("add_client", "villain", "--token")
    with ScriptedAgent(server.port, "villain", token) as agent:
        agent.greet()
        asked = server.ask("villain")
        request = agent.hear(Request)
        agent.say(Offer(request.transfer, "huge", 1 << 50, 0, "1"))
        assert agent.hear(Abort).code == "too_large"
        agent.say(Abort(request.transfer, "too_large"))
        assert server.wait_status(asked, "failed")["error"]["code"] == "too_large"


# The server's disk ------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    with faults.small_disk(tmp_path / "disk", mib=16) as disk:
        yield disk


def test_a_full_disk_fails_the_transfer_and_the_server_stays_up(
    small_disk: Path, start_agent: StartAgent, tmp_path: Path
) -> None:
    server = Server(small_disk, SILENTMODE_RETRIES="0", SILENTMODE_MIN_FREE_SPACE="0")
    server.start()
    token = server.manage("add_client", "client1", "--token")
    make_file(tmp_path / "large", 40 * MIB)
    make_file(tmp_path / "small", 1000)
    start_agent("client1", token, server.port, roots=[tmp_path]).wait_for("registered")
    transfer = server.wait_status(server.ask("client1", "large"), "failed")
    assert transfer["error"]["code"] == "storage_full"
    assert server.downloads == []
    for partial in server.partials:
        partial.unlink()  # somebody makes room
    server.wait_landed(server.ask("client1", "small"), tmp_path / "small")
    assert server.program.terminate() == 0


def test_a_directory_that_cannot_be_written_is_a_storage_error_and_the_server_stays_up(
    strict: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    server = strict
    source = make_file(tmp_path / "file", 1000)
    token = server.manage("add_client", "client1", "--token")
    start_agent("client1", token, server.port, file=source).wait_for("registered")
    partial = server.directory / "data" / "partial"
    partial.rename(partial.with_name("moved"))
    transfer = server.wait_status(server.ask("client1"), "failed")
    assert transfer["error"]["code"] == "storage_error"
    assert server.call("GET", "/healthz")[0] == 503
    partial.with_name("moved").rename(partial)
    server.wait_landed(server.ask("client1"), source)
