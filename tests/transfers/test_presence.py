"""When a client was online: kept as its leases end, and shown on its page."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from transfers.console.online import WIDTH, Online
from transfers.models import Arrived, Client, Presence
from transfers.models.presence import KEPT
from transfers.recovery import sweep

pytestmark = pytest.mark.django_db

NOW = timezone.now().replace(microsecond=0)

HOUR = timedelta(hours=1)

At = Callable[[datetime], None]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Sets the clock of clients."""
    return lambda now: monkeypatch.setattr(timezone, "now", lambda: now)


def arrive(client: Client) -> Client:
    [answer] = Client.all_came_online([Arrived(client, "", "", "")])
    assert isinstance(answer, Client)
    return answer


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


def test_many_that_come_at_once_have_each_its_own(client1: Client, at: At) -> None:
    at(NOW)
    other = Client.objects.create(id="other", token_sha256="1" * 64)
    never = Client.objects.create(id="never", token_sha256="2" * 64)
    lease = arrive(client1).online_until
    arrive(other)
    at(NOW + HOUR)
    Client.all_came_online([Arrived(each, "", "", "") for each in (client1, never, other)])
    assert (kept(client1), kept(other), kept(never)) == ([(NOW, lease)], [(NOW, lease)], [])


def test_what_is_old_is_forgotten(client1: Client) -> None:
    for age in (KEPT + HOUR, KEPT - HOUR):
        ended = timezone.now() - age
        Presence.objects.create(client=client1, begun=ended - HOUR, ended=ended)
    sweep()
    assert Presence.objects.count() == 1


# What is shown -----------------------------------------------------------------------------------


def was_online(client: Client, *hours_ago: tuple[float, float]) -> None:
    for begun, ended in hours_ago:
        Presence.objects.create(client=client, begun=NOW - begun * HOUR, ended=NOW - ended * HOUR)


@pytest.fixture
def known(client1: Client) -> Client:
    """For two weeks; online for an hour now."""
    client1.created_at = NOW - timedelta(days=14)
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
    assert (absence.begun, absence.ended, absence.seconds) == (known.online_until, None, 1800)


def test_the_share_is_of_the_time_that_is_shown_or_that_it_is_known(known: Client) -> None:
    was_online(known, (200, 85))  # for 83 of the 168 hours that are shown
    assert Online(known, NOW).percent == pytest.approx(100 * 84 / 168)
    known.created_at = NOW - 2 * HOUR
    Presence.objects.all().delete()
    assert Online(known, NOW).percent == pytest.approx(50)


def test_the_bar_shows_seven_days_and_nothing_too_thin_to_be_seen(known: Client) -> None:
    was_online(known, (300, 84), (24, 23.999))
    bars = [(float(x), float(width)) for x, width in Online(known, NOW).bars]
    assert bars[0] == (0, WIDTH / 2)
    assert bars[1] == (WIDTH - 100, 0.5)
    assert sum(bars[2]) == pytest.approx(WIDTH, abs=0.1)
