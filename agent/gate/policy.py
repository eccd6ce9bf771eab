"""The agent's own policy as data, and its verdicts by name: what may be looked for at all.

The server can neither read it nor widen it. A verdict is found by comparing names, before the disk is
asked anything about the file, so that a refusal takes as long for a file that exists as for one that
does not. What is checked on the open file is the business of `gate`.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..wire.messages import TRANSFERS_AT_ONCE
from . import never, windows_names
from .globs import Glob
from .source import SourceError, forbidden

MAX_NAME = 255
"""Characters of one name: no file system has longer ones."""


@dataclass(frozen=True)
class Root:
    """A folder, and which of the files below it may be sent: by itself none."""

    path: Path
    allow: tuple[Glob, ...]
    deny: tuple[Glob, ...] = ()

    @classmethod
    def whole(cls, path: Path) -> Self:
        """What `--root` says: all that is below it."""
        return cls(path.absolute(), (allowing("**"),))

    def resolved(self) -> Path:
        """Where it is, links in its own path resolved: it is named by who runs the agent."""
        return _real(self.path)


def allowing(text: str) -> Glob:
    """A pattern of `allow`: by case where file names are. Raises BadGlob."""
    return Glob.parse(text, any_case=sys.platform == "win32")


def denying(text: str) -> Glob:
    """A pattern of `deny`: never by case, so that no spelling gets around it. Raises BadGlob."""
    return Glob.parse(text, any_case=True)


@dataclass(frozen=True)
class Place:
    """Where a file that is asked for may be: `parts` below a root, or none below the file itself."""

    base: Path
    """A root or the file, links resolved."""
    parts: tuple[str, ...]
    rule: str
    """What allows it, for who runs the agent."""

    @property
    def path(self) -> Path:
        return self.base.joinpath(*self.parts)


@dataclass(frozen=True)
class Policy:
    """What may be read: one file, and what the roots allow. Default: nothing."""

    file: Path | None = None
    roots: Sequence[Root] = ()
    deny: Sequence[Glob] = ()
    """For all roots, relative to each; for the file, for its whole path."""
    max_file_size: int | None = None
    """In bytes."""
    rate_limit: int | None = None
    """In bytes a second, of all transfers together."""
    transfers_at_once: int = TRANSFERS_AT_ONCE

    def places(self, asked: str | None) -> list[Place]:
        """Where to look for what is asked, in turn; never none. Raises SourceError.

        A relative path is looked for below each root that allows it.
        """
        if asked is None or self._is_file(asked):
            return [self._file()]
        if reason := odd_path(asked):
            raise forbidden(f"it is {reason}")
        roots = [(root, root.resolved()) for root in self.roots]
        reasons: list[str] = []
        places: list[Place] = []
        for root, real in roots:
            parts = _parts_below(asked, root.path, real)
            if parts is None:
                continue
            verdict = self._judge(root, real, parts, roots)
            if isinstance(verdict, Place):
                places.append(verdict)
            else:
                reasons.append(verdict)
        if places:
            return places
        raise forbidden("; ".join(dict.fromkeys(reasons)) or "it is below no root of the policy")

    def _is_file(self, asked: str) -> bool:
        return self.file is not None and Path(asked) in (self.file, self.file.absolute())

    def _file(self) -> Place:
        if self.file is None:
            raise forbidden("the policy names no file to send when the server names none")
        real = _real(self.file.absolute())
        parts = below_anchor(real)
        if reason := never.by_path(parts) or _denied(self.deny, parts, "of all roots"):
            raise forbidden(reason)
        return Place(real, (), f"it is the file that the policy names, {self.file}")

    def _judge(
        self,
        root: Root,
        real: Path,
        parts: tuple[str, ...],
        roots: Sequence[tuple[Root, Path]],
    ) -> Place | str:
        """A place, or why there is none below this root."""
        allowed = next((glob for glob in root.allow if glob.matches(parts)), None)
        if allowed is None:
            return f"root {root.path} allows no such name"
        path = real.joinpath(*parts)
        if reason := never.by_path(below_anchor(path)) or self._denied(path, roots):
            return reason
        return Place(real, parts, f"root {root.path} allows {allowed.text}")

    def _denied(self, path: Path, roots: Sequence[tuple[Root, Path]]) -> str | None:
        """A denial of any root that the path is below: another root does not undo it."""
        for root, real in roots:
            if path.is_relative_to(real):
                parts = path.relative_to(real).parts
                reason = _denied(self.deny, parts, "of all roots")
                reason = reason or _denied(root.deny, parts, f"of root {root.path}")
                if reason:
                    return reason
        return None


def odd_path(asked: str) -> str | None:
    """What is wrong with a path whatever the policy, or None."""
    if "\0" in asked:
        return "no path: there is a NUL in it"
    parts = Path(asked).parts
    if ".." in parts:
        return "a path with `..`"
    if any(len(part) > MAX_NAME for part in parts):
        return "longer than any file's name"
    return windows_names.odd_name(asked) if sys.platform == "win32" else None


def _denied(globs: Sequence[Glob], parts: tuple[str, ...], whose: str) -> str | None:
    return next((f"deny {whose}: {glob.text}" for glob in globs if glob.covers(parts)), None)


def _parts_below(asked: str, *names: Path) -> tuple[str, ...] | None:
    """The components of a path below a root that goes by these names, or None outside."""
    path = Path(asked)
    if not path.is_absolute():
        return path.parts
    return next((path.relative_to(name).parts for name in names if path.is_relative_to(name)), None)


def below_anchor(path: Path) -> tuple[str, ...]:
    return path.parts[1:]


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:  # on Windows, a malformed name
        raise SourceError(
            "unreadable", "The agent's folder cannot be found.", f"{path}: {error}"
        ) from None
