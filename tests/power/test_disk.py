"""The strict disk is strict: else what is proved on it is worth nothing."""

import os
from pathlib import Path

import pytest

from .disk import Disk, read_tree, write_tree


class Machine:
    """A directory, and a strict disk that watches it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("one", "two"):
            (root / name).mkdir()
        (root / "one/old").write_bytes(b"abcd")
        self.disk = Disk(read_tree(root))

    def write(self, path: str, contents: bytes) -> None:
        (self.root / path).write_bytes(contents)
        self.disk.look(read_tree(self.root))

    def move(self, old: str, new: str) -> None:
        (self.root / old).rename(self.root / new)
        self.disk.look(read_tree(self.root))

    def sync(self, path: str) -> None:
        self.disk.sync((self.root / path).stat().st_ino)

    @property
    def files(self) -> list[dict[str, bytes]]:
        """What may be left."""
        return [
            {path: data for path, data in tree if data is not None}
            for tree in self.disk.after_power_loss()
        ]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (root := tmp_path / "root").mkdir()
    return Machine(root)


def test_what_was_there_before_stays(machine: Machine) -> None:
    assert machine.files == [{"one/old": b"abcd"}]


def test_of_bytes_that_are_not_synced_anything_may_be_left(machine: Machine) -> None:
    machine.write("one/old", b"abcdefgh")
    contents = [files["one/old"] for files in machine.files]
    assert contents == [b"abcd", b"abcd\0\0\0\0", b"abcdef\0\0", b"abcdefgh"]


def test_bytes_that_are_written_again_are_not_safe_any_more(machine: Machine) -> None:
    machine.write("one/old", b"ab")
    machine.write("one/old", b"abcd")
    assert {"one/old": b"ab\0\0"} in machine.files


def test_bytes_that_are_synced_are_safe(machine: Machine) -> None:
    machine.write("one/old", b"abcdefgh")
    machine.sync("one/old")
    assert machine.files == [{"one/old": b"abcdefgh"}]


def test_a_new_name_is_safe_only_once_its_directory_is_synced(machine: Machine) -> None:
    machine.write("one/new", b"x")
    machine.sync("one/new")
    machine.sync("two")
    assert machine.files == [{"one/old": b"abcd"}, {"one/old": b"abcd", "one/new": b"x"}]
    machine.sync("one")
    assert machine.files == [{"one/old": b"abcd", "one/new": b"x"}]


def test_a_move_is_safe_only_once_its_target_is_synced(machine: Machine) -> None:
    machine.move("one/old", "two/moved")
    machine.sync("one")
    assert machine.files == [{"one/old": b"abcd"}, {"two/moved": b"abcd"}]
    machine.sync("two")
    assert machine.files == [{"two/moved": b"abcd"}]


def test_a_file_that_was_made_and_moved_does_not_come_back(machine: Machine) -> None:
    machine.write("one/new", b"")
    machine.move("one/new", "two/moved")
    machine.sync("two")
    machine.sync("one")
    assert machine.files == [{"one/old": b"abcd", "two/moved": b""}]


def test_a_removed_file_may_come_back(machine: Machine) -> None:
    (machine.root / "one/old").unlink()
    machine.disk.look(read_tree(machine.root))
    assert machine.files == [{"one/old": b"abcd"}, {}]


def test_of_two_changes_of_names_either_may_survive_alone(machine: Machine) -> None:
    machine.write("one/a", b"")
    machine.write("one/b", b"")
    assert {frozenset(files) - {"one/old"} for files in machine.files} == {
        frozenset(names) for names in ((), ("one/a",), ("one/b",), ("one/a", "one/b"))
    }


def test_without_its_directory_no_file_is_found(machine: Machine) -> None:
    (machine.root / "three").mkdir()
    machine.disk.look(read_tree(machine.root))
    machine.write("three/x", b"")
    machine.sync("three")
    assert machine.files[0] == {"one/old": b"abcd"}
    machine.sync(".")
    assert machine.files == [{"one/old": b"abcd", "three/x": b""}]


def test_a_state_can_be_put_back(machine: Machine) -> None:
    [before] = machine.disk.after_power_loss()
    os.unlink(machine.root / "one/old")
    (machine.root / "three").mkdir()
    write_tree(machine.root, before)
    assert {path: data for path, (_, data) in read_tree(machine.root).items()} == dict(before)
