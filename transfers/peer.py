"""Where a request comes from: the address that limits count by, and that records name."""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings
from django.http import HttpRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def address_of(asked: HttpRequest | Mapping[str, Any]) -> str | None:
    """The client's address, of an HTTP request or of an ASGI scope; None where a Unix socket has none.

    It is the other end of the socket. Behind a proxy that is the proxy, which has written whom it serves
    at the end of `X-Forwarded-For`; what stands before that, whoever asked may have written. So only the
    end counts, and only from a proxy that we know: one on this machine, or in SILENTMODE_TRUSTED_PROXIES.
    """
    if isinstance(asked, Mapping):
        peer = (asked.get("client") or [""])[0]
        values = [value for name, value in asked["headers"] if name == b"x-forwarded-for"]
        forwarded = b",".join(values).decode("latin-1")
    else:
        peer = asked.META.get("REMOTE_ADDR", "")
        forwarded = asked.META.get("HTTP_X_FORWARDED_FOR", "")
    address = parsed(peer)
    if is_our_proxy(address):
        address = _client(forwarded.split(",")) or address
    return str(address) if address else None


def is_our_proxy(address: Address | None) -> bool:
    """Whether a connection from there, or from a Unix socket, is that of a proxy that we know."""
    here = address is None or address.is_loopback
    return settings.TLS == "proxy" and (here or _is_proxy(address))


def _client(hops: Iterable[str]) -> Address | None:
    """The last hop that is none of our proxies: theirs are the entries behind it."""
    address = None
    for hop in reversed(list(hops)):
        if (named := parsed(hop.strip())) is None:
            break  # nothing that a proxy writes: nor is what stands before it
        address = named
        if not _is_proxy(address):
            break
    return address


def _is_proxy(address: Address | None) -> bool:
    proxies: Iterable[Network] = settings.TRUSTED_PROXIES
    return address is not None and any(address in network for network in proxies)


def parsed(text: str) -> Address | None:
    """The address that a text says, or None."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address  # a socket for both families says ::ffff:192.0.2.1 for 192.0.2.1


def neighbourhood(host: str) -> str:
    """What counts as one party: an IPv4 address, or the /64 that one IPv6 subscriber has."""
    address = parsed(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address or host)  # a Unix socket has none
