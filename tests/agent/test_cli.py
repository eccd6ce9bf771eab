"""The agent as a program: what it says, how it exits."""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from agent import __version__
from agent.credentials import Credentials
from agent.state_folder import StateFolder
from agent.wire.messages import Abort, Request

from .servers import Server, identity, refusing, serving, welcome

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
]

BASE = Path(__file__).resolve().parents[2]
TOKEN = identity("").token
SECONDS = 20.0
STOP_SECONDS = 2.0


def environment(token: str | None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
    clean = {name: value for name, value in clean.items() if not name.startswith("SILENTMODE_")}
    clean["SILENTMODE_STATE_DIR"] = "/nonexistent"
    return clean | ({} if token is None else {"SILENTMODE_TOKEN": token})


class Agent:
    """The program, running."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said: list[str] = []

    async def say(self, text: str) -> None:
        """Wait until it says this."""
        assert self.process.stderr is not None
        async with asyncio.timeout(SECONDS):
            while not any(text in line for line in self.said):
                line = await self.process.stderr.readline()
                assert line, f"it ended without saying {text!r}: {self.said}"
                self.said.append(line.decode().rstrip("\n"))

    async def exit(self, seconds: float = SECONDS) -> int:
        """Its exit status, once it has ended, and ends soon enough."""
        async with asyncio.timeout(seconds):
            _out, err = await self.process.communicate()
        self.said += err.decode().splitlines()
        assert "Traceback" not in err.decode(), err.decode()
        assert self.process.returncode is not None
        return self.process.returncode


@contextlib.asynccontextmanager
async def agent(
    *arguments: str | Path, token: str | None = TOKEN, **more: str
) -> AsyncIterator[Agent]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", "--id", "client1", *map(str, arguments),
        cwd=BASE, env=environment(token) | more, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    try:
        yield Agent(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def refused(*arguments: str | Path, token: str | None = TOKEN) -> str:
    """The sentence with which the arguments are refused."""
    async with agent(*arguments, token=token) as it:
        assert await it.exit() == 2, it.said
        return it.said[-1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "data.bin"
    file.write_bytes(os.urandom(300_000))
    return file


@pytest.fixture
def nobody() -> str:
    """The URL of a server that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"ws://127.0.0.1:{listening.getsockname()[1]}"


# Arguments


async def test_the_version() -> None:
    async with agent("--version") as it:
        out, _err = await it.process.communicate()
        assert (it.process.returncode, out.decode().strip()) == (0, __version__)


async def test_the_id_is_asked_for() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", cwd=BASE, env=environment(TOKEN), stdout=PIPE, stderr=PIPE
    )
    _out, err = await process.communicate()
    assert process.returncode == 2
    assert b"--id" in err


@pytest.mark.parametrize("token", [None, "", "   ", "two words", "tökén", "a\x1bb"])
async def test_without_a_usable_token_it_says_where_to_get_one(
    file: Path, token: str | None
) -> None:
    sentence = await refused("--file", file, token=token)
    assert sentence.startswith("error: There is no usable token in SILENTMODE_TOKEN")
    assert "add_client" in sentence
    assert not token or not token.strip() or token not in sentence


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "http://localhost:8000",
        "ws://",
        "ws://localhost/ws/agent/",
        "",
        "wss:host",
    ],
)
async def test_a_server_url_that_makes_no_sense(file: Path, url: str) -> None:
    assert (await refused("--file", file, "--server", url)).startswith(f"error: --server {url}: ")


@pytest.mark.parametrize("url", ["ws://localhost:99999", "ws://localhost:http", "ws://[::1"])
async def test_a_server_url_that_cannot_be_read(file: Path, url: str) -> None:
    assert (await refused("--file", file, "--server", url)).startswith(f"error: --server {url}: ")


async def test_a_host_that_can_be_no_name_is_no_crash(file: Path) -> None:
    """Wrong usage, or a server to be tried again; a traceback it is not."""
    async with agent("--file", file, "--server", "ws://a..b:8000") as it:
        it.process.send_signal(signal.SIGTERM) if await offline(it) else None
        assert await it.exit() in (0, 2)


async def offline(it: Agent) -> bool:
    try:
        await it.say("offline: ")
    except AssertionError:
        assert "Traceback" not in "".join(it.said)
        return False
    return True


async def test_without_file_and_root_nothing_could_be_pulled() -> None:
    sentence = await refused()
    assert "--file" in sentence
    assert "--root" in sentence


async def test_a_policy_says_what_may_be_pulled(file: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[[roots]]\npath = "{tmp_path}"\nallow = ["*.bin"]\n')
    refused = asyncio.Event()

    async def script(server: Server) -> None:
        await server.welcome()
        assert await server.pull("data.bin") == file.read_bytes()
        await server.say(Request(UUID(int=7), "policy.toml"))
        refusal = await server.hear(Abort)
        refused.set()
        assert (refusal.code, refusal.path) == ("forbidden", "policy.toml")
        assert refusal.detail == "The agent's configuration does not allow this file."
        await server.gone()

    async with serving(script) as url, agent("--policy", policy, "--server", url) as it:
        await it.say("Not sent: policy.toml: root ")
        assert "allows no such name (forbidden)" in it.said[-1]
        await refused.wait()  # it tells its owner first


async def test_a_file_beside_a_policy_is_named_by_who_starts_the_agent(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text('file = "/nowhere"')

    async def script(server: Server) -> None:
        await server.welcome()
        assert await server.pull() == file.read_bytes()
        await server.gone()

    async with (
        serving(script) as url,
        agent("--policy", tmp_path / "policy.toml", "--file", file, "--server", url) as it,
    ):
        await it.say("[client] File sent successfully")


async def test_a_policy_that_is_not_understood_stops_the_agent(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    assert str(policy) in await refused("--policy", policy)
    policy.write_text("rots = []")
    assert "rots is not a setting of a policy" in await refused("--policy", policy)
    policy.write_text("transfers_at_once = 3")
    assert "Nothing may be pulled" in await refused("--policy", policy)


async def test_roots_are_named_in_the_policy_or_on_the_command_line(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text(f'file = "{file}"')
    sentence = await refused("--policy", tmp_path / "policy.toml", "--root", tmp_path)
    assert "--policy and --root do not go together" in sentence


async def test_a_root_of_a_policy_that_is_not_there_yet_is_only_warned_of(
    tmp_path: Path, nobody: str
) -> None:
    """One policy for many machines."""
    (tmp_path / "policy.toml").write_text('[[roots]]\npath = "/nowhere/at/all"\nallow = ["**"]')
    async with agent("--policy", tmp_path / "policy.toml", "--server", nobody) as it:
        await it.say("offline: ")
        assert it.said[0].startswith("warning: the root /nowhere/at/all is not there yet")


async def test_a_state_folder_that_others_can_read_stops_the_agent(
    file: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    sentence = await refused("--file", file, "--state", tmp_path)
    assert f"`chmod 700 {tmp_path}`" in sentence


async def test_a_root_must_be_a_directory(file: Path) -> None:
    assert await refused("--root", file) == f"error: --root {file} is not a directory."


async def test_a_file_that_is_not_there_yet_is_only_warned_of(tmp_path: Path, nobody: str) -> None:
    """Last night's export may be written tonight."""
    async with agent("--file", tmp_path / "later", "--server", nobody) as it:
        await it.say("offline: ")
        assert it.said[0].startswith("warning: ")


# The token file


async def test_the_token_is_the_first_line_of_the_token_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\nfor till 214\n")

    async def script(server: Server) -> None:
        assert server.socket.request is not None
        assert server.socket.request.headers["Authorization"] == f"Bearer {TOKEN}"
        await welcome(server)

    async with (
        serving(script) as url,
        agent(
            "--file", file, "--server", url, "--token-file", tmp_path / "token", token=None
        ) as it,
    ):
        await it.say("registered as client1")


@pytest.mark.parametrize("content", [None, b"", b"\n" + TOKEN.encode(), b"\xff\xfe\x00"])
async def test_a_token_file_that_is_of_no_use(
    file: Path, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    sentence = await refused("--file", file, "--token-file", tmp_path / "token")
    assert sentence.startswith("error: ")
    assert str(tmp_path / "token") in sentence


async def test_a_token_file_that_is_a_directory(file: Path, tmp_path: Path) -> None:
    assert "cannot be read" in await refused("--file", file, "--token-file", tmp_path)


# The token of the enrolment


@pytest.fixture
def enrolled(tmp_path: Path) -> Path:
    """The state folder of a machine that is a client of wss://files.example.com."""
    state = StateFolder(tmp_path / "state")
    state.create()
    Credentials("wss://files.example.com", "client1", "a-token-for-this-server-alone").keep(state)
    return state.path


async def test_the_token_of_one_server_goes_to_no_other(file: Path, enrolled: Path) -> None:
    """Not even a connection is made; and the operator learns what to do."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"ws://127.0.0.1:{listening.getsockname()[1]}"
        sentence = await refused("--file", file, "--state", enrolled, "--server", url, token=None)
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert sentence.startswith(f"error: --server {url}: this machine is enrolled at wss://files")
    for way in (f"write its new URL into {enrolled}/credentials.json", "--state", "--token-file"):
        assert way in sentence
    assert "alone" not in sentence


async def test_another_servers_token_may_be_given_by_hand(file: Path, enrolled: Path) -> None:
    async def script(server: Server) -> None:
        assert server.socket.request is not None
        assert server.socket.request.headers["Authorization"] == f"Bearer {TOKEN}"
        await welcome(server)

    async with (
        serving(script) as url,
        agent("--file", file, "--state", enrolled, "--server", url) as it,
    ):
        await it.say("registered as client1")


async def test_a_server_that_has_moved_is_followed_by_hand(file: Path, enrolled: Path) -> None:
    credentials = enrolled / "credentials.json"
    async with serving(welcome) as url:
        moved = credentials.read_text().replace("wss://files.example.com", url)
        credentials.write_text(moved)
        async with agent("--file", file, "--state", enrolled, token=None) as it:
            await it.say("registered as client1")


# Its life


@pytest.mark.parametrize("value", ["0", "many"])
async def test_no_variable_of_a_library_keeps_it_from_connecting(file: Path, value: str) -> None:
    """And what it would follow is not up to the environment either."""
    names = ("MAX_REDIRECTS", "MAX_FRAGMENTS", "MAX_LINE_LENGTH")
    variables = {f"WEBSOCKETS_{name}": value for name in names}
    async with (
        serving(welcome) as url,
        agent("--file", file, "--server", url, **variables) as it,
    ):
        await it.say("registered as client1")


async def test_it_says_what_the_readme_promises(file: Path) -> None:
    async def script(server: Server) -> None:
        await server.welcome()
        assert await server.pull() == file.read_bytes()
        await server.gone()

    async with serving(script) as url, agent("--file", file, "--server", url) as it:
        await it.say("[client] File sent successfully")
        it.process.send_signal(signal.SIGTERM)
        assert await it.exit() == 0
    manners, *said = [line for line in it.said if "Uploading" not in line or "100.0%" in line]
    assert manners.startswith("this agent runs with ")
    assert said == [
        f"connected to {url}",
        "registered as client1",
        "[client] Sending file: data.bin (300000 bytes)",
        f"[client] SHA256: {hashlib.sha256(file.read_bytes()).hexdigest()}",
        "[client] Uploading data.bin: 100.0%",
        "[client] File sent successfully",
        "stopped",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_while_it_connects_in_vain(
    file: Path, nobody: str, number: int
) -> None:
    async with agent("--file", file, "--server", nobody) as it:
        await it.say("offline: ")
        it.process.send_signal(number)
        assert await it.exit(STOP_SECONDS) == 0
        assert it.said[-1] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_while_it_is_connected(file: Path, number: int) -> None:
    """With a good-bye, so that the server knows at once."""

    async def script(server: Server) -> None:
        await server.welcome()
        assert await server.gone() == 1000

    async with serving(script) as url, agent("--file", file, "--server", url) as it:
        await it.say("registered as client1")
        it.process.send_signal(number)
        assert await it.exit(STOP_SECONDS) == 0
        assert it.said[-1] == "stopped"


async def test_a_signal_ends_it_in_the_middle_of_a_transfer(tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(256 * 1024**2)
    stalled = asyncio.Event()
    done = asyncio.Event()

    async def script(server: Server) -> None:
        await server.welcome()
        stage = asyncio.create_task(server.pull())
        await asyncio.sleep(0.2)
        stage.cancel()  # reading no more, so that the agent's buffers are full
        await asyncio.wait([stage])
        stalled.set()
        await done.wait()
        server.socket.transport.abort()

    async with serving(script) as url, agent("--file", big, "--server", url) as it:
        await stalled.wait()
        try:
            it.process.send_signal(signal.SIGTERM)
            assert await it.exit(STOP_SECONDS) == 0
        finally:
            done.set()


@contextlib.asynccontextmanager
async def mute() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A server that refuses the handshake and, asked why, says nothing; and when it was asked."""
    asked = asyncio.Event()
    done = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if b"upgrade" in request.lower():
            writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
        else:
            asked.set()
            await done.wait()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        try:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
        finally:
            done.set()


async def test_a_signal_ends_it_while_it_asks_why_it_was_refused(file: Path) -> None:
    async with mute() as (url, asked), agent("--file", file, "--server", url) as it:
        async with asyncio.timeout(SECONDS):
            await asked.wait()
        it.process.send_signal(signal.SIGTERM)
        assert await it.exit(STOP_SECONDS) == 0


async def test_a_final_refusal_has_an_exit_status_of_its_own(file: Path) -> None:
    """So that a service manager can be told not to start it again."""

    async def never(server: Server) -> None:
        raise AssertionError("no agent should come this far")

    async with (
        serving(never, refusing("wrong_id", "This token is of client2.")) as url,
        agent("--file", file, "--server", url) as it,
    ):
        assert await it.exit() == 3
    assert it.said[1:] == ["error: This token is of client2. (wrong_id)"]


async def test_a_revocation_while_connected_ends_it(file: Path) -> None:
    async def script(server: Server) -> None:
        await server.welcome()
        await server.say(Abort(None, "revoked", "This client was removed."))
        await server.gone()

    async with serving(script) as url, agent("--file", file, "--server", url) as it:
        assert await it.exit() == 3
    assert it.said[-1] == "error: This client was removed. (revoked)"


async def test_the_token_is_never_shown(file: Path, nobody: str) -> None:
    async with agent("--file", file, "--server", nobody) as it:
        await it.say("offline: ")
        it.process.send_signal(signal.SIGTERM)
        await it.exit()
        assert TOKEN not in "".join(it.said)
