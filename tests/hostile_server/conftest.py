"""Each attack is tried on both ways of opening a file."""

import os
import sys
from pathlib import Path

import pytest

from .scene import Scene

WRAPPERS = {
    "openat2": (),
    "old-kernel": (sys.executable, "-m", "tests.hostile_server.old_kernel", "ENOSYS"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "hostile_server" in item.path.parts:
            item.add_marker(pytest.mark.end_to_end)
            item.add_marker(
                pytest.mark.skipif(sys.platform != "linux", reason="mounts and swaps of Linux")
            )


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(params=WRAPPERS)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return Scene(tmp_path, WRAPPERS[request.param])


@pytest.fixture
def any_kernel(tmp_path: Path) -> Scene:
    """For attacks that open nothing."""
    return Scene(tmp_path, ())


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can do this")
