"""What Linux has of a file in its page cache."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

needs_fincore = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("fincore") is None,
    reason="Linux, and fincore (util-linux) to look at its page cache",
)


def in_memory(path: Path) -> int:
    """Bytes of a file that are in the page cache."""
    command = ["fincore", "--noheadings", "--bytes", "--output", "RES", str(path)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def forget(path: Path) -> None:
    """Have nothing of it in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
