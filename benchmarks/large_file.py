"""How much memory a large file takes: `python -m benchmarks.large_file [GiB]`.

A real server and a real agent, one file; prints the rate, and by how much the resident memory of
both grew over what it was before the transfer (its highest value, sampled every 50 ms).
"""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.end_to_end.harness import AgentProgram, Program, Server, make_file

MIB = 1 << 20


class Peak(threading.Thread):
    """The highest resident memory of a program until it is stopped, and the one at the start."""

    def __init__(self, program: Program) -> None:
        super().__init__(daemon=True)
        self.program = program
        self.first = self.highest = program.resident
        self._stop_asked = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stop_asked.wait(0.05):
            self.highest = max(self.highest, self.program.resident)

    def finish(self) -> str:
        self._stop_asked.set()
        self.join()
        grown = (self.highest - self.first) / MIB
        return (
            f"{self.first / MIB:.1f} MiB before, {self.highest / MIB:.1f} at most: +{grown:.1f} MiB"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gib", type=float, nargs="?", default=4.0)
    size = int(parser.parse_args().gib * 1024) * MIB
    with tempfile.TemporaryDirectory(prefix="silentmode-benchmark-") as folder:
        server = Server(Path(folder) / "server")
        server.start()
        source = make_file(Path(folder) / "large.bin", size)
        token = server.manage("add_client", "client1")
        agent = AgentProgram("client1", token, server.port, Path(folder) / "agent.log", file=source)
        try:
            agent.wait_for("registered")
            peaks = {"server": Peak(server.program), "agent": Peak(agent)}
            began = time.monotonic()
            transfer = server.ask("client1")
            server.wait_status(transfer, "completed", seconds=3600)
            seconds = time.monotonic() - began
            lines = [f"{name}: {peak.finish()}" for name, peak in peaks.items()]
            server.wait_landed(transfer, source)
        finally:
            agent.terminate()
            server.program.terminate()
    print(f"{size / MIB:.0f} MiB in {seconds:.1f} s: {size / MIB / seconds:.0f} MiB/s, verified")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
