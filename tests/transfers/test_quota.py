"""Bytes a day: counted as they are written, and waited for when they are used up."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from transfers.models import (
    Client,
    QuotaExceeded,
    Source,
    Status,
    Transfer,
    Usage,
    check_quota,
    request_file,
)
from transfers.models.usage import tomorrow, written_today
from transfers.recovery import sweep

pytestmark = pytest.mark.django_db


def offered(client: Client, size: int, path: str = "/file") -> Transfer:
    transfer = request_file(client, path=path)
    transfer.claim(epoch=1)
    transfer.offered(1, Source("file", size, "1"), 0)
    return transfer


def check(transfer: Transfer) -> None:
    check_quota(transfer, transfer.size or 0)


@pytest.fixture
def client2(db: None) -> Client:
    return Client.objects.create(id="client2", token_sha256="2")


def test_what_is_written_counts_for_its_client_and_its_day(
    client1: Client, client2: Client
) -> None:
    Usage.add("client1", 5)
    Usage.add("client1", 6)
    Usage.add("client2", 7)
    Usage.objects.create(client=client1, day=timezone.now().date() - timedelta(days=1), written=99)
    assert (written_today("client1"), written_today("client2"), written_today()) == (11, 7, 18)


def test_progress_is_counted_with_what_was_written_also_what_was_sent_again(
    client1: Client,
) -> None:
    transfer = offered(client1, 100)
    transfer.progressed(1, received=50, checkpoint=50, written=50)
    transfer.link_lost(1)
    transfer.claim(epoch=2)
    transfer.offered(2, Source("file", 100, "2"), 0)
    transfer.progressed(2, received=50, checkpoint=50, written=50)
    assert written_today("client1") == 100


def test_a_sweep_forgets_days_long_past(client1: Client) -> None:
    today = timezone.now().date()
    for days in (91, 90, 0):
        Usage.objects.create(client=client1, day=today - timedelta(days=days), written=days)
    sweep()
    assert sorted(Usage.objects.values_list("written", flat=True)) == [0, 90]


def test_there_is_no_quota_unless_it_is_set(client1: Client) -> None:
    check(offered(client1, 2**60))


@pytest.mark.parametrize("setting", ["BYTES_PER_DAY", "BYTES_PER_DAY_PER_CLIENT"])
def test_what_does_not_fit_into_today_waits(
    client1: Client, settings: Settings, setting: str
) -> None:
    setattr(settings, setting, 100)
    Usage.add("client1", 41)
    with pytest.raises(QuotaExceeded, match=f"SILENTMODE_{setting}") as exceeded:
        check(offered(client1, 60))
    assert exceeded.value.code == "quota_exceeded"


@pytest.mark.parametrize("setting", ["BYTES_PER_DAY", "BYTES_PER_DAY_PER_CLIENT"])
def test_a_file_larger_than_a_day_is_too_large(
    client1: Client, settings: Settings, setting: str
) -> None:
    setattr(settings, setting, 100)
    with pytest.raises(QuotaExceeded) as exceeded:
        check(offered(client1, 101))
    assert exceeded.value.code == "too_large"


def test_what_is_still_to_come_of_earlier_transfers_goes_first(
    client1: Client, settings: Settings
) -> None:
    settings.BYTES_PER_DAY_PER_CLIENT = 100
    first, second = offered(client1, 60, "/1"), offered(client1, 60, "/2")
    check(first)
    with pytest.raises(QuotaExceeded):
        check(second)


def test_what_others_have_promised_keeps_nobody_from_the_day(
    client1: Client, client2: Client, settings: Settings
) -> None:
    settings.BYTES_PER_DAY = 100
    check(offered(client1, 90))
    check(offered(client2, 90))


def test_what_is_told_of_a_quota_has_no_numbers_of_other_clients(
    client1: Client, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.BYTES_PER_DAY = 100
    Usage.add("client1", 41)
    with pytest.raises(QuotaExceeded) as exceeded:
        check(offered(client1, 60))
    assert not re.search(r"\d", str(exceeded.value).replace("client1", ""))
    assert "41 bytes came today" in caplog.text


def test_the_quota_of_one_client_is_no_other_clients(
    client1: Client, client2: Client, settings: Settings
) -> None:
    settings.BYTES_PER_DAY_PER_CLIENT = 100
    Usage.add("client1", 100)
    check(offered(client2, 100))


def test_a_used_up_quota_waits_for_the_next_day_and_costs_no_attempt(
    client1: Client, settings: Settings
) -> None:
    settings.RETRIES = 0
    transfer = offered(client1, 60)
    transfer.fail(1, "quota_exceeded", "later")
    assert (transfer.status, transfer.setbacks) == (Status.QUEUED, 0)
    assert transfer.error_code == "quota_exceeded"
    assert transfer.next_attempt_at == tomorrow(timezone.now())
    assert not Transfer.objects.waiting_for("client1", 1).exists()


@pytest.mark.parametrize(
    "now",
    [datetime(2026, 11, 23, 0, 0, tzinfo=UTC), datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC)],
)
def test_the_next_day_begins_at_midnight_utc(now: datetime) -> None:
    assert tomorrow(now) == datetime(2026, 11, 24, tzinfo=UTC)
