"""The policy as its owner writes it: a TOML file, read strictly.

What is not understood stops the agent: a misspelt `deny` must not allow.
"""

import re
import tomllib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from ..wire.messages import LEAST_RATE, TRANSFERS_AT_ONCE
from .globs import BadGlob, Glob
from .policy import Policy, Root, allowing, denying

_SHORT = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,3})?[KMG]", re.IGNORECASE)
"""As curl, wget and rsync have it: K is 1,024."""

_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(r"(\d{1,15})(?:\.(\d{1,3}))? ?(B|KiB|MiB|GiB|TiB)")

T = TypeVar("T")


class BadPolicy(Exception):
    """The file says something that has no meaning here; the message says what and where."""


def read(path: Path) -> Policy:
    """Raises BadPolicy."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadPolicy(f"The policy {path} cannot be read: {error}") from None
    try:
        return parse(text)
    except BadPolicy as bad:
        raise BadPolicy(f"The policy {path}: {bad}") from None


def parse(text: str) -> Policy:
    """Raises BadPolicy."""
    try:
        table = _Table(tomllib.loads(text), "")
    except tomllib.TOMLDecodeError as error:
        raise BadPolicy(str(error)) from None
    policy = Policy(
        file=table.take("file", _path, None),
        roots=table.take("roots", _roots, ()),
        deny=table.take("deny", _denies, ()),
        max_file_size=table.take("max_file_size", _size, None),
        rate_limit=table.take("rate_limit", _rate, None),
        transfers_at_once=table.take("transfers_at_once", _at_once, TRANSFERS_AT_ONCE),
    )
    table.check_empty()
    return policy


class _Table:
    """A table whose keys are taken one by one; what is left over is unknown."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self._values = dict(values)
        self._where = where

    def take(self, key: str, read: Callable[[Any], T], default: T) -> T:
        return self._read(key, read) if key in self._values else default

    def need(self, key: str, read: Callable[[Any], T], why: str) -> T:
        if key not in self._values:
            raise BadPolicy(f"{self._where}{key} is missing: {why}")
        return self._read(key, read)

    def _read(self, key: str, read: Callable[[Any], T]) -> T:
        value = self._values.pop(key)
        try:
            return read(value)
        except BadPolicy as bad:
            raise BadPolicy(f"{self._where}{key}: {bad}") from None

    def check_empty(self) -> None:
        if self._values:
            raise BadPolicy(f"{self._where}{min(self._values)} is not a setting of a policy")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadPolicy("it must be a string")
    return value


def _path(value: Any) -> Path:
    path = Path(_text(value))
    if not path.is_absolute() or ".." in path.parts:
        raise BadPolicy(f"{value!r} must be an absolute path, without `..`")
    return path


def _globs(value: Any, make: Callable[[str], Glob]) -> tuple[Glob, ...]:
    if not isinstance(value, list):
        raise BadPolicy("it must be a list of patterns")
    try:
        return tuple(make(_text(text)) for text in value)
    except BadGlob as bad:
        text = next(text for text in value if _is_bad(text, make))
        raise BadPolicy(f"{text!r}: {bad}") from None


def _is_bad(text: str, make: Callable[[str], Glob]) -> bool:
    try:
        make(text)
    except BadGlob:
        return True
    return False


def _allows(value: Any) -> tuple[Glob, ...]:
    return _globs(value, allowing)


def _denies(value: Any) -> tuple[Glob, ...]:
    return _globs(value, denying)


def _roots(value: Any) -> tuple[Root, ...]:
    if not isinstance(value, list) or not all(isinstance(root, dict) for root in value):
        raise BadPolicy("write [[roots]], once for each")
    return tuple(_root(_Table(root, f"of root {number}, ")) for number, root in enumerate(value, 1))


def _root(table: _Table) -> Root:
    root = Root(
        path=table.need("path", _path, "which folder it is"),
        allow=table.need("allow", _allows, 'a root by itself allows nothing; all of it is ["**"]'),
        deny=table.take("deny", _denies, ()),
    )
    table.check_empty()
    return root


def _whole(value: Any, least: int, most: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise BadPolicy(f"it must be a whole number from {least} to {most}")


def _size(value: Any) -> int:
    if not isinstance(value, str):
        return _whole(value, 0, 2**63 - 1)
    found = _SIZE.fullmatch(value)
    if found is None:
        raise BadPolicy(f'{value!r} must be whole bytes, or like "512 MiB" (B, KiB, MiB, GiB, TiB)')
    return int(Decimal(f"{found[1]}.{found[2] or 0}") * _UNITS[found[3]])


def _rate(value: Any) -> int:
    if isinstance(value, str):
        if not value.endswith("/s"):
            raise BadPolicy(f'{value!r} must be whole bytes a second, or like "1 MiB/s"')
        value = value.removesuffix("/s")
    return _not_too_low(_size(value))


def _not_too_low(rate: int) -> int:
    if rate < LEAST_RATE:
        raise BadPolicy("it must be at least 1 KiB/s")
    return rate


def rate_of_option(text: str) -> int:
    """Bytes a second, as `--limit-rate` has them: `1M`, or bytes. Raises BadPolicy."""
    if text.isascii() and text.isdigit():
        return _not_too_low(_whole(int(text[:20]), 0, 2**63 - 1))
    if not _SHORT.fullmatch(text):
        raise BadPolicy(f"{text!r} must be bytes a second, or like 500K, 1M or 1.5M (K is 1,024)")
    return _not_too_low(_size(f"{text[:-1]} {text[-1].upper()}iB"))


def _at_once(value: Any) -> int:
    return _whole(value, 1, TRANSFERS_AT_ONCE)
