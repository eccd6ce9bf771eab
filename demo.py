"""`make demo`: a server, an agent and one request, for real, on this machine.

Both programs run in pseudo-terminals of their own, so that they draw their progress bars as they do
for a person; what they draw is shown here, one below the other.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import pty
import re
import secrets
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

HERE = Path(__file__).resolve().parent
DATA = HERE / "var" / "demo"
CLIENT = "client1"
AGENT = {"SILENTMODE_STATE_DIR": str(DATA / "agent")}
START_SECONDS = 60.0
TRANSFER_SECONDS = 600.0
MIB = 1024 * 1024


class DemoFailed(Exception):
    """Something is not as it should be."""


class Program:
    """A process in a pseudo-terminal: `lines` it has finished, and the `bar` it is drawing."""

    def __init__(self, name: str, command: list[str], more: dict[str, str]) -> None:
        self.name = name
        self.lines: list[str] = []
        self.bar = ""
        self._rest = ""
        self.terminal, inner = pty.openpty()
        size = struct.pack("HHHH", 24, shutil.get_terminal_size().columns, 0, 0)
        fcntl.ioctl(inner, termios.TIOCSWINSZ, size)
        self.process = subprocess.Popen(
            command,
            cwd=HERE,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)

    def read(self) -> list[str]:
        """What the program has drawn since the last call: the lines that it finished."""
        try:
            drawn = os.read(self.terminal, 65536).decode("utf-8", "replace")
        except OSError:  # Linux: the other end is closed
            drawn = ""
        if not drawn:
            raise DemoFailed(f"The {self.name} stopped by itself; its last words are above.")
        *finished, self._rest = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._rest + drawn).split(
            "\n"
        )
        lines = [last for line in finished if (last := _last_drawn(line))]
        self.bar = _last_drawn(self._rest)
        self.lines += lines
        return lines

    def said(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.terminal)


def _last_drawn(line: str) -> str:
    """What stays to be seen of a line that was drawn over with carriage returns."""
    drawn = [part.strip() for part in line.split("\r") if part.strip()]
    return drawn[-1] if drawn else ""


class Stage:
    """Shows the programs: their lines as they come, their bars at the bottom."""

    def __init__(self) -> None:
        self._programs: list[Program] = []
        self._selector = selectors.DefaultSelector()
        self._bars: list[tqdm[Any]] = []
        self._said_at: dict[str, float] = {}

    def start(self, name: str, command: list[str], more: dict[str, str]) -> Program:
        program = Program(name, command, more)
        self._programs.append(program)
        self._selector.register(program.terminal, selectors.EVENT_READ, program)
        if sys.stdout.isatty():
            bar = tqdm(bar_format="{desc}", position=len(self._bars), leave=False, file=sys.stdout)
            self._bars.append(bar)
        return program

    def watch(self, until: Callable[[], bool], seconds: float, what: str) -> None:
        """Show what happens until it has happened. Raises DemoFailed after so many seconds."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise DemoFailed(f"No {what} within {seconds:.0f} s.")
            for key, _ in self._selector.select(timeout=0.1):
                self._show(key.data)

    def _show(self, program: Program) -> None:
        lines = program.read()
        for line in lines:
            if program.name == "agent" or line.startswith("[server]"):
                tqdm.write(f"   {line}", file=sys.stdout)
        if self._bars:
            self._bars[self._programs.index(program)].set_description_str(program.bar)
        elif "%|" in program.bar and time.monotonic() > self._said_at.get(program.name, 0) + 0.1:
            self._said_at[program.name] = time.monotonic()
            tqdm.write(f"   {program.bar}", file=sys.stdout)

    def close(self) -> None:
        for bar in self._bars:
            bar.close()
        for program in reversed(self._programs):
            self._selector.unregister(program.terminal)
            program.stop()
        self._selector.close()


def environment(**more: str) -> dict[str, str]:
    """What the programs see: nothing of this shell's own Silentmode settings."""
    names = [name for name in os.environ if name.startswith("SILENTMODE_")]
    clean = {key: value for key, value in os.environ.items() if key not in names}
    ours = {"SILENTMODE_DATA_DIR": str(DATA), "PYTHONUNBUFFERED": "1"}
    return {**clean, **ours, "DATABASE_URL": "", "REDIS_URL": "", **more}


def manage(*arguments: str) -> str:
    """The last line that a management command printed."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=HERE, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise DemoFailed(f"manage.py {arguments[0]} failed:\n{done.stderr}")
    return done.stdout.strip().rpartition("\n")[2]


def call(method: str, url: str, token: str) -> dict[str, Any]:
    request = urllib.request.Request(
        url, method=method, headers={"Authorization": f"Token {token}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        result: dict[str, Any] = json.load(answer)
        return result


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_source(size_mb: int) -> Path:
    path = DATA / "on-the-client" / "data.bin"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for _ in range(size_mb):
            file.write(secrets.token_bytes(MIB))
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def say(text: str) -> None:
    tqdm.write(text, file=sys.stdout)


def play(stage: Stage, size_mb: int) -> None:
    """The whole piece. Raises DemoFailed where it does not go as promised."""
    shutil.rmtree(DATA, ignore_errors=True)
    say(f"1. A till in a store has a file of {size_mb} MiB (random bytes, made now).")
    source = make_source(size_mb)
    manage("migrate", "--verbosity", "0")
    code = manage("add_client", CLIENT)
    api_token = manage("add_api_token", "demo")
    port = free_port()
    say(f"2. The server starts on port {port}. One client is registered, {CLIENT}.")
    start_server(stage, port)
    say("3. The till enrols: it exchanges a one-use code for a token of its own.")
    enrol(port, code)
    say("   Its agent dials out, as it can from behind any NAT, and stays connected.")
    agent = start_agent(stage, source)
    api = f"http://127.0.0.1:{port}"
    say(f"4. An operator asks once: curl -X POST {api}/download/{CLIENT}")
    began = time.monotonic()
    transfer = pull(stage, api, api_token)
    seconds = time.monotonic() - began
    stage.watch(lambda: agent.said("File sent successfully"), START_SECONDS, "word of the agent")
    say(f"5. It has landed, {seconds:.1f} s after the request. Both files, hashed again from disk:")
    compare(source, DATA / "downloads" / transfer["file"], transfer["sha256"])


def start_server(stage: Stage, port: int) -> None:
    command = [sys.executable, "-m", "daphne", "--port", str(port)]
    command += ["--access-log", str(DATA / "access.log"), "silentmode.asgi:application"]
    server = stage.start("server", command, {})
    stage.watch(lambda: server.said("Listening on"), START_SECONDS, "server")


def enrol(port: int, code: str) -> None:
    """Make this machine the client, as on the till."""
    command = [sys.executable, "-m", "agent", "enrol", "--server", f"ws://127.0.0.1:{port}"]
    done = subprocess.run(
        command, cwd=HERE, env=environment(SILENTMODE_CODE=code, **AGENT),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise DemoFailed(f"The till could not enrol:\n{done.stderr}")


def start_agent(stage: Stage, source: Path) -> Program:
    command = [sys.executable, "-m", "agent", "--file", str(source)]
    agent = stage.start("agent", command, AGENT)
    stage.watch(lambda: agent.said("registered as"), START_SECONDS, "connection")
    return agent


def pull(stage: Stage, api: str, token: str) -> dict[str, Any]:
    """One request; the transfer once it has landed."""
    transfer = call("POST", f"{api}/download/{CLIENT}", token)

    def ended() -> bool:
        transfer.update(call("GET", f"{api}/api/v1/transfers/{transfer['id']}/", token))
        return transfer["status"] in ("completed", "failed", "cancelled", "expired")

    stage.watch(ended, TRANSFER_SECONDS, "file")
    if transfer["status"] != "completed":
        raise DemoFailed(f"The transfer is {transfer['status']}: {transfer['error']}")
    return transfer


def compare(source: Path, landed: Path, recorded: str) -> None:
    hashes = {path: sha256(path) for path in (source, landed)}
    for path, digest in hashes.items():
        say(f"   {digest}  {path.relative_to(HERE)}")
    if set(hashes.values()) != {recorded}:
        raise DemoFailed(f"They differ, or are not {recorded}, which the server has on record.")
    say("   They are equal. ✅")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=int, default=100)
    arguments = parser.parse_args()
    stage = Stage()
    try:
        play(stage, arguments.size_mb)
    except (DemoFailed, OSError) as failure:
        say(f"The demo failed: {failure}")
        return 1
    finally:
        stage.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
