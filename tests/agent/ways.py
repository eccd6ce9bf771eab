"""The ways in which a file can be opened, each forced in turn where the tests run."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from agent.gate import opening
from agent.gate.kernel import NoOpenat2
from agent.gate.kernel import openat2 as openat2_call


def openat2(patch: pytest.MonkeyPatch) -> None:
    """As it is here; skipped where the kernel has no openat2."""
    top = os.open("/", os.O_PATH)
    try:
        os.close(openat2_call(top, "tmp", os.O_PATH))
    except NoOpenat2:
        pytest.skip("no openat2 here")
    finally:
        os.close(top)


def step_by_step(patch: pytest.MonkeyPatch) -> None:
    """Linux before 5.6, or behind a filter of system calls."""

    def missing(*arguments: object) -> int:
        raise NoOpenat2

    patch.setattr(opening, "openat2", missing)


def without_proc(patch: pytest.MonkeyPatch) -> None:
    """A container without /proc, and without openat2."""
    step_by_step(patch)
    really_open = os.open

    def opened(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path).startswith("/proc/self/fd/"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return really_open(path, *arguments, **more)

    patch.setattr(os, "open", opened)


def without_o_path(patch: pytest.MonkeyPatch) -> None:
    """macOS."""
    patch.setattr(opening, "O_PATH", 0)


WAYS: list[Callable[[pytest.MonkeyPatch], None]] = [
    openat2,
    step_by_step,
    without_proc,
    without_o_path,
]
