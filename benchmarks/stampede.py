"""A fleet that loses its server: `python -m benchmarks.stampede [agents] [--refusals SECONDS]`.

Agents, each with a real connection, lose their server by SIGTERM, by SIGKILL, and then find a server in
its place that refuses them in every way that may pass. Prints how long after the server's return all are
back, and how many came in the busiest second.
"""

import argparse
import collections
import http.server
import itertools
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.end_to_end.harness import Program, Server, eventually

REGISTERED = "registered as till"

MANY = """
from transfers.auth import digest, new_token
from transfers.models import Client
for number in range({count}):
    token = new_token()
    Client.objects.create(id=f"till{{number}}", token_sha256=digest(token))
    print(f"till{{number}}", token)
"""

REFUSALS: tuple[tuple[int, dict[str, str], bytes], ...] = (
    (503, {"Retry-After": "3"}, b""),
    (403, {}, b""),
    (401, {}, json.dumps({"code": "unauthorized", "detail": "Being restored."}).encode()),
    (502, {}, b"<html>Bad gateway"),
    (500, {}, b""),
    (429, {"Retry-After": "10"}, b""),
    (302, {"Location": "http://127.0.0.1:9/"}, b""),
)


class Refusing(http.server.BaseHTTPRequestHandler):
    """Refuses in turn in each way that may pass."""

    refusals = itertools.cycle(REFUSALS)

    def do_GET(self) -> None:
        status, headers, body = next(self.refusals)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class Fleet:
    """The agents, and the moments at which they were registered."""

    def __init__(self, server: Server, count: int, folder: Path) -> None:
        self.count = count
        tokens = folder / "tokens"
        tokens.write_text(server.manage("shell", "-v", "0", "-c", MANY.format(count=count)))
        command = ["-m", "tests.end_to_end.fleet", f"ws://127.0.0.1:{server.port}"]
        with tokens.open() as lines:
            self.program = Program(command, folder / "fleet.log", {}, stdin=lines)
        self.times = 0

    def all_back(self, seconds: float = 120.0) -> str:
        """Wait until all are registered once more; what there is to say of it."""
        self.times += 1
        began = time.monotonic()
        came: collections.Counter[int] = collections.Counter()
        seen = self.count * (self.times - 1)

        def registered() -> bool:
            nonlocal seen
            assert self.program.process.poll() is None, self.program.output[-3000:]
            now = self.program.output.count(REGISTERED)
            came[int(time.monotonic() - began)] += now - seen
            seen = now
            return seen >= self.count * self.times

        eventually(f"{self.count} agents that are back", registered, seconds)
        took = time.monotonic() - began
        return f"all {self.count} after {took:.1f} s, {max(came.values())} in the busiest second"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agents", type=int, nargs="?", default=300)
    parser.add_argument("--refusals", type=float, default=300.0, metavar="SECONDS")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="silentmode-benchmark-") as name:
        folder = Path(name)
        server = Server(folder / "server")
        server.start()
        fleet = Fleet(server, arguments.agents, folder)
        try:
            print(f"first connection: {fleet.all_back()}")
            server.program.terminate()
            server.start()
            print(f"restart after SIGTERM: {fleet.all_back()}", flush=True)
            server.program.kill()
            server.start()
            print(f"restart after SIGKILL: {fleet.all_back()}", flush=True)
            server.program.terminate()
            stand_in = http.server.ThreadingHTTPServer(("127.0.0.1", server.port), Refusing)
            threading.Thread(target=stand_in.serve_forever, daemon=True).start()
            time.sleep(arguments.refusals)
            stand_in.shutdown()
            stand_in.server_close()
            server.start()
            print(f"after {arguments.refusals:.0f} s of refusals: {fleet.all_back()}")
        finally:
            fleet.program.terminate()
            server.program.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
