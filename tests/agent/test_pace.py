"""The rate is kept by all transfers together and by each, and each has its fair part."""

import asyncio
from collections import Counter

import pytest

from agent.pace import BURST_SECONDS, LEAST, Bucket, Pace, Share


class Time:
    """It passes only while somebody pauses, or where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def pause(self, woken: asyncio.Event, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


async def take(bucket: Bucket, length: int) -> None:
    await bucket.wait()
    bucket.pay(length)


@pytest.mark.parametrize("chunk", [100, 1000, 12_500])
async def test_over_any_time_the_rate_is_kept(time: Time, chunk: int) -> None:
    bucket = Bucket(100_000, time, time.pause)
    began = time.now
    for _ in range(100_000 // chunk):
        await take(bucket, chunk)
    assert time.now - began == pytest.approx(1.0, abs=BURST_SECONDS + chunk / 100_000)


async def test_a_pause_is_not_made_good_by_a_burst(time: Time) -> None:
    bucket = Bucket(100_000, time, time.pause)
    await take(bucket, 1)
    time.now += 3600
    began = time.now
    for _ in range(10):
        await take(bucket, 10_000)
    assert time.now - began >= 0.9 - BURST_SECONDS - 0.001


async def test_a_late_timer_is_made_good(time: Time) -> None:
    """Or each chunk would cost the rate what the machine is late by."""

    async def late(woken: asyncio.Event, seconds: float) -> None:
        time.now += seconds + 0.02

    bucket = Bucket(100_000, time, late)
    began = time.now
    for _ in range(100):
        await take(bucket, 10_000)
    assert time.now - began == pytest.approx(9.9, abs=0.05)


async def test_without_a_limit_nobody_waits(time: Time) -> None:
    bucket = Bucket(None, time, time.pause)
    await take(bucket, 2**40)
    assert time.now == 1000.0
    assert bucket.most(2**19) == 2**19


async def test_who_waits_for_the_old_rate_goes_on_at_the_new_one() -> None:
    bucket = Bucket(1)
    await take(bucket, 3600)
    waiting = asyncio.create_task(take(bucket, 1))
    await asyncio.sleep(0)
    bucket.change(10**9)
    async with asyncio.timeout(60):
        await waiting
    bucket.change(1)
    await take(bucket, 3600)
    waiting = asyncio.create_task(take(bucket, 1))
    await asyncio.sleep(0)
    bucket.change(None)
    async with asyncio.timeout(60):
        await waiting


async def test_after_a_fall_nobody_is_silent_for_what_went_before(time: Time) -> None:
    """Or the server would take a transfer that it has just told to be slow for one that hangs."""
    bucket = Bucket(10**7, time, time.pause)
    await take(bucket, 2**19)
    bucket.change(1024)
    began = time.now
    await bucket.wait()
    assert time.now - began == pytest.approx(2**19 / 10**7)


async def test_a_lower_rate_counts_from_the_change(time: Time) -> None:
    bucket = Bucket(None, time, time.pause)
    await take(bucket, 10**9)
    bucket.change(1000)
    began = time.now
    for _ in range(11):
        await take(bucket, 1000)
    assert time.now - began == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("rate", "most"),
    [(2**30, 2**19), (2**20, 2**16), (8 * LEAST, LEAST), (1024, LEAST)],
)
def test_chunks_are_short_in_time(rate: int, most: int) -> None:
    """So that at the least rate something still comes within the server's 40 s."""
    assert Bucket(rate).most(2**19) == most


def test_less_is_not_made_more() -> None:
    assert Bucket(1024).most(5) == 5
    assert Bucket(1024).most(0) == 0


async def send(
    share: Share, name: str, chunk: int, count: int, sent: "list[tuple[str, int]]"
) -> None:
    for _ in range(count):
        async with share:
            share.pay(chunk)
            sent.append((name, chunk))
            await asyncio.sleep(0)  # as a socket does that takes it in at once


@pytest.mark.parametrize("rate", [None, 2**20])
async def test_transfers_have_equal_parts_whatever_the_lengths_of_their_chunks(
    time: Time, rate: int | None
) -> None:
    pace = Pace(rate, time, time.pause)
    sent: list[tuple[str, int]] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(send(pace.share(), "long", 2**19, 100, sent))
        group.create_task(send(pace.share(), "short", 2**16, 800, sent))
        group.create_task(send(pace.share(), "odd", 50_000, 1048, sent))
    parts: Counter[str] = Counter()
    for name, chunk in sent[: len(sent) // 2]:
        parts[name] += chunk
    assert max(parts.values()) - min(parts.values()) <= 2 * 2**19, parts


async def test_a_small_file_goes_past_a_large_one() -> None:
    """However much the large one has sent before, and however long its chunks are."""
    pace = Pace()
    sent: list[tuple[str, int]] = []
    async with asyncio.TaskGroup() as group:
        large = group.create_task(send(pace.share(), "large", 2**19, 10_000, sent))
        while len(sent) < 50:
            await asyncio.sleep(0)
        began = len(sent)
        for number in range(10):
            group.create_task(send(pace.share(), f"small{number}", 2**12, 5, sent))
        while len([1 for name, _ in sent if name != "large"]) < 50:
            await asyncio.sleep(0)
        between = [name for name, _ in sent[began:] if name == "large"]
        large.cancel()
    assert len(between) <= 2


async def test_the_limit_of_one_transfer_holds_up_no_other(time: Time) -> None:
    pace = Pace(None, time, time.pause)
    slow, fast = pace.share(), pace.share()
    slow.limit(1)
    sent: list[tuple[str, int]] = []
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(send(slow, "slow", 10**6, 3, sent))
        await send(fast, "fast", 10**6, 100, sent)
        waiting.cancel()
    assert [name for name, _ in sent].count("fast") == 100


async def test_all_together_keep_the_rate_of_the_agent(time: Time) -> None:
    pace = Pace(1000, time, time.pause)
    began = time.now
    sent: list[tuple[str, int]] = []
    async with asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(send(pace.share(), name, 100, 25, sent))
    assert time.now - began == pytest.approx(9.9, abs=BURST_SECONDS)


async def test_who_is_cancelled_leaves_the_turn_to_the_others() -> None:
    """While it waits, in the very moment that its turn comes, and while it has it."""
    pace = Pace()
    for moment in range(12):
        sent: list[tuple[str, int]] = []
        others = [
            asyncio.create_task(send(pace.share(), f"other{n}", 10, 5, sent)) for n in range(2)
        ]
        doomed = asyncio.create_task(send(pace.share(), "doomed", 10, 5, sent))
        for _ in range(moment):
            await asyncio.sleep(0)
        doomed.cancel()
        async with asyncio.timeout(60):
            await asyncio.gather(*others)
        assert [name for name, _ in sent if name != "doomed"].count("other0") == 5
