"""What a `kill -9` costs: `python -m benchmarks.kills [MiB]`.

A real transfer over a counted link stands still after three fifths of the file; then the agent, and in
a second transfer the server, is killed and started again. Prints the bytes that were sent beyond the
file's size, headers and all, and how long it took to land.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.end_to_end.harness import AgentProgram, Server, make_file
from tests.link import Link

MIB = 1 << 20


def kill(what: str, server: Server, token: str, source: Path, folder: Path) -> str:
    """Kill the agent or the server in the middle of a transfer; what it cost."""
    size = source.stat().st_size
    with Link(server.port) as link:
        link.stall_after(size * 3 // 5)
        agent = AgentProgram("client1", token, link.port, folder / f"{what}-1.log", file=source)
        transfer = server.ask("client1")
        link.wait_stalled()
        (agent if what == "agent" else server.program).kill()
        link.flow()
        began = time.monotonic()
        if what == "agent":
            agent = AgentProgram("client1", token, link.port, folder / "agent-2.log", file=source)
        else:
            server.start()
        server.wait_landed(transfer, source, seconds=600)
        seconds = time.monotonic() - began
        agent.terminate()
        beyond = (link.sent - size) / MIB
    return f"{what} killed: {beyond:.2f} MiB beyond the size; landed {seconds:.1f} s after it"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mib", type=int, nargs="?", default=1024)
    size = parser.parse_args().mib * MIB
    with tempfile.TemporaryDirectory(prefix="silentmode-benchmark-") as name:
        folder = Path(name)
        server = Server(folder / "server")
        server.start()
        try:
            source = make_file(folder / "data.bin", size)
            token = server.manage("add_client", "client1", "--token")
            for what in ("agent", "server"):
                print(kill(what, server, token, source, folder))
        finally:
            server.program.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
