"""A machine with things to steal, the real agent on it, and the server that wants them."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from agent.wire.codec import decode, encode
from agent.wire.errors import ERRORS
from agent.wire.messages import (
    PROTOCOL,
    Abort,
    Chunk,
    End,
    Heartbeat,
    Hello,
    Landed,
    Message,
    Offer,
    Request,
    Start,
    Welcome,
)

from .outcomes import OUTCOMES

BASE = Path(__file__).resolve().parents[2]
TOKEN = "CANARY-of-the-token-0123456789abcdef"
CANARY = b"CANARY"
"""In everything that must not leave, and in nothing else."""

SECRET = b"CANARY-3f9a " * 64
PUBLIC = b"public bytes " * 64
SECONDS = 60.0
FORBIDDEN = ERRORS["forbidden"].sentence


@dataclass(frozen=True)
class Stolen:
    """What an attack brought: the bytes of a file, or the code and the sentence of a refusal."""

    outcome: str
    data: bytes = b""
    detail: str = ""


@dataclass
class Attacker:
    """The server's end of one conversation. It keeps no rule that it does not want to keep."""

    socket: ServerConnection
    heard: list[bytes] = field(default_factory=list)
    answers: dict[UUID, "asyncio.Queue[Message]"] = field(default_factory=dict)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    last_words: Message | None = None

    async def greet(self) -> None:
        assert isinstance(decode(await self.socket.recv()), Hello)
        await self.say(Welcome("client1", 30, 512 * 1024, "2026-11-23T06:32:00Z"))

    async def say(self, message: Message | str | bytes) -> None:
        await self.socket.send(message if isinstance(message, str | bytes) else encode(message))

    async def listen(self) -> None:
        """Take in all that comes, and look into every byte of it."""
        with contextlib.suppress(ConnectionClosed):
            async for data in self.socket:
                raw = data.encode() if isinstance(data, str) else data
                self.heard.append(raw)
                self._pass_on(decode(data))
        self.closed.set()
        for queue in self.answers.values():
            queue.put_nowait(Abort(None, "cancelled", "the agent has closed the connection"))

    def _pass_on(self, message: Message) -> None:
        transfer = getattr(message, "transfer", None)
        if isinstance(message, Heartbeat):
            return
        if transfer is None:
            self.last_words = message
        else:
            self.answers.setdefault(transfer, asyncio.Queue()).put_nowait(message)

    async def answer(self, transfer: UUID) -> Message:
        async with asyncio.timeout(SECONDS):
            return await self.answers.setdefault(transfer, asyncio.Queue()).get()

    async def ask(self, path: str | None, transfer: UUID | None = None) -> tuple[UUID, Message]:
        """A request, and what the agent says to it."""
        transfer = transfer or uuid4()
        await self.say(Request(transfer, path))
        return transfer, await self.answer(transfer)

    async def steal(self, path: str | None, attack: str = "") -> Stolen:
        """Ask for a file, take all that is given, and note how it went under this name."""
        stolen = await self._steal(path)
        if attack:
            OUTCOMES[attack, stolen.outcome] += 1
        return stolen

    async def _steal(self, path: str | None) -> Stolen:
        transfer, answer = await self.ask(path)
        data = b""
        if isinstance(answer, Offer):
            await self.say(Start(transfer, ((0, answer.size),), answer.size))
            while isinstance(answer := await self.answer(transfer), Chunk):
                data += bytes(answer.payload)
        if isinstance(answer, End):
            await self.say(Landed(transfer, answer.sha256))
            return Stolen("sent", data)
        assert isinstance(answer, Abort), answer
        self.answers.pop(transfer, None)
        return Stolen(answer.code, data, answer.detail)

    def check_nothing_left(self) -> None:
        """No canary in any byte that came, also none that was cut in two."""
        assert CANARY not in b"".join(self.heard)

    async def gone(self) -> int:
        """The code with which the agent closes."""
        async with asyncio.timeout(SECONDS):
            await self.closed.wait()
        return self.socket.close_code or 1006


@dataclass
class Scene:
    """The folders: one that may be read, one that may not, and the agent's own."""

    folder: Path
    wrapper: Sequence[str]
    policy: str = 'allow = ["**"]'
    head: str = ""

    def __post_init__(self) -> None:
        for each in (self.inside, self.outside):
            each.mkdir()
        self.write(self.inside / "data.bin", PUBLIC)
        self.write(self.outside / "secret", SECRET)
        self.write(self.outside / "data.bin", SECRET)
        self.write(self.token, f"{TOKEN}\n".encode())

    @staticmethod
    def write(path: Path, data: bytes) -> Path:
        """A file that was written long ago, so that the agent need not wait for its mtime."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1e9 + 0.5, 1e9 + 0.5))
        return path

    @property
    def inside(self) -> Path:
        return self.folder / "inside"

    @property
    def outside(self) -> Path:
        return self.folder / "outside"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def token(self) -> Path:
        return self.folder / "token"

    @property
    def policy_file(self) -> Path:
        return self.folder / "policy.toml"

    @property
    def journal(self) -> list[dict[str, object]]:
        """All lines, those of each kind from the oldest: what was sent, then what was refused."""
        files = sorted(self.state.glob("re*.jsonl*"), key=lambda path: path.name, reverse=True)
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    async def journal_has(self, event: str, times: int = 1) -> None:
        """Wait for a line: the last of a transfer is written after the agent has said its last word."""
        async with asyncio.timeout(SECONDS):
            while sum(line.get("event") == event for line in self.journal) < times:
                await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def attacked(self) -> AsyncIterator[Attacker]:
        """The agent runs and has connected. However it goes, no canary has left in the end."""
        self.policy_file.write_text(
            f'# CANARY\n{self.head}\n[[roots]]\npath = "{self.inside}"\n{self.policy}\n'
        )
        met: asyncio.Queue[Attacker] = asyncio.Queue()

        async def play(socket: ServerConnection) -> None:
            attacker = Attacker(socket)
            await attacker.greet()
            met.put_nowait(attacker)
            await attacker.listen()

        async with (
            serve(
                play, "127.0.0.1", 0, subprotocols=[PROTOCOL],  # type: ignore[list-item]
                compression=None, close_timeout=1, max_size=2**24,
            ) as server,
            self._agent(next(iter(server.sockets)).getsockname()[1]) as process,
        ):  # fmt: skip
            async with asyncio.timeout(SECONDS):
                attacker = await met.get()
            self.pid = process.pid
            try:
                yield attacker
                assert process.returncode is None, "the agent has died"
            finally:
                attacker.check_nothing_left()

    @contextlib.asynccontextmanager
    async def _agent(self, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
        command = [
            *self.wrapper, sys.executable, "-m", "agent", "--id", "client1",
            "--server", f"ws://127.0.0.1:{port}", "--policy", str(self.policy_file),
            "--token-file", str(self.token), "--state", str(self.state),
        ]  # fmt: skip
        with (self.folder / "agent.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=BASE, start_new_session=True, stdin=DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "NO_PROXY": "*", "NOT_FOR_YOU": "CANARY-in-the-environment"},
            )  # fmt: skip
        try:
            yield process
        except BaseException:
            print((self.folder / "agent.log").read_text(errors="replace")[-4000:])
            raise
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)  # with whatever runs the agent, as strace
            await process.wait()

    @contextlib.asynccontextmanager
    async def racing(self, one: Path, two: Path) -> AsyncIterator[Callable[[], int]]:
        """Another process swaps two names all the time; how often it has."""
        count = self.folder / "swaps"
        count.write_text("0")
        racer = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.hostile_server.racer",
            str(one),
            str(two),
            str(count),
            cwd=BASE,
        )
        try:
            async with asyncio.timeout(SECONDS):
                while not int(count.read_text()):
                    await asyncio.sleep(0.01)
            yield lambda: int(count.read_text())
            assert racer.returncode is None, "the racer has stopped"
        finally:
            if racer.returncode is None:
                racer.kill()
            await racer.wait()


async def steal_many(
    attacker: Attacker, paths: Iterable[str], attack: str, at_once: int = 8
) -> Counter[str]:
    """Many requests, several at a time; how often which outcome came. What came was public."""
    asyncio.get_running_loop().set_debug(False)  # which takes longer than all the rest
    waiting = iter(paths)
    outcomes: Counter[str] = Counter()

    async def one_after_the_other() -> None:
        for path in waiting:
            stolen = await attacker.steal(path, attack)
            assert PUBLIC.startswith(stolen.data)
            outcomes[stolen.outcome] += 1

    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return outcomes
