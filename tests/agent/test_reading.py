"""What the machine has in memory stays there, and what is read for us alone does not."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.gate import reading
from agent.gate.reading import read_at
from agent.gate.source import BLOCK
from tests.page_cache import forget, in_memory, needs_fincore

MIB = 1024 * 1024
SIZE = 16 * MIB

pytestmark = needs_fincore


@pytest.fixture
def data() -> bytes:
    return secrets.token_bytes(SIZE)


@pytest.fixture
def file(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "file"
    file.write_bytes(data)
    forget(file)
    if in_memory(file):
        pytest.skip("a file system that is in memory")
    return file


@pytest.fixture(params=["as Linux 6.14 does it", "as before"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, file: Path) -> str:
    with file.open("rb") as opened:
        try:
            os.preadv(opened.fileno(), [bytearray(1)], 0, reading.RWF_DONTCACHE)
            can = True
        except OSError:
            can = False
    forget(file)
    if request.param == "as before":
        monkeypatch.setattr(reading, "RWF_DONTCACHE", 0x4000_0000)  # no kernel knows it
    elif not can:
        pytest.skip("this kernel or file system cannot")
    return str(request.param)


@pytest.fixture
def descriptor(file: Path) -> Iterator[int]:
    descriptor = os.open(file, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def read_all(descriptor: int, size: int = SIZE) -> bytes:
    return b"".join(read_at(descriptor, at, BLOCK) for at in range(0, size, BLOCK))


def test_what_nobody_had_in_memory_is_not_there_afterwards(
    way: str, descriptor: int, file: Path, data: bytes
) -> None:
    """The way of older kernels cannot be judged on a newer one, which keeps larger pieces than it drops."""
    for _ in range(2):  # as when a transfer is resumed
        assert read_all(descriptor) == data
        if way == "as Linux 6.14 does it":
            assert in_memory(file) == 0


def test_what_somebody_had_in_memory_stays(
    way: str, descriptor: int, file: Path, data: bytes
) -> None:
    file.read_bytes()
    for _ in range(2):
        assert read_all(descriptor) == data
        assert in_memory(file) == SIZE


def test_pages_in_the_middle_stay(way: str, descriptor: int, file: Path, data: bytes) -> None:
    """A database has some of its pages in memory, here and there."""
    hot = range(300 * 1024, SIZE, MIB)
    other = os.open(file, os.O_RDONLY)
    os.posix_fadvise(other, 0, 0, os.POSIX_FADV_RANDOM)
    for at in hot:
        os.pread(other, 1, at)
    assert read_all(descriptor) == data
    for at in hot:  # raises BlockingIOError where it would have to be read
        assert os.preadv(other, [bytearray(1)], at, os.RWF_NOWAIT) == 1
    os.close(other)


@pytest.mark.parametrize(("offset", "length"), [(5000, 300_000), (SIZE - 10, 10), (123, 1)])
def test_any_part_can_be_read(
    way: str, descriptor: int, data: bytes, offset: int, length: int
) -> None:
    assert read_at(descriptor, offset, length) == data[offset : offset + length]


def test_at_the_end_there_is_less(way: str, descriptor: int, data: bytes) -> None:
    assert read_at(descriptor, SIZE - 5000, BLOCK) == data[-5000:]
    assert read_at(descriptor, SIZE + 5000, BLOCK) == b""


def test_where_there_is_no_such_thing_it_is_just_read(
    descriptor: int, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RWF_DONTCACHE", 0x4000_0000)
    monkeypatch.setattr(os, "RWF_NOWAIT", 0x4000_0000)
    assert read_all(descriptor) == data


def test_an_error_of_the_disk_is_an_error(way: str, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        read_at(folder, 0, BLOCK)
    os.close(folder)
