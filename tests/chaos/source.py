"""The file that a run pulls, and every version of it that there ever was."""

import os
import random
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.harness import sha256

from .plan import MIB


@dataclass(frozen=True)
class Version:
    """What was in a file."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Version":
        return cls(path.stat().st_size, sha256(path))


class Source:
    """A file of random bytes, whose changes are each made by one system call."""

    def __init__(self, path: Path, size: int, dice: random.Random) -> None:
        self.path = path
        self._dice = dice
        with path.open("wb") as file:
            for begin in range(0, size, MIB):
                file.write(dice.randbytes(min(MIB, size - begin)))
        self.versions = [Version.of(path)]

    def _changed(self) -> None:
        self.versions.append(Version.of(self.path))

    def grow(self) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.write(self._dice.randbytes(self._dice.randint(1, MIB)))
        self._changed()

    def shrink(self) -> None:
        os.truncate(self.path, self._dice.randint(0, self.path.stat().st_size))
        self._changed()

    def rewrite(self) -> None:
        """Other bytes in the same place, and no other size."""
        size = self.path.stat().st_size
        begin = self._dice.randint(0, size)
        with self.path.open("r+b", buffering=0) as file:
            file.seek(begin)
            file.write(self._dice.randbytes(min(size - begin, MIB)))
        self._changed()

    def replace(self) -> None:
        """Another file of its name, as `rename` does it."""
        beside = self.path.with_suffix(".new")
        beside.write_bytes(self._dice.randbytes(self._dice.randint(0, 4 * MIB)))
        beside.replace(self.path)
        self._changed()

    def delete(self) -> None:
        self.path.unlink()

    def hide(self) -> None:
        self.path.rename(self.path.with_suffix(".hidden"))

    def put_back(self) -> None:
        self.path.with_suffix(".hidden").rename(self.path)
