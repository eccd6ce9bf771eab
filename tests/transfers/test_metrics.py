"""What Prometheus reads: as the rows are, and as this process has counted."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import DjangoCaptureOnCommitCallbacks

from transfers.models import Client, Transfer

pytestmark = pytest.mark.django_db

DASHBOARD = Path(__file__).parents[2] / "docs/grafana.json"

Figures = dict[tuple[str, frozenset[str]], float]


def figures() -> Figures:
    """Each value by its name and the values of its labels."""
    browser = Browser()
    browser.force_login(User.objects.get_or_create(username="boss", is_superuser=True)[0])
    answer = browser.get("/metrics")
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }


def of(found: Figures, name: str, *labels: str) -> float:
    return found.get((name, frozenset(labels)), 0.0)


def test_clients_and_transfers_are_counted_as_the_rows_are(client1: Client) -> None:
    now = timezone.now()
    soon = now + timedelta(minutes=1)
    Client.objects.create(id="there", token_sha256="1" * 64, online_until=soon)
    Client.objects.create(id="revoked", token_sha256="2" * 64, online_until=soon, revoked_at=now)
    long_ago = now - timedelta(hours=1)
    for status, client in (
        ("queued", "client1"),
        ("queued", "revoked"),
        ("queued", "there"),
        ("completed", "there"),
    ):
        Transfer.objects.create(
            client_id=client, status=status, duplicate=True,
            created_at=now - timedelta(minutes=1) if client == "there" else long_ago,
        )  # fmt: skip
    found = figures()
    assert of(found, "silentmode_clients") == 3
    assert of(found, "silentmode_clients_online") == 1
    assert of(found, "silentmode_transfers", "queued") == 3
    assert of(found, "silentmode_transfers", "completed") == 1
    assert of(found, "silentmode_transfers", "failed") == 0
    assert of(found, "silentmode_oldest_waiting_seconds", "online") == pytest.approx(60, abs=30)
    assert of(found, "silentmode_oldest_waiting_seconds", "offline") == pytest.approx(3600, abs=30)


def test_ends_are_counted_by_status_and_code_and_only_once_they_are_on_record(
    client1: Client, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    before = figures()

    def more(name: str, *labels: str) -> float:
        return of(figures(), name, *labels) - of(before, name, *labels)

    begun = timezone.now() - timedelta(seconds=3)
    landing = Transfer.objects.create(
        client=client1, status="verifying", epoch=1, size=5000, source_sha256="ab" * 32,
        started_at=begun, duplicate=True,
    )  # fmt: skip
    failing = Transfer.objects.create(client=client1, status="requested", epoch=1, duplicate=True)
    losing = Transfer.objects.create(client=client1, status="requested", epoch=1, duplicate=True)
    with django_capture_on_commit_callbacks(execute=True):
        landing.landed(1)
        failing.fail(1, "forbidden")
        losing.link_lost(1)
        assert more("silentmode_transfers_ended_total", "completed", "") == 0
    assert more("silentmode_transfers_ended_total", "completed", "") == 1
    assert more("silentmode_transfers_ended_total", "failed", "forbidden") == 1
    assert more("silentmode_attempts_ended_total", "forbidden") == 1
    assert more("silentmode_attempts_ended_total", "link_lost") == 1
    assert more("silentmode_transfer_seconds_count") == 1
    assert more("silentmode_transfer_seconds_bucket", "5.0") == 1
    assert more("silentmode_transfer_seconds_bucket", "1.0") == 0
    assert more("silentmode_transfer_bytes_sum") == 5000


def test_the_dashboard_asks_for_nothing_that_there_is_not() -> None:
    names = {name.removesuffix("_created") for name, _ in figures()}
    names |= {
        "silentmode_transfers_ended_total",
        "silentmode_attempts_ended_total",
    }  # once there is one
    queries = [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel["targets"]
    ]
    assert len(queries) >= 8
    for query in queries:
        assert any(name in query for name in names), query
