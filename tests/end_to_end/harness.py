"""The real server under Daphne and real agents, as processes, for tests and benchmarks."""

import atexit
import contextlib
import copy
import functools
import hashlib
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
"""Seconds that anything may take on a loaded machine before a test gives up."""

FINAL = ("completed", "failed", "cancelled", "expired")

R = TypeVar("R")


def eventually(what: str, probe: Callable[[], R | None], seconds: float = PATIENCE) -> R:
    """The first true answer of `probe`. Raises AssertionError when there is none in time."""
    end = time.monotonic() + seconds
    while not (answer := probe()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return answer


def free_port() -> int:
    """A port for a server that may be stopped and started again.

    None of those that the kernel gives to connections: one of another test could sit on it meanwhile.
    """
    choose = random.SystemRandom()  # pytest-randomly sets `random` alike in all processes of a run
    while True:
        port = choose.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_file(path: Path, size: int) -> Path:
    """A file of `size` random bytes."""
    with path.open("wb") as file:
        while size > 0:
            file.write(secrets.token_bytes(min(size, 1 << 20)))
            size -= 1 << 20
    return path


class Program:
    """A process whose output goes to a file that the test reads."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: dict[str, str],
        wrapper: Sequence[str] = (),
        stdin: IO[str] | int = subprocess.DEVNULL,
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, *command],
                cwd=PROJECT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                stdin=stdin,
                stdout=output,
                stderr=output,
            )

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def around(self, text: str) -> str:
        """What the program said before and after it said this for the first time."""
        before, found, after = self.output.partition(text)
        return before[-2000:] + found + after[:4000]

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until the program has said this."""

        def said() -> bool:
            assert self.process.poll() is None or self.output.count(text) >= times, (
                f"ended with {self.process.returncode} before it said {text!r}:\n{self.output}"
            )
            return self.output.count(text) >= times

        try:
            eventually(f"{text!r} in {self.log.name}", said)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.output[-3000:]}") from None

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    @property
    def resident(self) -> int:
        """Resident memory, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024


@functools.cache
def _template() -> tuple[Path, str]:
    """A data directory with a migrated database and the operator's API token, to be copied."""
    directory = Path(tempfile.mkdtemp(prefix="silentmode-template-"))
    atexit.register(shutil.rmtree, directory)
    environment = {**os.environ, "SILENTMODE_DATA_DIR": str(directory)}

    def manage(*arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=PROJECT, env=environment, check=True, capture_output=True
        )
        return done.stdout.decode().strip()

    manage("migrate", "--verbosity", "0")
    return directory, manage("add_api_token", "operator")


class Server:
    """A server with its data directory; it can be stopped and started again on the same port."""

    application = "silentmode.asgi:application"

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.environment = {"SILENTMODE_DATA_DIR": str(directory / "data"), **environment}
        directory.mkdir(parents=True, exist_ok=True)
        if "DATABASE_URL" in environment:
            self.manage("migrate", "--verbosity", "0")
            self.token = self.manage("add_api_token", "operator")
        else:
            template, self.token = _template()
            shutil.copytree(template, directory / "data")
        self._program: Program | None = None
        self.context: ssl.SSLContext | None = None
        """Whom `call` trusts, where the server speaks TLS."""

    def beside(self) -> "Server":
        """Another process on the same data, running."""
        other = copy.copy(self)
        other.port = free_port()
        other.start()
        return other

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def listening(self) -> list[str]:
        """How daphne is told where to listen."""
        return ["--port", str(self.port)]

    @property
    def program(self) -> Program:
        assert self._program is not None
        return self._program

    @property
    def downloads(self) -> list[Path]:
        return sorted((self.directory / "data" / "downloads").iterdir())

    @property
    def partials(self) -> list[Path]:
        return sorted((self.directory / "data" / "partial").iterdir())

    def manage(self, *arguments: str, **environment: str) -> str:
        """What a management command printed, stripped. Raises CalledProcessError."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT,
            env={**os.environ, **self.environment, **environment},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def start(self, wrapper: Sequence[str] = ()) -> None:
        """Start it and wait until it answers; `wrapper` is a command that runs it."""
        command = ["-m", "daphne", *self.listening, self.application]
        self._program = Program(
            command, self.directory / f"server-{self.port}.log", dict(self.environment), wrapper
        )

        def healthy() -> bool:
            assert self.program.process.poll() is None, self.program.output
            try:
                return self.call("GET", "/healthz")[0] == 200
            except OSError:
                return False

        eventually("a healthy server", healthy)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """HTTP status and JSON of a call; `body` may be bytes, or what is sent as JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Authorization": f"Token {self.token if token is None else token}"}
        if data is not None:
            sent["Content-Type"] = "application/json"
        request = urllib.request.Request(
            self.url + path, data, {**sent, **(headers or {})}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=self.context) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def ask(self, client: str, path: str | None = None, **more: Any) -> str:
        """Ask for a file; the transfer's id."""
        status, transfer = self.call("POST", f"/download/{client}", {"path": path, **more})
        assert status == 202, transfer
        return str(transfer["id"])

    def transfer(self, pk: str) -> dict[str, Any]:
        status, transfer = self.call("GET", f"/api/v1/transfers/{pk}/")
        assert status == 200
        result: dict[str, Any] = transfer
        return result

    def wait_status(self, pk: str, *wanted: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The transfer, once it has one of these statuses."""
        seen: dict[str, Any] = {}

        def reached() -> bool:
            seen.update(self.transfer(pk))
            ended = seen["status"] in FINAL and seen["status"] not in wanted
            assert not ended, f"{seen}\n{self.program.output[-3000:]}"
            return seen["status"] in wanted

        try:
            eventually(f"a transfer that is {wanted}", reached, seconds)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{seen}\n{self.program.output[-3000:]}") from None
        return seen

    def wait_landed(self, pk: str, source: Path, seconds: float = PATIENCE) -> Path:
        """Where the transfer has landed, verified against its source from outside."""
        transfer = self.wait_status(pk, "completed", seconds=seconds)
        landed = self.directory / "data" / "downloads" / str(transfer["file"])
        assert transfer["sha256"] == transfer["source_sha256"] == sha256(source) == sha256(landed)
        assert transfer["size"] == transfer["received"] == source.stat().st_size
        return landed


class AgentProgram(Program):
    """A real agent."""

    def __init__(
        self,
        client: str,
        token: str,
        port: int,
        log: Path,
        *,
        file: Path | None = None,
        roots: Sequence[Path] = (),
        policy: Path | None = None,
        wrapper: Sequence[str] = (),
        server: str = "ws://127.0.0.1",
        options: Sequence[str] = (),
        module: str = "agent",
        **environment: str,
    ) -> None:
        command = ["-m", module, "--id", client, "--server", f"{server}:{port}", *options]
        if file is not None:
            command += ["--file", str(file)]
        for root in roots:
            command += ["--root", str(root)]
        if policy is not None:
            command += ["--policy", str(policy)]
        self.state = log.with_name(f"{log.name}.state")
        """Where it keeps its journal."""
        own = {"SILENTMODE_TOKEN": token, "SILENTMODE_STATE_DIR": str(self.state)}
        super().__init__(command, log, {**own, **environment}, wrapper)
