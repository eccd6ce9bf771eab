"""Globs over the components of a path, matched in time bounded by pattern times path.

`**` alone between slashes is any number of components, also none. Within a component `*` is any number
of characters, `?` one, `[abc]`, `[a-z]` and `[!a-z]` one of those or none of those. Nothing else is
special: a leading dot is matched like any character, and a literal star is `[*]`.
"""

import functools
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

MAX_GLOB = 1024
"""Characters of a pattern: with a path of 4,096 the most work is known."""

STAR, ONE, DEEP = "*", "?", "**"

P = TypeVar("P")
S = TypeVar("S")


class BadGlob(ValueError):
    """The pattern has no meaning; the message says why."""


@dataclass(frozen=True)
class Special:
    """`*` or `?`: told by its type from the same letter taken literally."""

    kind: str


@dataclass(frozen=True)
class OneOf:
    """`[...]`: inclusive ranges of characters."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def has(self, letter: str, *, any_case: bool) -> bool:
        letters = {letter, letter.lower(), letter.upper()} if any_case else {letter}
        inside = any(low <= each <= high for each in letters for low, high in self.ranges)
        return inside is not self.negated


Token = str | Special | OneOf


@dataclass(frozen=True)
class Component:
    """A pattern for one name. `literal` is all of it, or what is after its only star, a first one."""

    tokens: tuple[Token, ...]
    literal: str | None

    def fits(self, name: str, *, any_case: bool) -> bool:
        if self.literal is not None:
            ends = self.tokens[:1] == (Special(STAR),)
            return name.endswith(self.literal) if ends else name == self.literal

        def one(token: Token, letter: str) -> bool:
            if isinstance(token, OneOf):
                return token.has(letter, any_case=any_case)
            return token == letter or token == Special(ONE)

        return _fits(self.tokens, name, lambda token: token == Special(STAR), one)


@dataclass(frozen=True)
class Glob:
    """One pattern, ready to be matched."""

    text: str
    any_case: bool
    components: tuple[Component | None, ...]
    """None stands for `**`."""

    @classmethod
    def parse(cls, text: str, *, any_case: bool = False) -> Self:
        """Raises BadGlob."""
        if not 1 <= len(text) <= MAX_GLOB:
            raise BadGlob(f"a pattern has 1 to {MAX_GLOB} characters")
        return cls(text, any_case, tuple(_component(c, any_case) for c in text.split("/")))

    def matches(self, parts: Sequence[str]) -> bool:
        """Whether it is a pattern of the whole path."""
        return self._match(parts, prefix=False)

    def covers(self, parts: Sequence[str]) -> bool:
        """Whether it is a pattern of the path, or of a folder that the path is below."""
        return self._match(parts, prefix=True)

    def _match(self, parts: Sequence[str], *, prefix: bool) -> bool:
        names = [folded(part) for part in parts] if self.any_case else parts
        if prefix and len(self.components) == 2 and self.components[0] is None:
            only = self.components[1]  # `**/name`, as most of the built-in list
            return only is None or any(only.fits(name, any_case=self.any_case) for name in names)

        def one(component: Component | None, name: str) -> bool:
            return component is not None and component.fits(name, any_case=self.any_case)

        return _fits(self.components, names, lambda component: component is None, one, prefix)


@functools.lru_cache(maxsize=1024)
def folded(name: str) -> str:
    """The name without regard to case, letter for letter, composed (macOS keeps names decomposed)."""
    letters = ((letter, letter.casefold()) for letter in unicodedata.normalize("NFC", name))
    return "".join(fold if len(fold) == 1 else letter for letter, fold in letters)


def _fits(
    pattern: Sequence[P],
    subject: Sequence[S],
    is_star: Callable[[P], bool],
    fits: Callable[[P, S], bool],
    prefix: bool = False,
) -> bool:
    """Match with stars, going back to the last star only: what earlier ones took need never change.

    With `prefix` it is enough that the beginning of the subject fits.
    """
    at = position = 0
    star: int | None = None
    taken = 0
    while position < len(subject):
        if at == len(pattern) and prefix:
            return True
        if at < len(pattern) and is_star(pattern[at]):
            star, taken = at, position
            at += 1
        elif at < len(pattern) and fits(pattern[at], subject[position]):
            at += 1
            position += 1
        elif star is not None:
            taken += 1
            at, position = star + 1, taken
        else:
            return False
    return all(is_star(rest) for rest in pattern[at:])


def _component(text: str, any_case: bool) -> Component | None:
    if text == DEEP:
        return None
    if text in ("", ".", ".."):
        raise BadGlob("a pattern is relative, and has no empty part, no `.` and no `..`")
    if DEEP in text:
        raise BadGlob("`**` stands alone between slashes")
    tokens = tuple(_tokens(folded(text) if any_case and "[" not in text else text, any_case))
    plain = tokens[1:] if tokens[0] == Special(STAR) else tokens
    letters = [token for token in plain if isinstance(token, str)]
    return Component(tokens, "".join(letters) if len(letters) == len(plain) else None)


def _tokens(text: str, any_case: bool) -> list[Token]:
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        letter = text[position]
        if letter == "[":
            end = text.find("]", position + (3 if text[position + 1 : position + 2] == "!" else 2))
            if end < 0:
                raise BadGlob("`[` without `]`; a literal one is `[[]`")
            tokens.append(_one_of(text[position + 1 : end]))
            position = end
        elif letter in (STAR, ONE):
            tokens.append(Special(letter))
        else:
            tokens.append(folded(letter) if any_case else letter)
        position += 1
    return tokens


def _one_of(inside: str) -> OneOf:
    negated = inside.startswith("!")
    letters = inside.removeprefix("!")
    ranges: list[tuple[str, str]] = []
    position = 0
    while position < len(letters):
        low = high = letters[position]
        if letters[position + 1 : position + 2] == "-" and position + 2 < len(letters):
            high = letters[position + 2]
            position += 2
        if low > high:
            raise BadGlob(f"the range {low}-{high} is empty")
        ranges.append((low, high))
        position += 1
    return OneOf(tuple(ranges), negated)
