"""A run can be repeated from its seed and number alone."""

from .draw import draw
from .faults import FAULTS
from .plan import CHECKPOINT, WINDOW

NAMES = list(FAULTS)


def test_a_run_is_the_same_whenever_it_is_drawn() -> None:
    alone = draw("7", 12, NAMES)
    assert [draw("7", number, NAMES) for number in range(1, 13)][-1] == alone
    assert alone != draw("8", 12, NAMES)


def test_every_fault_has_its_turn() -> None:
    assert {draw("7", number, NAMES).names[0] for number in range(1, len(NAMES) + 1)} == set(NAMES)


def test_two_faults_of_a_run_do_not_meddle_with_the_same_thing() -> None:
    pairs = [
        plan for plan in (draw("7", number, NAMES) for number in range(1, 200)) if plan.names[1:]
    ]
    assert len(pairs) > 20
    for plan in pairs:
        first, second = plan.strikes
        assert not first.fault.groups & second.fault.groups


def test_a_chosen_fault_comes_alone() -> None:
    assert draw("7", 3, ["cut"]).names == ("cut",)


def test_the_promise_of_two_faults_is_the_sum_of_theirs() -> None:
    names = ["server-killed", "cancelled"]
    plans = [draw("7", number, names) for number in range(1, 40)]
    promise = next(plan.promise for plan in plans if len(plan.names) == 2)
    assert promise.ends == {"completed", "cancelled"}
    assert promise.again == CHECKPOINT + WINDOW
