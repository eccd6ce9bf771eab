"""Memory while the server's disk stalls: `python -m benchmarks.stalled_disk [agents] [seconds]`.

Real agents send at once while each write of the server's transfers is held up (with strace, which must be
installed). Prints by how much the server's resident memory grew over what it was with all agents idle,
against what it may: a window for each agent, and 64 MiB.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.end_to_end.faults import strace
from tests.end_to_end.harness import AgentProgram, Server, make_file

from .processes import Peak

MIB = 1 << 20
WINDOW = 8 * MIB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agents", type=int, nargs="?", default=20)
    parser.add_argument("seconds", type=int, nargs="?", default=30)
    arguments = parser.parse_args()
    names = [f"till{number}" for number in range(arguments.agents)]
    with tempfile.TemporaryDirectory(prefix="silentmode-benchmark-") as name:
        folder = Path(name)
        source = make_file(folder / "data.bin", 32 * MIB)
        server = Server(folder / "server")
        server.start(strace(f"pwritev,pwritev2:delay_enter={arguments.seconds}s:when=3"))
        tokens = {name: server.manage("add_client", name, "--token") for name in names}
        agents = [
            AgentProgram(name, token, server.port, folder / f"{name}.log", file=source)
            for name, token in tokens.items()
        ]
        try:
            for agent in agents:
                agent.wait_for("registered")
            peak = Peak(server.program)
            asked = [server.ask(name) for name in names]
            for transfer in asked:
                server.wait_landed(transfer, source, seconds=600)
            print(f"server: {peak.finish()}")
        finally:
            for agent in agents:
                agent.terminate()
            server.program.terminate()
        allowed = len(names) * WINDOW / MIB + 64
        print(
            f"{len(names)} agents, {arguments.seconds} s: +{peak.grown:.0f} MiB of {allowed:.0f} allowed"
        )
    return int(peak.grown > allowed)


if __name__ == "__main__":
    sys.exit(main())
