"""Calls that come at once, made together."""

import asyncio
import threading

import pytest
from django.db import DataError, OperationalError

from transfers.together import Together

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE = 20.0


class Calls:
    """What was asked together; each number is answered with its double."""

    def __init__(self) -> None:
        self.made: list[list[int]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, numbers: list[int]) -> list[int | Exception]:
        self.made.append(numbers)
        assert self.go_on.wait(PATIENCE)
        if any(number < 0 for number in numbers):
            raise DataError("the database takes no such number")
        if 99 in numbers:
            raise OperationalError("the database is away")
        return [ValueError(f"{number} is odd") if number % 2 else 2 * number for number in numbers]


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def double(calls: Calls) -> Together[int, int]:
    return Together(calls)


async def test_who_comes_while_a_call_is_under_way_is_in_the_next_one(
    calls: Calls, double: Together[int, int]
) -> None:
    calls.go_on.clear()
    first = asyncio.create_task(double(0))
    async with asyncio.timeout(PATIENCE):
        while not calls.made:
            await asyncio.sleep(0.01)
    others = [asyncio.create_task(double(number)) for number in (2, 4, 6)]
    await asyncio.sleep(0)
    calls.go_on.set()
    assert await asyncio.gather(first, *others) == [0, 4, 8, 12]
    assert calls.made == [[0], [2, 4, 6]]
    assert await double(8) == 16


async def test_each_has_its_own_answer(double: Together[int, int]) -> None:
    answers = await asyncio.gather(*map(double, (0, 1, 2)), return_exceptions=True)
    assert list(map(str, answers)) == ["0", "1 is odd", "4"]


async def test_what_the_database_does_not_take_of_one_harms_no_other(
    calls: Calls, double: Together[int, int]
) -> None:
    answers = await asyncio.gather(*map(double, (2, -1, 4)), return_exceptions=True)
    assert [answers[0], answers[2]] == [4, 8]
    assert isinstance(answers[1], DataError)
    assert calls.made == [[2, -1, 4], [2], [-1], [4]]


async def test_a_database_that_is_away_is_not_asked_for_each(
    calls: Calls, double: Together[int, int]
) -> None:
    answers = await asyncio.gather(*map(double, (2, 99, 4)), return_exceptions=True)
    assert all(isinstance(answer, OperationalError) for answer in answers)
    assert calls.made == [[2, 99, 4]]


async def test_who_got_in_the_way_of_another_transaction_is_asked_for_again(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ends one of two that wait for each other (deadlock_detected)."""

    class Deadlock(Exception):
        sqlstate = "40P01"

    def once(numbers: list[int]) -> list[int | Exception]:
        if len(numbers) > 1:
            raise OperationalError("deadlock detected") from Deadlock()
        return calls(numbers)

    double = Together[int, int](once)
    assert await asyncio.gather(*map(double, (2, 4))) == [4, 8]


async def test_nothing_is_asked_for_who_has_left(calls: Calls, double: Together[int, int]) -> None:
    tasks = [asyncio.create_task(double(number)) for number in (2, 4)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert await tasks[1] == 8
    assert calls.made == [[4]]


async def test_so_many_in_one_call_and_no_more(
    calls: Calls,
) -> None:
    double = Together[int, int](calls, 2)
    assert await asyncio.gather(*map(double, (0, 2, 4, 6, 8))) == [0, 4, 8, 12, 16]
    assert calls.made == [[0, 2], [4, 6], [8]]
