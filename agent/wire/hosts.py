"""Where a token may go without TLS."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether this is our own machine by its spelling: no look-up, which could be answered by anybody."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
