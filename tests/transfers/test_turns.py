"""How many transfers at once, in all and of one client, and in which order."""

import pytest
from pytest_django import Settings

from transfers.turns import KEEPING_RATE, Seat, Turn, TurnOver, Turns, at_once, of_this_process

TURN_SECONDS = 600
"""By default."""


class Table:
    """Some turns, and a note of who was rung."""

    def __init__(self, most: int, per_client: int) -> None:
        self.turns = Turns(most, per_client)
        self.rung: list[str] = []
        self.now = 0.0

    def turn(self, client: str) -> Turn:
        """One that has been taken, and whose transfer has begun to arrive."""
        seat = self.seat(client)
        assert seat.take(1) == 1
        turn = seat.turn(lambda: self.now)
        turn.go_on(1)
        return turn

    def seat(self, client: str) -> Seat:
        return self.turns.seat(client, lambda: self.rung.append(client))


def test_a_client_gets_no_more_than_its_share() -> None:
    table = Table(most=10, per_client=3)
    assert table.seat("a").take(5) == 3
    assert table.seat("a").take(1) == 0, "on another connection, too"
    assert table.seat("b").take(1) == 1


def test_all_clients_get_no_more_than_there_are() -> None:
    table = Table(most=4, per_client=3)
    assert [table.seat(name).take(3) for name in "abc"] == [3, 1, 0]


def test_who_waits_is_rung_when_it_is_its_turn_and_has_it() -> None:
    table = Table(most=1, per_client=1)
    a, b, c = (table.seat(name) for name in "abc")
    assert [a.take(1), b.take(1)] == [1, 0]
    a.give_back()
    assert table.rung == ["b"]
    assert c.take(1) == 0, "it is promised"
    assert b.take(1) == 1


def test_a_client_with_many_waiting_does_not_starve_the_others() -> None:
    """One turn at a time, in the order of asking."""
    table = Table(most=2, per_client=2)
    busy, greedy, modest = (table.seat(name) for name in ("busy", "greedy", "modest"))
    assert busy.take(2) == 2
    assert greedy.take(2) == modest.take(1) == 0
    busy.give_back(2)
    assert table.rung == ["greedy", "modest"]
    assert (greedy.take(2), modest.take(1)) == (1, 1)


def test_a_client_at_its_share_does_not_hold_up_those_behind_it() -> None:
    table = Table(most=3, per_client=2)
    a, b, c = (table.seat(name) for name in "abc")
    assert (a.take(3), b.take(1)) == (2, 1)
    assert c.take(1) == 0
    b.give_back()
    assert table.rung == ["c"]
    a.give_back()
    assert table.rung == ["c", "a"]


def test_what_is_not_wanted_any_more_goes_to_the_next() -> None:
    table = Table(most=1, per_client=1)
    a, b, c = (table.seat(name) for name in "abc")
    a.take(1), b.take(1), c.take(1)
    a.give_back()
    assert b.take(0) == 0, "its transfer was cancelled"
    assert table.rung == ["b", "c"]
    c.leave()
    assert table.seat("d").take(1) == 1


def test_a_seat_that_is_left_waits_no_more() -> None:
    table = Table(most=1, per_client=1)
    a, b = (table.seat(name) for name in "ab")
    a.take(1), b.take(1)
    b.leave()
    a.give_back()
    assert table.rung == []


def test_windows_in_memory_are_turns(settings: Settings) -> None:
    settings.WINDOW = 8
    assert at_once(64, in_flight=80) == 10
    assert at_once(4, in_flight=80) == 4
    assert at_once(4, in_flight=7) == 1, "else none could ever begin; a system check says so"


def test_the_settings_bound_the_process(settings: Settings) -> None:
    settings.MAX_ACTIVE_TRANSFERS, settings.MAX_ACTIVE_PER_CLIENT = 3, 2
    turns = of_this_process()
    rings: list[None] = []
    assert turns.seat("a", lambda: rings.append(None)).take(9) == 2
    assert turns.seat("b", lambda: rings.append(None)).take(9) == 1


# A turn that is over


def test_a_slow_transfer_gives_its_turn_to_who_waits_once_it_had_it_for_a_while() -> None:
    table = Table(most=1, per_client=1)
    slow, waits = table.turn("slow"), table.seat("waits")
    waits.take(1)
    table.now = TURN_SECONDS - 1
    slow.go_on(1)
    table.now = TURN_SECONDS
    with pytest.raises(TurnOver):
        slow.go_on(1)
    slow.end()
    assert table.rung == ["waits"]


def test_nobody_gives_up_a_turn_for_nobody() -> None:
    table = Table(most=1, per_client=1)
    slow = table.turn("slow")
    table.now = 10 * TURN_SECONDS
    slow.go_on(1)


def test_who_brings_much_keeps_its_turn() -> None:
    table = Table(most=1, per_client=1)
    fast = table.turn("fast")
    table.seat("waits").take(1)
    table.now = TURN_SECONDS
    fast.go_on(TURN_SECONDS * KEEPING_RATE)
    table.now += 1
    with pytest.raises(TurnOver):
        fast.go_on(0)


def test_no_more_turns_are_given_up_than_there_are_who_wait() -> None:
    table = Table(most=3, per_client=2)
    first, second, third = (table.turn(name) for name in "abc")
    waits = table.seat("waits")
    waits.take(2)
    table.now = TURN_SECONDS
    with pytest.raises(TurnOver):
        first.go_on(0)
    second.go_on(0)
    first.end()
    assert waits.take(2) == 1
    with pytest.raises(TurnOver):
        second.go_on(0)
    third.go_on(0)


def test_for_a_client_that_has_its_share_no_other_gives_up_a_turn() -> None:
    table = Table(most=2, per_client=1)
    slow, greedy = table.turn("slow"), table.seat("greedy")
    assert greedy.take(2) == 1
    table.now = TURN_SECONDS
    slow.go_on(0)


def test_the_time_before_the_first_bytes_is_not_counted() -> None:
    """A large file is read again first, and has to get on after that, or it would never land."""
    table = Table(most=1, per_client=1)
    seat = table.seat("resumes")
    seat.take(1)
    turn = seat.turn(lambda: table.now)
    table.seat("waits").take(1)
    table.now = 10 * TURN_SECONDS
    turn.go_on(0)
    turn.go_on(1)
    table.now += TURN_SECONDS
    with pytest.raises(TurnOver):
        turn.go_on(1)


def test_turns_of_no_length_last_until_the_end(settings: Settings) -> None:
    settings.TURN_SECONDS = 0
    table = Table(most=1, per_client=1)
    slow = table.turn("slow")
    table.seat("waits").take(1)
    table.now = 10**6
    slow.go_on(1)
