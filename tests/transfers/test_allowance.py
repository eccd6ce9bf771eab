"""So many at once, and so many a second on average."""

from transfers.allowance import Allowance


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_allowed_and_then_so_many_a_second() -> None:
    time = Time()
    allowance = Allowance(5, 1.0, time)
    assert [allowance.take() for _ in range(7)] == [True] * 5 + [False] * 2
    assert allowance.seconds_until() == 1.0
    time.now += 2.5
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    assert allowance.seconds_until() == 0.5


def test_a_long_rest_allows_no_more_than_a_burst() -> None:
    time = Time()
    allowance = Allowance(2, 10.0, time)
    time.now += 1000
    assert [allowance.take() for _ in range(3)] == [True, True, False]
