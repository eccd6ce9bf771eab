"""Text from the other side, as a person may see it: on a console, in a log, on a page."""


def shown(text: str) -> str:
    r"""The text with control, bidi and other unprintable characters escaped, as in `new\nline`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
