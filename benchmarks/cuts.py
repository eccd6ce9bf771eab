"""What a bad uplink costs: `python -m benchmarks.cuts [MiB] [--every MiB]`.

One file over a link that is reset again and again; prints how often, the bytes on the link against the
size of the file, headers and all, and how long it took.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.end_to_end.harness import AgentProgram, Server, make_file
from tests.link import Link

MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mib", type=int, nargs="?", default=1024)
    parser.add_argument("--every", type=int, default=10, metavar="MIB")
    arguments = parser.parse_args()
    size = arguments.mib * MIB
    with tempfile.TemporaryDirectory(prefix="silentmode-benchmark-") as name:
        folder = Path(name)
        source = make_file(folder / "data.bin", size)
        server = Server(folder / "server")
        server.start()
        token = server.manage("add_client", "client1", "--token")
        try:
            with Link(server.port) as link:
                link.every(arguments.every * MIB, link.cut)
                agent = AgentProgram("client1", token, link.port, folder / "log", file=source)
                began = time.monotonic()
                server.wait_landed(server.ask("client1"), source, seconds=3600)
                seconds = time.monotonic() - began
                agent.terminate()
                print(
                    f"{arguments.mib} MiB, {link.connections - 1} cuts: {link.sent / MIB:.1f} MiB on the "
                    f"link, {link.sent / size:.3f} x the size, {seconds:.0f} s; landed with the right hash"
                )
        finally:
            server.program.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
