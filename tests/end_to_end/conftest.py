"""A server for the tests that need no other, and agents that are gone when a test ends."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.end_to_end import faults
from tests.end_to_end.browser import Chromium, chromium_in
from tests.end_to_end.harness import AgentProgram, Program, Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "end_to_end" in item.path.parts:
            item.add_marker(pytest.mark.end_to_end)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One running server for all tests that leave it running; each error is an end at once."""
    server = Server(
        tmp_path_factory.mktemp("server"),
        SILENTMODE_MAX_FILE_SIZE=str(1 << 30),
        SILENTMODE_RETRIES="0",
    )
    server.start()
    yield server
    assert server.program.terminate() == 0
    assert "Traceback" not in server.program.output, server.program.around("Traceback")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, to stop and to start."""
    own = Server(tmp_path / "server")
    own.start()
    yield own
    if own.program.process.poll() is None:
        own.program.terminate()


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    """A browser, where it is installed."""
    with chromium_in(tmp_path) as browser:
        yield browser


@pytest.fixture
def strace() -> Callable[..., list[str]]:
    """`faults.strace`, where it is installed."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed; `make system-deps` does it")
    return faults.strace


class StartAgent(Protocol):
    def __call__(self, client: str, token: str, port: int, **options: Any) -> AgentProgram: ...


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """Starts agents, and stops them after the test."""
    started: list[Program] = []

    def start(client: str, token: str, port: int, **options: Any) -> AgentProgram:
        log = tmp_path / f"agent-{client}-{len(started)}.log"
        agent = AgentProgram(client, token, port, log, **options)
        started.append(agent)
        return agent

    yield start
    for program in started:
        if program.process.poll() is None:
            program.terminate()
