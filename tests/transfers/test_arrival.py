"""Bytes that arrive: where an attempt begins, and how much of it a killed server could lose."""

import asyncio
import errno
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent.wire.messages import MAX_CHUNK
from transfers import arrival as arrival_module
from transfers import storage
from transfers.arrival import (
    BUSY_SECONDS,
    CHECKPOINT_SECONDS,
    PROGRESS_SECONDS,
    Arrival,
)
from transfers.inbox import BATCH_BYTES
from transfers.storage import PartialBusy, PartialFile, StorageError


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def fine() -> None:
    """The row is still ours."""


class Books:
    """What was recorded: (received, checkpoint) each time."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int]] = []
        self.written = 0

    async def __call__(self, received: int, checkpoint: int, written: int) -> None:
        self.entries.append((received, checkpoint))
        self.written += written


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
def path(data_dir: Path) -> Path:
    return data_dir / "partial" / "x.part"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival_module, "BUSY_POLL_SECONDS", 0)


@pytest.fixture
async def arrivals() -> AsyncIterator[list[Arrival]]:
    """What a test opened; closed after it."""
    opened: list[Arrival] = []
    yield opened
    for each in opened:
        await each.close()


@pytest.fixture
async def arrival(path: Path, clock: Clock, books: Books, arrivals: list[Arrival]) -> Arrival:
    """A new one, empty."""
    return await begin(path, 0, books, clock, arrivals)


async def begin(
    path: Path, checkpoint: int, books: Books, clock: Clock, arrivals: list[Arrival]
) -> Arrival:
    arrival = Arrival(path, books, check=fine, give_up=lambda: False, clock=clock)
    arrivals.append(arrival)
    if checkpoint:
        await arrival.resume(checkpoint)
    return arrival


# Opening -----------------------------------------------------------------------------------------


async def test_it_goes_on_from_the_checkpoint_and_not_from_the_size_of_the_file(
    path: Path, clock: Clock, books: Books, arrivals: list[Arrival]
) -> None:
    path.write_bytes(b"0123456789garbage")
    arrival = await begin(path, 10, books, clock, arrivals)
    assert (arrival.begin, arrival.offset, arrival.checkpointed) == (10, 10, 10)
    assert path.read_bytes() == b"0123456789"


async def test_what_is_resumed_is_hashed_from_its_first_byte(
    path: Path, clock: Clock, books: Books, arrivals: list[Arrival]
) -> None:
    path.write_bytes(b"first half, ")
    arrival = await begin(path, 12, books, clock, arrivals)
    assert not arrival.hashed
    while not arrival.hashed:
        await arrival.rehash()
    await arrival.write([b"second", b" half"])
    assert arrival.hexdigest() == hashlib.sha256(b"first half, second half").hexdigest()


@pytest.mark.parametrize("left", [None, b"short"], ids=["gone", "too short"])
async def test_a_partial_file_that_is_lost_is_begun_anew(
    path: Path, left: bytes | None, clock: Clock, books: Books, arrivals: list[Arrival]
) -> None:
    if left is not None:
        path.write_bytes(left)
    arrival = await begin(path, 10, books, clock, arrivals)
    assert (arrival.begin, arrival.offset, arrival.hashed) == (0, 0, True)
    await arrival.write([b"all of it"])
    assert path.read_bytes() == b"all of it"


async def test_a_new_one_is_there_from_its_first_bytes_on(arrival: Arrival, path: Path) -> None:
    assert not path.exists()
    await arrival.write([b"x"])
    assert path.read_bytes() == b"x"


async def test_an_empty_one_is_there_when_it_lands(
    arrival: Arrival, path: Path, data_dir: Path
) -> None:
    await arrival.begin_anew()
    await arrival.land(data_dir / "downloads" / "empty")
    assert (data_dir / "downloads" / "empty").read_bytes() == b""
    assert not path.exists()


async def test_what_is_there_gives_way_to_the_first_bytes_of_a_new_one(
    path: Path, clock: Clock, books: Books, arrivals: list[Arrival]
) -> None:
    path.write_bytes(b"of another source")
    arrival = await begin(path, 0, books, clock, arrivals)
    await arrival.write([b"new"])
    assert (arrival.begin, path.read_bytes()) == (0, b"new")


@pytest.mark.parametrize("keep", [False, True])
async def test_one_that_has_brought_nothing_leaves_what_is_there(
    path: Path, keep: bool, clock: Clock, books: Books, arrivals: list[Arrival]
) -> None:
    path.write_bytes(b"somebody's")
    arrival = await begin(path, 0, books, clock, arrivals)
    await arrival.checkpoint()
    await arrival.give_back(keep=keep)
    await arrival.close()
    assert (path.read_bytes(), books.entries) == (b"somebody's", [])


async def test_nothing_is_touched_that_is_not_to_be_touched(
    path: Path, books: Books, arrivals: list[Arrival]
) -> None:
    class NotOurs(Exception):
        pass

    async def check() -> None:
        raise NotOurs

    path.write_bytes(b"of a newer connection")
    arrival = Arrival(path, books, check=check, give_up=lambda: False)
    with pytest.raises(NotOurs):
        await arrival.write([b"late"])
    with pytest.raises(NotOurs):
        await arrival.resume(2)
    assert path.read_bytes() == b"of a newer connection"


@pytest.fixture
def holder(path: Path) -> Iterator[PartialFile]:
    """An older connection's, with four bytes in it."""
    holder = PartialFile(path)
    holder.write([b"four"])
    yield holder
    holder.close()


@pytest.mark.parametrize("checkpoint", [0, 4])
async def test_it_waits_until_an_older_writer_lets_go(
    path: Path,
    checkpoint: int,
    holder: PartialFile,
    clock: Clock,
    books: Books,
    arrivals: list[Arrival],
) -> None:
    tries: list[int] = []

    def give_up() -> bool:
        tries.append(1)
        if len(tries) == 3:
            holder.close()
        return False

    arrival = Arrival(path, books, check=fine, give_up=give_up, clock=clock)
    arrivals.append(arrival)
    if checkpoint:
        await arrival.resume(checkpoint)
    await arrival.write([b"more"])
    assert path.read_bytes() == b"four"[:checkpoint] + b"more"
    assert (arrival.begin, len(tries)) == (checkpoint, 3)


async def test_it_stops_waiting_for_the_other_writer_when_told_to(
    path: Path, holder: PartialFile, clock: Clock, books: Books
) -> None:
    arrival = Arrival(path, books, check=fine, give_up=lambda: True, clock=clock)
    with pytest.raises(PartialBusy):
        await arrival.write([b"five"])
    holder.write([b", unharmed"])
    assert path.read_bytes() == b"four, unharmed"


async def test_it_waits_for_the_other_writer_a_minute_and_no_longer(
    path: Path, holder: PartialFile, clock: Clock, books: Books
) -> None:
    began = clock.now

    def time_passes() -> bool:
        clock.now += 1
        return False

    arrival = Arrival(path, books, check=fine, give_up=time_passes, clock=clock)
    with pytest.raises(PartialBusy):
        await arrival.write([b"five"])
    assert clock.now - began == BUSY_SECONDS + 1


# Checkpoints and progress ------------------------------------------------------------------------


async def test_so_many_bytes_make_a_checkpoint(
    arrival: Arrival, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = BATCH_BYTES + MAX_CHUNK  # comes on top before there is another chance
    monkeypatch.setattr(arrival_module, "CHECKPOINT_BYTES", 7 + batch)
    await arrival.write([b"1234567"])
    await arrival.keep_books()
    assert (arrival.checkpointed, books.entries) == (0, [])
    await arrival.write([b"8"])
    await arrival.keep_books()
    assert (arrival.checkpointed, books.entries) == (8, [(8, 8)])


class SlowSync:
    """A sync that ends when a test says so; how many there were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.error: OSError | None = None
        self.count = 0
        fdatasync = storage._fdatasync

        def slow(descriptor: int) -> None:
            self.count += 1
            self.begun.set()
            assert self.go_on.wait(20)
            if self.error:
                raise self.error
            fdatasync(descriptor)

        monkeypatch.setattr(storage, "_fdatasync", slow)


async def until_told(arrival: Arrival, books: Books) -> None:
    """As the intake goes on, a batch after the other."""
    while not books.entries:
        await arrival.keep_books()
        await asyncio.sleep(0.01)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many bytes are half of what may be unsynced."""
    monkeypatch.setattr(arrival_module, "CHECKPOINT_BYTES", 4 * (BATCH_BYTES + MAX_CHUNK))
    return 2 * (BATCH_BYTES + MAX_CHUNK)


async def test_half_of_what_may_be_lost_is_synced_while_more_comes(
    arrival: Arrival, books: Books, half: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = SlowSync(monkeypatch)
    await arrival.write([bytes(half)])
    await arrival.keep_books()
    assert await asyncio.to_thread(sync.begun.wait, 20)
    await arrival.write([b"more"])
    await arrival.keep_books()
    assert (arrival.checkpointed, books.entries, sync.count) == (0, [], 1)
    sync.go_on.set()
    await until_told(arrival, books)
    assert books.entries == [(half + 4, half)], (
        "what came after it began is not on disk for certain"
    )
    assert arrival.checkpointed == half


async def test_no_more_is_unsynced_than_may_be_lost(
    arrival: Arrival, half: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = SlowSync(monkeypatch)
    await arrival.write([bytes(half)])
    await arrival.keep_books()
    # Else the sync beside the writing may begin late, and cover what is written next.
    assert await asyncio.to_thread(sync.begun.wait, 20)
    await arrival.write([bytes(half)])
    waiting = asyncio.create_task(arrival.keep_books())
    assert not (await asyncio.wait([waiting], timeout=0.2))[0]
    sync.go_on.set()
    await waiting
    assert (arrival.checkpointed, sync.count) == (2 * half, 2)


async def test_a_sync_that_fails_beside_the_writing_is_a_failure_of_the_disk(
    arrival: Arrival, path: Path, books: Books, half: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = SlowSync(monkeypatch)
    sync.error = OSError(errno.EIO, "it fails")
    sync.go_on.set()
    await arrival.write([bytes(half)])
    with pytest.raises(StorageError):
        await until_told(arrival, books)
    await arrival.give_back(keep=True)
    assert (path.stat().st_size, sync.count) == (0, 1), (
        "nothing of it is trusted, and none tried again"
    )


@pytest.mark.parametrize("fails", [False, True])
async def test_it_is_not_closed_in_the_middle_of_a_sync(
    arrival: Arrival, path: Path, half: int, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = SlowSync(monkeypatch)
    sync.error = OSError(errno.EIO, "it fails") if fails else None
    await arrival.write([bytes(half)])
    await arrival.keep_books()
    closing = asyncio.create_task(arrival.close())
    assert not (await asyncio.wait([closing], timeout=0.2))[0]
    assert storage.is_busy(path)
    sync.go_on.set()
    await closing
    assert not storage.is_busy(path)


def test_a_killed_server_asks_again_for_64_mib_or_5_s_at_most() -> None:
    assert (arrival_module.CHECKPOINT_BYTES, CHECKPOINT_SECONDS) == (64 * 1024**2, 5.0)


async def test_a_slow_arrival_makes_a_checkpoint_in_time(
    arrival: Arrival, clock: Clock, books: Books
) -> None:
    await arrival.write([b"slow"])
    clock.now += CHECKPOINT_SECONDS - 1
    assert arrival.checkpoint_in() == 1
    clock.now += 1
    assert arrival.checkpoint_in() == 0
    await arrival.keep_books()
    assert books.entries == [(4, 4)]
    assert arrival.checkpoint_in() is None


async def test_an_overdue_checkpoint_is_due_at_once_and_not_in_the_past(
    arrival: Arrival, clock: Clock
) -> None:
    await arrival.write([b"slow"])
    clock.now += 10 * CHECKPOINT_SECONDS
    assert arrival.checkpoint_in() == 0


async def test_the_time_of_a_checkpoint_counts_from_the_one_before(
    arrival: Arrival, clock: Clock
) -> None:
    await arrival.write([b"a"])
    clock.now += 3
    await arrival.checkpoint()
    await arrival.write([b"b"])
    assert arrival.checkpoint_in() == CHECKPOINT_SECONDS


async def test_what_is_recorded_is_on_disk_before_it_is_recorded(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, arrivals: list[Arrival]
) -> None:
    happened: list[str] = []
    sync = PartialFile.checkpoint

    def synced(partial: PartialFile) -> int:
        happened.append("synced")
        return sync(partial)

    async def recorded(received: int, checkpoint: int, written: int) -> None:
        happened.append("recorded")

    monkeypatch.setattr(PartialFile, "checkpoint", synced)
    arrival = Arrival(path, recorded, check=fine, give_up=lambda: False, clock=clock)
    arrivals.append(arrival)
    await arrival.write([b"x"])
    await arrival.checkpoint()
    assert happened == ["synced", "recorded"]


async def test_progress_is_written_at_most_every_two_seconds(
    arrival: Arrival, clock: Clock, books: Books
) -> None:
    for _ in range(20):  # 4 seconds, a write each 0.2
        clock.now += 0.2
        await arrival.write([b"x"])
        await arrival.keep_books()
    assert PROGRESS_SECONDS == 2.0
    assert 1 <= len(books.entries) <= 2
    assert all(checkpoint == 0 for _, checkpoint in books.entries)


async def test_progress_says_what_has_arrived_beside_what_is_on_disk(
    arrival: Arrival, clock: Clock, books: Books
) -> None:
    await arrival.write([b"on disk"])
    await arrival.checkpoint()
    await arrival.write([b", not yet"])
    clock.now += PROGRESS_SECONDS
    await arrival.keep_books()
    assert books.entries == [(7, 7), (16, 7)]


async def test_where_all_is_on_disk_there_is_nothing_to_checkpoint(
    arrival: Arrival, clock: Clock, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(partial: PartialFile) -> int:
        raise AssertionError("synced for nothing")

    monkeypatch.setattr(PartialFile, "checkpoint", sync)
    clock.now += 100 * CHECKPOINT_SECONDS
    assert arrival.checkpoint_in() is None
    await arrival.checkpoint()
    assert books.entries == []


# The end -----------------------------------------------------------------------------------------


async def test_it_lands_whole_and_leaves_no_partial_file(
    arrival: Arrival, path: Path, data_dir: Path
) -> None:
    await arrival.write([b"all ", b"of it"])
    await arrival.land(data_dir / "downloads" / "it")
    assert (data_dir / "downloads" / "it").read_bytes() == b"all of it"
    assert not path.exists()


async def test_given_back_to_be_kept_it_makes_room_and_says_what_is_left(
    arrival: Arrival, path: Path, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "ROOM", 6)
    await arrival.write([b"on disk"])
    await arrival.checkpoint()
    await arrival.write([b", and lost"])
    await arrival.give_back(keep=True)
    assert path.read_bytes() == b"on disk, and"[:11]
    assert books.entries[-1] == (11, 11)


async def test_given_back_for_good_it_is_removed(arrival: Arrival, path: Path) -> None:
    await arrival.write([b"wrong"])
    await arrival.give_back(keep=False)
    assert not path.exists()


async def test_closed_twice_it_lets_the_next_writer_in(arrival: Arrival, path: Path) -> None:
    await arrival.close()
    await arrival.close()
    PartialFile(path).replace()
