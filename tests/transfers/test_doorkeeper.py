"""Who may come in; what a whole server does about it is in `tests/hostile_agent`."""

import contextlib
import resource
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from daphne.server import Server as DaphneServer
from pytest_django import Settings
from twisted.internet.task import Clock

from tests.end_to_end.harness import Server, eventually
from transfers import doorkeeper
from transfers.doorkeeper import CHECK_SECONDS, Visitors
from transfers.peer import neighbourhood


class Transport:
    """As much of a connection as is counted."""

    def __init__(self, host: str | None) -> None:
        self._peer = SimpleNamespace() if host is None else SimpleNamespace(host=host)

    def getPeer(self) -> Any:
        return self._peer


@pytest.fixture
def two_each(settings: Settings) -> Settings:
    settings.CONNECTIONS_PER_ADDRESS = 2
    return settings


@pytest.mark.parametrize("name", ["application_checker", "timeout_checker"])
def test_all_connections_are_gone_through_now_and_then(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Daphne arranges for the next time itself, within a second or two."""
    clock, looks = Clock(), []

    def look(server: DaphneServer) -> None:
        looks.append(clock.seconds())
        clock.callLater(1, getattr(server, name))

    look.__name__ = name
    monkeypatch.setattr(DaphneServer, name, look)
    monkeypatch.setattr(doorkeeper, "reactor", clock)
    getattr(doorkeeper.Server(None, endpoints=["tcp:0"]), name)()
    clock.pump([0.5] * int(4 * CHECK_SECONDS))
    assert looks == [0, CHECK_SECONDS, 2 * CHECK_SECONDS]


def test_the_system_keeps_those_who_come_while_nobody_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        doorkeeper.Server(None, endpoints=["tcp:0"]).listen_success(
            SimpleNamespace(socket=listener)
        )
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(socket.create_connection(listener.getsockname(), 20))


def enter(visitors: Visitors, *hosts: str | None) -> list[bool]:
    return [visitors.enter(Transport(host)) for host in hosts]


def test_an_address_has_so_many_connections(two_each: Settings) -> None:
    visitors = Visitors()
    assert enter(visitors, "192.0.2.1", "192.0.2.1", "192.0.2.1") == [True, True, False]
    assert enter(visitors, "192.0.2.2") == [True]


def test_who_leaves_makes_room_and_once_only(two_each: Settings) -> None:
    visitors = Visitors()
    first = Transport("192.0.2.1")
    assert visitors.enter(first)
    assert enter(visitors, "192.0.2.1", "192.0.2.1") == [True, False]
    visitors.leave(first)
    visitors.leave(first)
    assert enter(visitors, "192.0.2.1", "192.0.2.1") == [True, False]


def test_a_proxy_on_this_machine_is_not_counted_where_there_is_one(two_each: Settings) -> None:
    assert enter(Visitors(), *["127.0.0.1"] * 3) == [True, True, False]
    two_each.TLS = "proxy"
    assert enter(Visitors(), *["127.0.0.1"] * 3) == [True] * 3
    assert enter(Visitors(), *["192.0.2.1"] * 3) == [True, True, False]


def test_a_unix_socket_has_no_address(two_each: Settings) -> None:
    assert enter(Visitors(), *[None] * 3) == [True] * 3


def test_zero_is_no_limit(settings: Settings) -> None:
    settings.CONNECTIONS_PER_ADDRESS = 0
    assert enter(Visitors(), *["192.0.2.1"] * 3) == [True] * 3


@pytest.mark.parametrize(
    ("host", "counted_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("no address", "no address"),
    ],
)
def test_what_counts_as_one_address(host: str, counted_as: str) -> None:
    assert neighbourhood(host) == counted_as


@pytest.mark.end_to_end
def test_a_server_takes_all_the_open_files_it_may_have_and_goes_on_after_it_ran_out(
    tmp_path: Path,
) -> None:
    soft, hard = 64, 96
    server = Server(tmp_path / "server")
    limit = (
        f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))"
    )
    server.start([sys.executable, "-c", f"{limit}; os.execv(sys.argv[1], sys.argv[1:])"])
    assert resource.prlimit(server.program.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2 * hard)]
    for each in crowd:
        each.close()

    def answers() -> bool:
        try:
            return server.call("GET", "/healthz")[0] == 200
        except OSError:
            return False

    eventually("an answer after the crowd has gone", answers)
    assert server.program.terminate() == 0
