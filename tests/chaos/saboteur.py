"""A disk that fails: `strace` tampers with one kind of system call on one file of a running server."""

import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO, Self

from tests.end_to_end.harness import PATIENCE, eventually

INSTALLED = shutil.which("strace") is not None


class Saboteur:
    """Attached to a process from `attach` to `leave`; `acted` waits for the first call it spoiled."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._reading = threading.Lock()

    @classmethod
    def attach(cls, pid: int, tampering: str, path: Path) -> Self:
        """Do to calls on `path` what strace's `--inject` says, as in `fsync:error=EIO:when=1`."""
        command = ["strace", "-f", "-o", "/dev/stdout", "-P", str(path), "-p", str(pid)]
        calls = tampering.partition(":")[0]
        with tempfile.NamedTemporaryFile("w+") as said:
            process = subprocess.Popen(
                [*command, "-e", f"trace={calls}", "-e", f"inject={tampering}"],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
            eventually("an attached strace", lambda: "attached" in Path(said.name).read_text())
        return cls(process)

    def acted(self) -> bool:
        """Wait for the first call that failed; false: called off, or the process ended before."""
        with self._reading:
            return not self._lines.closed and any("(INJECTED)" in line for line in self._lines)

    @property
    def _lines(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def leave(self) -> None:
        """Let the process go on as if nothing had been; calling twice is allowed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)
        with self._reading:  # it has come to the end by now
            self._lines.close()
