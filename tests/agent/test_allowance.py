"""A burst goes through at once, and from then on as many a second as there may be."""

import pytest

from agent.gate.allowance import Allowance


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def test_a_burst_waits_for_nothing_and_what_is_beyond_it_for_its_turn() -> None:
    clock = Clock()
    allowance = Allowance(100, 10, clock, clock.sleep)
    for _ in range(100):
        await allowance.take()
    assert clock.now == pytest.approx(1000)
    for _ in range(50):
        await allowance.take()
    assert clock.now == pytest.approx(1005)


async def test_a_pause_gives_a_burst_again_and_no_more() -> None:
    clock = Clock()
    allowance = Allowance(100, 10, clock, clock.sleep)
    clock.now += 1e6
    for _ in range(110):
        await allowance.take()
    assert clock.now == pytest.approx(1e6 + 1001)
