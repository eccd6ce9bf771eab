"""What the commands of the agent share: arguments that make no sense, and what a server is called."""

from urllib.parse import urlsplit


class UsageError(Exception):
    """The arguments, the policy or the environment do not make sense."""

    exit_code = 2


def server_url(url: str) -> str:
    """The server's URL without a path. Raises UsageError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"--server {url}: {error}") from None
    known = parts.scheme in ("ws", "wss") and parts.hostname and parts.path in ("", "/")
    if not known or "@" in parts.netloc:
        raise UsageError(f"--server {url}: it looks like wss://files.example.com or ws://host:8000")
    return f"{parts.scheme}://{parts.netloc}"


PORTS = {"ws": 80, "wss": 443}


def same_server(one: str, other: str) -> bool:
    """Whether two URLs lead to one place, with the same protection on the way. Raises ValueError."""
    return _place(one) == _place(other)


def _place(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme)
