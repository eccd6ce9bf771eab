"""Faults in the system calls of a real program, with strace."""

from pathlib import Path


def strace(*faults: str, path: Path | None = None) -> list[str]:
    """The command that runs a program with faults like `fsync:error=EIO:when=1` (man strace, inject).

    `when` counts in each thread of the program; `path`: only calls on this file.
    """
    calls = ",".join(fault.partition(":")[0] for fault in faults)
    # -D: the program stays our child, and the tracer is its own.
    options = ["-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={calls}"]
    options += [word for fault in faults for word in ("-e", f"inject={fault}")]
    return ["strace", *options, *(["-P", str(path)] if path else [])]
