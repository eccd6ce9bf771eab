"""Putting right what a crash left behind, beside connections that are alive."""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection
from django.utils import timezone
from pytest_django import Settings

from tests.online import came_online
from tests.partials import create
from transfers import recovery, storage
from transfers.models import Client, Event, Status, Transfer, record
from transfers.recovery import ORPHAN_SECONDS, Report, at_start, sweep
from transfers.storage import PartialFile

SHA = "ab" * 32

Make = Callable[..., Transfer]


@pytest.fixture
def make(client1: Client) -> Make:
    def make(status: str, **values: Any) -> Transfer:
        return Transfer.objects.create(
            client=client1, status=status, epoch=5, duplicate=True, **values
        )

    return make


@pytest.fixture
def hold() -> Iterator[Callable[[Transfer], PartialFile]]:
    """Has a live connection write to a transfer's partial file."""
    held = []

    def hold(transfer: Transfer) -> PartialFile:
        held.append(create(transfer.partial_path))
        return held[-1]

    yield hold
    for partial in held:
        partial.close()


def status_of(transfer: Transfer) -> str:
    return Transfer.objects.get(pk=transfer.pk).status


def come_online(client: Client) -> None:
    came_online(client, platform="", hostname="", agent_version="")


def leave_partial(path: Path, age: float = 0) -> Path:
    path.write_bytes(b"bytes")
    os.utime(path, (time.time() - age,) * 2)
    return path


# Rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("checkpoint", "then"), [(0, "queued"), (64, "interrupted")])
def test_what_a_crash_left_receiving_waits_for_its_client(
    make: Make, checkpoint: int, then: str
) -> None:
    transfer = make("receiving", checkpoint=checkpoint)
    leave_partial(transfer.partial_path)
    assert sweep() == Report(interrupted=1)
    assert status_of(transfer) == then
    assert transfer.partial_path.exists()


def test_what_a_crash_left_after_the_rename_has_landed(make: Make, data_dir: Path) -> None:
    (data_dir / "downloads/f").touch()
    transfer = make("verifying", file="f", source_sha256=SHA, size=9)
    assert sweep() == Report(completed=1)
    transfer.refresh_from_db()
    assert (transfer.status, transfer.sha256, transfer.checkpoint) == ("completed", SHA, 9)


def test_a_landing_whose_connection_is_alive_is_left_to_it(
    make: Make, hold: Callable[[Transfer], PartialFile], data_dir: Path
) -> None:
    """Between the rename and the last change of the row."""
    transfer = make("verifying", file="f", source_sha256=SHA, size=9)
    hold(transfer).land(data_dir / "downloads/f")
    assert sweep() == Report()
    assert status_of(transfer) == "verifying"


def test_what_a_crash_left_before_the_rename_waits_for_its_client(
    make: Make, data_dir: Path
) -> None:
    transfer = make("verifying", file="f", checkpoint=64)
    leave_partial(transfer.partial_path)
    assert sweep() == Report(interrupted=1)
    assert status_of(transfer) == "interrupted"


def test_what_was_lost_whole_waits_for_its_client(make: Make) -> None:
    transfer = make("verifying", file="f", checkpoint=64)
    assert sweep() == Report(interrupted=1)
    assert status_of(transfer) == "interrupted"


@pytest.mark.parametrize("status", ["requested", "receiving", "verifying"])
def test_what_a_live_connection_writes_is_left_alone(
    make: Make, hold: Callable[[Transfer], PartialFile], status: str
) -> None:
    transfer = make(status, checkpoint=64)
    hold(transfer)
    assert sweep() == Report()
    assert status_of(transfer) == status


def test_what_an_agent_was_just_asked_for_is_left_alone(client1: Client, make: Make) -> None:
    come_online(client1)
    transfer = make("requested")
    assert sweep() == Report()
    assert status_of(transfer) == "requested"


def test_what_an_agent_is_about_to_send_is_left_alone(client1: Client, make: Make) -> None:
    """Whatever an earlier attempt has left: it gives way to the first bytes."""
    come_online(client1)
    transfer = make("receiving")
    leave_partial(transfer.partial_path)
    assert sweep() == Report()
    assert status_of(transfer) == "receiving"


def test_what_had_begun_and_nobody_writes_waits(client1: Client, make: Make) -> None:
    come_online(client1)
    transfer = make("receiving", received=9)
    assert sweep() == Report(interrupted=1)
    assert status_of(transfer) == "queued"


def test_what_an_agent_was_asked_for_before_it_left_waits(make: Make) -> None:
    transfer = make("requested")
    assert sweep() == Report(interrupted=1)
    assert status_of(transfer) == "queued"


@pytest.mark.parametrize("status", ["queued", "interrupted", "failed", "cancelled", "expired"])
def test_what_nobody_works_on_is_left_alone(make: Make, status: str) -> None:
    transfer = make(status)
    assert sweep() == Report()
    assert status_of(transfer) == status


def test_what_is_past_its_deadline_expires(make: Make) -> None:
    transfer = make("queued", deadline=timezone.now() - timedelta(seconds=1))
    assert sweep() == Report(expired=1)
    assert status_of(transfer) == "expired"


def test_a_connection_that_takes_a_row_on_meanwhile_has_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = make("receiving")

    def taken_on(row: Transfer) -> bool:
        Transfer.objects.filter(pk=row.pk).update(status=Status.REQUESTED, epoch=6)
        return False

    monkeypatch.setattr(Transfer, "is_being_written", property(taken_on))
    assert sweep() == Report()
    assert status_of(transfer) == "requested"


# Files -------------------------------------------------------------------------------------------


def test_landed_files_that_are_gone_are_reported(make: Make, data_dir: Path) -> None:
    (data_dir / "downloads/there").touch()
    make("completed", file="there")
    transfer = make("completed", file="gone")
    assert sweep() == Report(missing=("gone",))
    assert status_of(transfer) == "completed"


@pytest.mark.parametrize(
    ("status", "kept"),
    [(status, status not in ("failed", "cancelled", "expired", "completed")) for status in Status],
)
def test_an_old_partial_file_is_removed_when_its_transfer_has_ended(
    make: Make, data_dir: Path, status: str, kept: bool
) -> None:
    (data_dir / "downloads/f").touch()
    file = "f" if status == "completed" else None
    path = leave_partial(make(status, file=file).partial_path, age=ORPHAN_SECONDS + 60)
    assert sweep().removed == (not kept)
    assert path.exists() == kept


@pytest.mark.parametrize("status", Status)
def test_a_file_in_the_downloads_is_removed_when_its_transfer_ended_otherwise(
    make: Make, data_dir: Path, status: str
) -> None:
    """A crash, or a power loss, kept it after the rename."""
    path = leave_partial(data_dir / "downloads/f")
    make(status, file="f", source_sha256=SHA, size=5)
    removed = sweep().removed
    assert removed == (status in ("failed", "cancelled", "expired"))
    assert path.exists() == (not removed)


def test_a_file_in_the_downloads_that_a_live_connection_holds_is_left_to_it(
    make: Make, hold: Callable[[Transfer], PartialFile], data_dir: Path
) -> None:
    transfer = make("cancelled", file="f")
    hold(transfer).land(data_dir / "downloads/f")
    assert sweep() == Report()
    assert (data_dir / "downloads/f").exists()


@pytest.mark.django_db
@pytest.mark.parametrize("stem", ["5f0c3c8e-1d3a-4b8e-9a51-0d5f6a7b8c9d", "not-a-uuid"])
@pytest.mark.parametrize(
    ("age", "kept"), [(ORPHAN_SECONDS + 60, False), (ORPHAN_SECONDS - 60, True)]
)
def test_a_partial_file_without_a_transfer_is_removed_after_a_day(
    data_dir: Path, stem: str, age: int, kept: bool
) -> None:
    path = leave_partial(data_dir / f"partial/{stem}.part", age)
    assert sweep().removed == (not kept)
    assert path.exists() == kept


@pytest.mark.django_db
def test_other_files_are_left_alone(data_dir: Path) -> None:
    path = leave_partial(data_dir / "partial/notes.txt", age=2 * ORPHAN_SECONDS)
    assert sweep() == Report()
    assert path.exists()


def test_a_partial_file_that_somebody_writes_is_left_alone(
    make: Make, hold: Callable[[Transfer], PartialFile]
) -> None:
    transfer = make("failed")
    hold(transfer)
    os.utime(transfer.partial_path, (0, 0))
    assert sweep() == Report()
    assert transfer.partial_path.exists()


@pytest.mark.django_db
def test_a_partial_file_that_cannot_be_removed_stops_nothing(data_dir: Path) -> None:
    """Else one odd entry in `partial/` keeps the server from starting."""
    directory, link = data_dir / "partial/odd.part", data_dir / "partial/link.part"
    directory.mkdir()
    os.utime(directory, (0, 0))
    victim = leave_partial(data_dir / "victim", age=2 * ORPHAN_SECONDS)
    link.symlink_to(victim)
    (data_dir / "partial/broken.part").symlink_to(data_dir / "nowhere")
    orphan = leave_partial(data_dir / "partial/orphan.part", age=2 * ORPHAN_SECONDS)
    assert sweep() == Report(removed=1)
    assert not orphan.exists()
    assert victim.read_bytes() == b"bytes"
    assert directory.is_dir()


# At the start ------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_link_to_itself_stops_nothing(data_dir: Path) -> None:
    loop = data_dir / "partial/loop.part"
    loop.symlink_to(loop)
    assert sweep() == Report()


def test_a_report_is_a_sentence() -> None:
    assert str(Report(1, 2, 3, 4, 5, ("a", "b"))) == (
        "1 interrupted, 2 completed, 3 expired, 4 leftover files removed, "
        "5 old landed files removed, 2 landed files missing"
    )


@pytest.mark.django_db
def test_a_start_sweeps_and_says_what_it_did(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    transfer = make("receiving")
    monkeypatch.setattr(logging.getLogger("transfers"), "propagate", True)
    with caplog.at_level(logging.INFO, "transfers"):
        at_start()
    assert status_of(transfer) == "queued"
    assert f"Put right at start-up: {Report(interrupted=1)}" in caplog.messages


def synced_at_start(monkeypatch: pytest.MonkeyPatch, refused: Path, number: int) -> list[Path]:
    """The directories that a start has synced, before the one that it may not."""
    synced = []

    def refusing(directory: Path) -> None:
        if directory == refused:
            raise OSError(number, os.strerror(number))
        synced.append(directory)

    monkeypatch.setattr(storage, "sync_directory", refusing)
    at_start()
    return synced


@pytest.mark.django_db
def test_a_start_syncs_the_directories_up_to_one_that_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path, tmp_path: Path
) -> None:
    """As with systemd's `DynamicUser`: the data directory's parent is closed to the server's user."""
    assert synced_at_start(monkeypatch, tmp_path.parent, errno.EACCES) == [data_dir, tmp_path]


@pytest.mark.django_db
def test_a_start_syncs_the_directories_up_to_the_mount(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == data_dir)
    assert synced_at_start(monkeypatch, data_dir.parent, errno.EIO) == [data_dir]


def test_a_start_stops_on_a_data_directory_that_cannot_be_synced_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    with pytest.raises(ImproperlyConfigured, match="Set SILENTMODE_DATA_DIR to"):
        synced_at_start(monkeypatch, data_dir, errno.EINVAL)


def test_a_start_stops_on_a_deploy_mistake_with_what_to_do(settings: Settings) -> None:
    settings.WORKERS = 2
    with pytest.raises(ImproperlyConfigured, match=r"2 workers share no channel layer.*REDIS_URL"):
        at_start()


@pytest.mark.django_db
def test_a_start_stops_on_a_database_without_tables_with_what_to_do() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE transfers_transfer RENAME TO elsewhere")
    with pytest.raises(ImproperlyConfigured, match=r"not ready.*manage\.py migrate"):
        at_start()


def test_a_start_stops_on_a_database_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def down() -> Report:
        raise OperationalError("connection refused")

    monkeypatch.setattr(recovery, "sweep", down)
    with pytest.raises(ImproperlyConfigured, match="connection refused"):
        at_start()


def test_a_sweep_notes_the_end_of_the_audit_log(
    client1: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Where lines are kept elsewhere, that shows a log that was cut off at its end."""
    row = record(Event.REQUESTED, client=client1)
    with caplog.at_level(logging.INFO, "transfers"):
        sweep()
    assert f"The audit log ends with {row.number}:{row.digest}" in caplog.text
