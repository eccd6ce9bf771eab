"""Calls of one lane are made in order, and hold up no other lane."""

import threading
from concurrent.futures import CancelledError
from functools import partial

import pytest

from agent.in_order import InOrder

PATIENCE = 30


def test_calls_are_made_in_order_and_never_two_at_a_time() -> None:
    lane, made, inside = InOrder(), [], threading.Lock()

    def call(number: int) -> int:
        assert inside.acquire(blocking=False)
        made.append(number)
        inside.release()
        return -number

    results = [lane.submit(partial(call, number)) for number in range(200)]
    assert [result.result(PATIENCE) for result in results] == [-number for number in range(200)]
    assert made == list(range(200))


def test_a_lane_that_hangs_holds_up_no_other() -> None:
    hanging, others = InOrder(), [InOrder() for _ in range(40)]
    going_on = threading.Event()
    first, behind = hanging.submit(going_on.wait), hanging.submit(lambda: "behind")
    assert [lane.submit(lambda: "other").result(PATIENCE) for lane in others] == ["other"] * 40
    assert not behind.done()
    going_on.set()
    assert (first.result(PATIENCE), behind.result(PATIENCE)) == (True, "behind")


def test_what_a_call_raises_is_its_result_and_the_next_one_is_made() -> None:
    lane = InOrder()
    failed, following = lane.submit(lambda: 1 // 0), lane.submit(lambda: "made")
    with pytest.raises(ZeroDivisionError):
        failed.result(PATIENCE)
    assert following.result(PATIENCE) == "made"


def test_a_call_that_is_cancelled_before_its_turn_is_not_made() -> None:
    lane, made, going_on = InOrder(), [], threading.Event()
    lane.submit(going_on.wait)
    late = lane.submit(lambda: made.append("late"))
    assert late.cancel()
    last = lane.submit(lambda: made.append("last"))
    going_on.set()
    last.result(PATIENCE)
    assert made == ["last"]
    with pytest.raises(CancelledError):
        late.result(PATIENCE)
