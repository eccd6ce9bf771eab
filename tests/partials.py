"""Partial files, as a connection holds them."""

from pathlib import Path

from transfers.storage import PartialFile


def create(path: Path) -> PartialFile:
    """A new one, empty, in place of what is there."""
    partial = PartialFile(path)
    partial.replace()
    return partial
