"""When a client was online: kept as its leases end, and shown on its page."""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from transfers.console import online as online_module
from transfers.console.online import WIDTH, Absence, Online
from transfers.models import Arrived, Client, Presence, all_came_online, all_seen, enrol, make_code
from transfers.models.presence import KEPT
from transfers.recovery import sweep
from transfers.units import share

pytestmark = pytest.mark.django_db

NOW = timezone.now().replace(second=0, microsecond=0)

HOUR = timedelta(hours=1)


def approx(value: float, rel: float | None = None) -> Any:
    """What is shown ends with the minute that has begun."""
    return pytest.approx(value, rel=rel or 1e-3, abs=0.1)


At = Callable[[datetime], None]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Sets the clock of clients."""
    return lambda now: monkeypatch.setattr(timezone, "now", lambda: now)


def arrive(client: Client) -> Client:
    [answer] = all_came_online([Arrived(client, "", "", "")])
    assert isinstance(answer, Client)
    return answer


def hear(client: Client, when: datetime) -> None:
    all_seen([(client.pk, client.epoch, when)])


def leave(client: Client) -> None:
    client.went_offline(client.epoch)


def kept(client: Client) -> list[tuple[datetime, datetime]]:
    return list(client.presences.order_by("ended").values_list("begun", "ended"))


# What is kept ------------------------------------------------------------------------------------


def test_a_time_online_is_kept_once_the_next_one_begins(client1: Client, at: At) -> None:
    at(NOW)
    client = arrive(client1)
    assert (client.online_since, kept(client1)) == (NOW, [])
    at(NOW + HOUR)
    hear(client, NOW + HOUR)
    leave(client)
    at(NOW + 3 * HOUR)
    client = arrive(client1)
    assert (client.online_since, kept(client1)) == (NOW + 3 * HOUR, [(NOW, NOW + HOUR)])
    client1.refresh_from_db()
    assert client1.online_since == NOW + 3 * HOUR


def test_a_lost_link_and_a_newer_connection_interrupt_nothing(client1: Client, at: At) -> None:
    at(NOW)
    first = arrive(client1)
    second = arrive(first)
    at(NOW + HOUR)
    hear(second, NOW + HOUR)
    leave(second)
    at(NOW + HOUR + timedelta(seconds=10))
    third = arrive(client1)
    assert (third.online_since, kept(client1)) == (NOW, [])


def test_who_fell_silent_was_online_until_its_lease_ended(client1: Client, at: At) -> None:
    at(NOW)
    lease = arrive(client1).online_until
    assert lease is not None
    at(NOW + HOUR)
    arrive(client1)
    assert kept(client1) == [(NOW, lease)]


def test_a_link_that_is_found_dead_late_was_not_online_until_then(client1: Client, at: At) -> None:
    at(NOW)
    client = arrive(client1)
    lease = client.online_until
    at(NOW + HOUR)
    leave(client)
    at(NOW + HOUR + timedelta(seconds=5))
    arrive(client1)
    assert kept(client1) == [(NOW, lease)]


def test_who_enrols_anew_was_not_online_until_then(client1: Client, at: At) -> None:
    at(NOW)
    lease = arrive(client1).online_until
    at(NOW + HOUR)
    code = make_code(client1, HOUR)
    client = enrol(code, hashlib.sha256(b"new").hexdigest())
    at(NOW + HOUR + timedelta(seconds=5))
    arrive(client)
    assert kept(client1) == [(NOW, lease)]


def test_many_that_come_at_once_have_each_its_own(client1: Client, at: At) -> None:
    at(NOW)
    other = Client.objects.create(id="other", token_sha256="1" * 64)
    never = Client.objects.create(id="never", token_sha256="2" * 64)
    lease = arrive(client1).online_until
    arrive(other)
    at(NOW + HOUR)
    all_came_online([Arrived(each, "", "", "") for each in (client1, never, other)])
    assert (kept(client1), kept(other), kept(never)) == ([(NOW, lease)], [(NOW, lease)], [])


def test_what_is_old_is_forgotten(client1: Client) -> None:
    """Of each client, all but the last: what follows it is a time away, and not one that nobody knows."""
    other = Client.objects.create(id="other", token_sha256="1" * 64)
    ages = KEPT + 2 * HOUR, KEPT + HOUR, KEPT - HOUR
    for client in (client1, other):
        for age in ages:
            ended = timezone.now() - age
            Presence.objects.create(client=client, begun=ended - HOUR, ended=ended)
    sweep()
    for client in (client1, other):
        left = [round((timezone.now() - ended) / HOUR) for _, ended in kept(client)]
        assert left == [round(age / HOUR) for age in ages[1:]]


# What is shown -----------------------------------------------------------------------------------


def was_online(client: Client, *hours_ago: tuple[float, float]) -> None:
    for begun, ended in hours_ago:
        Presence.objects.create(client=client, begun=NOW - begun * HOUR, ended=NOW - ended * HOUR)


@pytest.fixture
def known(client1: Client) -> Client:
    """Online for an hour now."""
    client1.online_since, client1.online_until = NOW - HOUR, NOW + HOUR
    return client1


def test_a_client_that_was_never_there(client1: Client) -> None:
    online = Online(client1, NOW)
    assert (online.is_known, online.bars, online.absences) == (False, [], [])


def test_times_away_are_told_first_the_newest(known: Client) -> None:
    was_online(known, (90, 50), (40, 3))
    absences = Online(known, NOW).absences
    assert [(each.begun, each.ended) for each in absences] == [
        (NOW - 3 * HOUR, NOW - HOUR),
        (NOW - 50 * HOUR, NOW - 40 * HOUR),
    ]
    assert absences[0].seconds == 2 * 3600


def test_who_is_away_now_is_away_without_an_end(known: Client) -> None:
    known.online_until = NOW - timedelta(minutes=30)
    (absence,) = Online(known, NOW).absences
    assert absence == Absence(NOW - timedelta(minutes=30), None)


def test_the_share_is_of_the_time_that_is_shown_or_that_it_is_known(known: Client) -> None:
    was_online(known, (200, 85))  # for 83 of the 168 hours that are shown
    online = Online(known, NOW)
    assert (online.percent, online.known_since) == (approx(100 * 84 / 168), online.begun)
    Presence.objects.all().delete()
    was_online(known, (4, 3))
    online = Online(known, NOW)
    assert (online.percent, online.known_since) == (approx(50, 0.01), NOW - 4 * HOUR)
    assert float(online.unknown_width) == approx(WIDTH * 164 / 168)


def test_the_bar_shows_seven_days_and_nothing_too_thin_to_be_seen(known: Client) -> None:
    was_online(known, (300, 84), (24, 23.999))
    bars = [(float(x), float(width)) for x, width in Online(known, NOW).bars]
    assert bars[0] == (0, approx(WIDTH / 2))
    assert bars[1] == (approx(WIDTH - 100), 0.5)
    assert sum(bars[2]) == approx(WIDTH)


def test_who_is_away_for_longer_than_is_shown_is_away(known: Client) -> None:
    known.online_since, known.online_until = NOW - 200 * HOUR, NOW - 190 * HOUR
    was_online(known, (400, 300))
    online = Online(known, NOW)
    assert (online.percent, online.bars, online.is_known) == (0, [], True)
    assert online.absences == [Absence(NOW - 190 * HOUR, None)]


def test_a_time_away_that_began_before_what_is_shown_is_told_whole(known: Client) -> None:
    was_online(known, (400, 300), (280, 200))
    online = Online(known, NOW)
    assert online.absences == [Absence(NOW - 200 * HOUR, NOW - HOUR)]
    assert online.percent == approx(100 / 168)


def test_before_the_first_record_it_was_not_away(known: Client) -> None:
    online = Online(known, NOW)
    assert (online.absences, online.known_since, online.percent) == ([], NOW - HOUR, 100)


def test_the_share_of_who_came_a_moment_ago_is_of_that_moment(client1: Client) -> None:
    """And not of the minute that the picture ends with."""
    now = NOW + timedelta(seconds=1)
    client1.online_since, client1.online_until = now - timedelta(seconds=30), now
    assert Online(client1, now).percent == 100
    client1.online_since = client1.online_until = now + timedelta(
        minutes=1
    )  # by a clock that is ahead
    assert Online(client1, now).percent == 0


def test_of_who_comes_and_goes_all_day_the_page_stays_small(
    known: Client, django_assert_max_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    minute = 1 / 60
    was_online(known, *((2 + 4 * minute * n, 2 + 4 * minute * n - minute) for n in range(600)))
    with django_assert_max_num_queries(2):
        online = Online(known, NOW)
        assert len(online.absences) == 10
    assert len(online.bars) == 2, "what touches in the picture is one"
    monkeypatch.setattr(online_module, "MOST_TIMES", 500)
    online = Online(known, NOW)
    assert online.known_since == NOW - timedelta(hours=2, minutes=4 * 499)
    assert online.percent == approx(100 * (60 + 500) / (120 + 4 * 499), rel=0.01)


def test_the_picture_changes_once_a_minute_at_most(known: Client) -> None:
    was_online(known, (400, 3))
    moments = [Online(known, NOW.replace(second=second)) for second in range(0, 60, 7)]
    assert len({str((online.bars, online.unknown_width)) for online in moments}) == 1
    assert len({share(online.percent) for online in moments}) == 1
