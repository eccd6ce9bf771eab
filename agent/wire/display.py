"""Text from the other side, as a person may see it: on a console, in a log, on a page."""

from functools import lru_cache
from typing import TextIO


def shown(text: str) -> str:
    r"""The text with control, bidi and other unprintable characters escaped, as in `new\nline`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@lru_cache(maxsize=4)
def is_terminal(stream: TextIO) -> bool:
    """Whether a person watches. Asked once: it is a system call, of which each file took eight."""
    return stream.isatty()
