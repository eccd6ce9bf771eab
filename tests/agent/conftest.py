"""What all tests of the agent share."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's proxy is not for a server on this machine."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a test leaves behind is complained about in this test, not in the middle of another."""
    yield
    gc.collect()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "data.bin"
    file.write_bytes(os.urandom(300_000))
    return file
