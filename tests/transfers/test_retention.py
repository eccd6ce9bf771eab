"""How long landed files are kept: `SILENTMODE_KEEP_DAYS`, a sweep, and a hold that keeps one."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from knox.models import AuthToken
from pytest_django import Settings
from rest_framework.test import APIClient

from transfers.models import AuditRecord, Client, Event, Status, StatusConflict, Transfer
from transfers.recovery import sweep

Land = Callable[..., Transfer]


@pytest.fixture
def land(client1: Client, data_dir: Path) -> Land:
    """A transfer that has landed so many days ago."""

    def land(days: float, **values: Any) -> Transfer:
        number = Transfer.objects.count()
        (data_dir / f"downloads/file{number}").write_bytes(b"landed")
        return Transfer.objects.create(
            client=client1,
            status=Status.COMPLETED,
            file=f"file{number}",
            sha256="ab" * 32,
            finished_at=timezone.now() - timedelta(days=days),
            **values,
        )

    return land


@pytest.fixture
def api(operator: User) -> APIClient:
    _, token = AuthToken.objects.create(operator)
    return APIClient(headers={"Authorization": f"Token {token}"})


def is_there(transfer: Transfer) -> bool:
    assert transfer.landed_path is not None
    return transfer.landed_path.exists()


def test_landed_files_are_kept_for_ever_by_default(land: Land) -> None:
    old = land(10_000)
    assert sweep().aged == 0
    assert is_there(old)


def test_a_sweep_removes_what_is_older_than_it_is_kept(land: Land, settings: Settings) -> None:
    settings.KEEP_DAYS = 30
    old, young = land(30.1), land(29.9)
    report = sweep()
    assert (report.aged, report.missing) == (1, ())
    assert (is_there(old), is_there(young)) == (False, True)
    old.refresh_from_db()
    assert old.status == "completed"
    assert old.removed_at is not None
    assert AuditRecord.objects.get(event=Event.REMOVED).details == {"file": old.file}
    assert sweep().aged == 0


def test_a_held_file_is_kept_however_old_it_is(land: Land, settings: Settings) -> None:
    settings.KEEP_DAYS = 1
    held = land(100)
    held.hold(held=True)
    assert sweep().aged == 0
    assert is_there(held)
    held.hold(held=False)
    assert sweep().aged == 1
    assert not is_there(held)


def test_a_file_that_somebody_has_just_taken_hold_of_is_kept(land: Land) -> None:
    transfer = land(100)
    Transfer.objects.get().hold(held=True)
    assert transfer.remove_landed(timezone.now()) is False  # this object is from before the hold
    assert is_there(transfer)


def test_a_file_that_cannot_be_removed_is_still_on_record(
    land: Land,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.KEEP_DAYS = 1
    transfer = land(100)

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    caplog.set_level("WARNING", "transfers")
    assert sweep().aged == 0
    transfer.refresh_from_db()
    assert transfer.removed_at is None
    assert not AuditRecord.objects.filter(event=Event.REMOVED).exists()


def test_hold_and_release_by_api(api: APIClient, land: Land) -> None:
    url = f"/api/v1/transfers/{land(1).pk}/"
    for verb, held, events in (("hold", True, 1), ("hold", True, 1), ("release", False, 2)):
        assert api.post(f"{url}{verb}/").json()["held"] is held
        assert AuditRecord.objects.filter(event__in=["held", "released"]).count() == events


@pytest.mark.parametrize("status", ["queued", "failed"])
def test_only_a_landed_file_can_be_held(api: APIClient, client1: Client, status: str) -> None:
    transfer = Transfer.objects.create(client=client1, status=status)
    with pytest.raises(StatusConflict, match="no landed file"):
        transfer.hold(held=True)
    answer = api.post(f"/api/v1/transfers/{transfer.pk}/hold/")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_a_removed_file_is_told_as_gone(api: APIClient, land: Land, settings: Settings) -> None:
    settings.KEEP_DAYS = 1
    transfer = land(100)
    sweep()
    answer = api.get(f"/api/v1/transfers/{transfer.pk}/content/")
    assert (answer.status_code, answer.json()["code"]) == (410, "removed")
    assert api.get(f"/api/v1/transfers/{transfer.pk}/").json()["removed_at"] is not None
    assert api.post(f"/api/v1/transfers/{transfer.pk}/hold/").status_code == 409
