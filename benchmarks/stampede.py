"""A fleet that loses its server: `python -m benchmarks.stampede [agents] [--refusals SECONDS]`.

Agents, each with a real connection, lose their server by SIGTERM, by SIGKILL, and then find a server in
its place that refuses them in every way that may pass. Prints how long after the server's return all are
back, and how many came in the busiest second.
"""

import argparse
import http.server
import itertools
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.end_to_end.harness import Server

from .fleet import Fleet

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agents", type=int, nargs="?", default=300)
    parser.add_argument("--refusals", type=float, default=300.0, metavar="SECONDS")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="silentmode-benchmark-") as name:
        folder = Path(name)
        server = Server(folder / "server", SILENTMODE_CONNECTIONS_PER_ADDRESS="0")
        server.start()
        fleet = Fleet(server, arguments.agents, folder)
        try:
            print(f"first connection: {fleet.dial()}")
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
