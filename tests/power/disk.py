"""A strict disk: what may be on it after a power loss, at every point of what real code did to it.

* The bytes of a file are there for certain as far as a sync of that file has covered them. Of later
  ones there may be nothing, zeros (the size survived, the bytes did not), the first half, or all.
* A name that was made, moved or removed is there, or gone, for certain after a sync of its directory.
  Of later changes any may survive, and each without the others. A move is one change, of its target's
  directory: it is made whole or not at all, as journaling file systems do it.
* A row is there for certain once it is committed (`test_the_database_keeps_what_it_committed`).
"""

import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.db.backends.utils import CursorWrapper

from transfers import storage
from transfers.models import Transfer

Tree = frozenset[tuple[str, bytes | None]]
"""Paths and what is in them; None: a directory."""

Row = dict[str, Any]

CHANGES = ("open", "mkdir", "pwritev", "ftruncate", "rename", "replace", "link", "unlink")
"""After each of these the recorder looks what has changed; other calls it sees at the next of these."""

SYNCS = ((os, "fsync"), (os, "fdatasync"), (storage, "_fdatasync"))


class Killed(BaseException):
    """The process ends here, as by SIGKILL: nothing of the product catches this."""


@dataclass(eq=False)
class File:
    """A file or directory, whatever it is called."""

    inode: int
    now: bytes | None
    synced: bytes = b""
    kept: int = 0
    """So many of the synced bytes have not been touched since."""

    def change(self, now: bytes | None) -> None:
        if now != self.now:
            pairs = zip(now or b"", self.now or b"", strict=False)
            same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            self.kept = min(self.kept, same)
            self.now = now

    def sync(self) -> None:
        self.synced = self.now or b""
        self.kept = len(self.synced)

    def survivors(self) -> Iterator[bytes | None]:
        """What may be in it after a power loss; as many answers for any file."""
        if self.now is None:
            yield from (None,) * 4
            return
        half = self.kept + (len(self.now) - self.kept) // 2
        yield self.synced
        for intact in (self.kept, half, len(self.now)):
            yield self.now[:intact] + bytes(len(self.now) - intact)


@dataclass
class Renaming:
    """One change of names in a directory: what each stands for after it."""

    directory: str
    names: dict[str, File | None]


class Disk:
    """What is on the disk now, and what may be left of it after a power loss."""

    def __init__(self, seen: dict[str, tuple[int, bytes | None]]) -> None:
        """What is there at first is there for certain."""
        self.names = {path: File(inode, now) for path, (inode, now) in seen.items()}
        for file in self.names.values():
            file.sync()
        self._kept = dict(self.names)
        self._unsynced: list[Renaming] = []

    def look(self, seen: dict[str, tuple[int, bytes | None]]) -> bool:
        """Take note of what one call has changed, by path: inode and bytes. Whether it did."""
        before = [(path, file, file.now) for path, file in self.names.items()]
        known = {file.inode: file for file in self.names.values()}
        found = {path: known.get(inode) or File(inode, now) for path, (inode, now) in seen.items()}
        for path, file in found.items():
            file.change(seen[path][1])
        paths = [*found, *(path for path in self.names if path not in found)]
        changed = {
            path: found.get(path) for path in paths if found.get(path) is not self.names.get(path)
        }
        if changed:  # the new name of a moved file comes first
            self._unsynced.append(Renaming(str(Path(next(iter(changed))).parent), changed))
        self.names = found
        return before != [(path, file, file.now) for path, file in found.items()]

    def sync(self, inode: int) -> bool:
        """A file, or a directory, was synced. Whether it is one of ours."""
        named = {path: file for path, file in self.names.items() if file.inode == inode}
        for path, file in named.items():
            file.sync() if file.now is not None else self._sync_names(path)
        return bool(named)

    def _sync_names(self, directory: str) -> None:
        for number, renaming in enumerate(self._unsynced):
            if renaming.directory == directory:
                _rename(self._kept, renaming)
                for earlier in self._unsynced[:number]:
                    earlier.names = {
                        path: file
                        for path, file in earlier.names.items()
                        if path not in renaming.names
                    }
        self._unsynced = [each for each in self._unsynced if each.directory != directory]

    def after_power_loss(self) -> list[Tree]:
        """Every state that may be found on it, the barest first."""
        trees = (
            tree
            for count in range(len(self._unsynced) + 1)
            for surviving in itertools.combinations(self._unsynced, count)
            for tree in self._trees(surviving)
        )
        return list(dict.fromkeys(trees))

    def _trees(self, surviving: tuple[Renaming, ...]) -> Iterator[Tree]:
        names = dict(self._kept)
        for renaming in surviving:
            _rename(names, renaming)
        reachable = {path: file for path, file in names.items() if _is_reachable(path, names)}
        for contents in zip(*(file.survivors() for file in reachable.values()), strict=True):
            yield frozenset(zip(reachable, contents, strict=True))


def _rename(names: dict[str, File], renaming: Renaming) -> None:
    for path, file in renaming.names.items():
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file


def _is_reachable(path: str, names: dict[str, File]) -> bool:
    return all(str(parent) in names for parent in list(Path(path).parents)[:-1])


@dataclass(frozen=True)
class Point:
    """A moment at which the power may fail."""

    after: str
    row: Row
    trees: list[Tree]


@dataclass
class Recorder:
    """Watches what real code does below `root` and to the row, and lists the points between."""

    root: Path
    pk: Any
    kill_after: str = ""
    """The process ends right after the next call of this name."""
    points: list[Point] = field(default_factory=list)
    _row: Row = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._disk = Disk(read_tree(self.root))

    def start(self, patch: pytest.MonkeyPatch) -> None:
        for name in CHANGES:
            patch.setattr(os, name, self._watched(name, getattr(os, name)))
        for module, name in SYNCS:
            patch.setattr(module, name, self._synced(name.lstrip("_"), getattr(module, name)))
        patch.setattr(CursorWrapper, "execute", self._executed(CursorWrapper.execute))
        self.committed()

    def committed(self) -> None:
        row: Row = {**Transfer.objects.filter(pk=self.pk).values().get()}
        if row != self._row:
            self._look("a write")
            self._row = row
            self._note(f"commit of {row['status']}, checkpoint {row['checkpoint']}")

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            self._look(name)
            self._die_after(name)
            return result

        return watched

    def _synced(self, name: str, call: Callable[[int], None]) -> Callable[[int], None]:
        def synced(descriptor: int) -> None:
            self._look("a write")
            call(descriptor)
            with self._lock:
                if self._disk.sync(os.fstat(descriptor).st_ino):
                    self._note(name)
            self._die_after(name)

        return synced

    def _executed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def executed(cursor: Any, sql: str, params: Any = None) -> Any:
            result = call(cursor, sql, params)
            if sql.startswith("UPDATE"):
                transaction.on_commit(self.committed)
            return result

        return executed

    def _die_after(self, name: str) -> None:
        if name == self.kill_after:
            self.kill_after = ""
            raise Killed

    def _look(self, name: str) -> None:
        with self._lock:
            if self._disk.look(read_tree(self.root)):
                self._note(name)

    def _note(self, after: str) -> None:
        self.points.append(Point(after, self._row, self._disk.after_power_loss()))


def read_tree(root: Path) -> dict[str, tuple[int, bytes | None]]:
    """`root` itself and what is below it, by path: inode and bytes; no bytes for a directory."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_ino,
            None if path.is_dir() else path.read_bytes(),
        )
        for path in (root, *sorted(root.rglob("*")))
    }


def write_tree(root: Path, tree: Tree) -> None:
    """Make it what is below `root`."""
    shutil.rmtree(root)
    for path, contents in sorted(tree, key=lambda each: Path(each[0])):
        if contents is None:
            (root / path).mkdir(mode=0o700, exist_ok=True)
        else:
            (root / path).write_bytes(contents)
