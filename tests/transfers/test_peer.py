"""The address of who asks: what the socket says, or the proxy, and never what anybody can write."""

import ipaddress
from typing import Any

import pytest
from django.test import RequestFactory
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings
from rest_framework.request import Request

from transfers.peer import address_of

CLIENT = "203.0.113.7"
OTHER = "198.51.100.9"


def by_http(peer: str, *forwarded: str) -> str | None:
    request = RequestFactory().get("/", REMOTE_ADDR=peer)
    if forwarded:
        request.META["HTTP_X_FORWARDED_FOR"] = ",".join(forwarded)
    assert address_of(Request(request)) == address_of(request), "DRF's request is one, too"
    return address_of(request)


def by_socket(peer: str, *forwarded: str) -> str | None:
    headers = [(b"x-forwarded-for", each.encode("utf-8")) for each in forwarded]
    scope: dict[str, Any] = {"client": [peer, 1234] if peer else None, "headers": headers}
    return address_of(scope)


@pytest.fixture(params=[by_http, by_socket], ids=["http", "websocket"])
def ask(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("tls", ["off", "own"])
def test_without_a_proxy_only_the_socket_counts(ask: Any, tls: str, settings: Settings) -> None:
    settings.TLS = tls
    settings.TRUSTED_PROXIES = [ipaddress.ip_network(CLIENT)]
    for peer in (CLIENT, "127.0.0.1", "2001:db8::1"):
        assert ask(peer) == ask(peer, OTHER) == peer
    assert ask("") is None


@pytest.fixture
def proxy(settings: Settings) -> Settings:
    settings.TLS = "proxy"
    settings.TRUSTED_PROXIES = [
        ipaddress.ip_network("10.0.0.0/24"),
        ipaddress.ip_network("fd00::/8"),
    ]
    return settings


@pytest.mark.parametrize(
    "peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.5", "fd00::5", ""]
)
def test_a_known_proxy_says_whom_it_serves(ask: Any, proxy: Settings, peer: str) -> None:
    """On this machine, on a Unix socket, or in SILENTMODE_TRUSTED_PROXIES."""
    assert ask(peer, CLIENT) == CLIENT
    assert ask(peer, "2001:DB8::0001") == "2001:db8::1"


@pytest.mark.parametrize("peer", [OTHER, "10.0.1.5", "2001:db8::5"])
def test_who_is_no_known_proxy_speaks_for_itself_only(ask: Any, proxy: Settings, peer: str) -> None:
    assert ask(peer, CLIENT) == peer


def test_only_what_the_proxy_has_written_counts(ask: Any, proxy: Settings) -> None:
    """It appends; all before that came with the request."""
    assert ask("127.0.0.1", OTHER, CLIENT) == CLIENT
    assert ask("127.0.0.1", f"{OTHER}, 127.0.0.1 ,{CLIENT}") == CLIENT
    assert ask("127.0.0.1", "nonsense", CLIENT) == CLIENT


def test_our_own_proxies_behind_one_another_are_passed_over(ask: Any, proxy: Settings) -> None:
    assert ask("127.0.0.1", OTHER, CLIENT, "10.0.0.9", "10.0.0.8") == CLIENT
    assert ask("10.0.0.8", "10.0.0.9") == "10.0.0.9", "one of them asks for itself"


@pytest.mark.parametrize(
    "junk",
    ["", " ", "unknown", "unix:", f"{CLIENT}:80", "[::1]", "1.2.3", "\x1b[2J", "１.２.３.４"],
)
def test_what_is_no_address_is_not_passed_on(ask: Any, proxy: Settings, junk: str) -> None:
    assert ask("127.0.0.1", CLIENT, junk) == "127.0.0.1"
    assert ask("", CLIENT, junk) is None


def test_an_address_has_one_spelling(ask: Any, proxy: Settings) -> None:
    """A socket for both families gives IPv4 addresses in the form of IPv6; a limit counts them as one."""
    assert ask(f"::ffff:{CLIENT}") == CLIENT
    assert ask("127.0.0.1", f"::ffff:{CLIENT}") == CLIENT


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60), st.text(max_size=60))
def test_whatever_is_sent_the_answer_is_an_address_or_none(
    proxy: Settings, peer: str, forwarded: str
) -> None:
    address = address_of({"client": [peer, 1], "headers": [
        (b"x-forwarded-for", forwarded.encode("utf-8", "replace"))
    ]})  # fmt: skip
    assert address is None or str(ipaddress.ip_address(address)) == address
