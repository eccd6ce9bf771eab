"""Faults of real disks: system calls that fail, with strace, and a file system that is soon full."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def strace(*faults: str, path: Path | None = None) -> list[str]:
    """The command that runs a program with faults like `fsync:error=EIO:when=1` (man strace, inject).

    `when` counts in each thread of the program; `path`: only calls on this file.
    """
    calls = ",".join(fault.partition(":")[0] for fault in faults)
    # -D: the program stays our child, and the tracer is its own.
    options = ["-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={calls}"]
    options += [word for fault in faults for word in ("-e", f"inject={fault}")]
    return ["strace", *options, *(["-P", str(path)] if path else [])]


@contextlib.contextmanager
def small_disk(disk: Path, mib: int) -> Iterator[Path]:
    """A file system of so many MiB, mounted there; skips the test where that is not allowed."""
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
