"""Clients and transfers: which changes are allowed, and who wins when two want one."""

import errno
import logging
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from agent.wire.errors import ERRORS
from tests.online import came_online
from tests.partials import create
from transfers import dispatch, storage
from transfers.models import (
    ACTIVE,
    ALLOWED,
    FINAL,
    LEASE,
    MAX_SOURCE_CHANGES,
    PENDING,
    Arrived,
    Client,
    Source,
    Status,
    StatusConflict,
    Transfer,
    all_came_online,
    all_seen,
    is_client_id,
    request_file,
)
from transfers.recovery import sweep

NOW = datetime(2026, 11, 23, 6, 32, tzinfo=UTC)
SHA = "ab" * 32

TABLE = {
    "queued": "requested failed cancelled expired",
    "requested": "queued receiving verifying interrupted failed cancelled expired",
    "receiving": "queued verifying interrupted failed cancelled expired",
    "interrupted": "requested failed cancelled expired",
    "verifying": "completed queued interrupted failed cancelled expired",
    "completed": "",
    "failed": "queued",
    "cancelled": "",
    "expired": "",
}
"""The moves of design section 4, written down a second time; and one for what comes whole at once."""

Make = Callable[..., Transfer]


@pytest.fixture
def make(client1: Client) -> Make:
    """Makes a transfer of `client1`, held by the connection of epoch 5."""

    def make(status: str = "queued", **values: Any) -> Transfer:
        return Transfer.objects.create(
            **{"client": client1, "status": status, "epoch": 5, "duplicate": True} | values
        )

    return make


@pytest.fixture
def rings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clients that were rung for."""
    rung: list[str] = []
    monkeypatch.setattr(dispatch, "ring_from_sync", rung.append)
    return rung


def row(transfer: Transfer) -> dict[str, Any]:
    return dict(Transfer.objects.filter(pk=transfer.pk).values().get())


# The status table --------------------------------------------------------------------------------


@pytest.mark.parametrize("old", Status.values)
@pytest.mark.parametrize("new", Status.values)
def test_a_status_changes_only_as_the_table_says(make: Make, old: str, new: str) -> None:
    transfer = make(old)
    before = row(transfer)
    if new in TABLE[old].split():
        transfer._move(Status(new), holder=5)
        assert transfer.status == new
        assert row(transfer) == before | {"status": new}
        return
    with pytest.raises(StatusConflict, match=rf"is {old}; it cannot become {new}") as conflict:
        transfer._move(Status(new), holder=5)
    assert conflict.value.status == old
    assert row(transfer) == before


def test_every_status_is_in_the_table_and_in_one_group() -> None:
    assert set(ALLOWED) == set(Status)
    assert sorted([*PENDING, *ACTIVE, *FINAL]) == sorted(Status)


def test_what_is_final_stays_so_but_for_a_retry_of_what_failed() -> None:
    assert {status for status in FINAL if ALLOWED[status]} == {Status.FAILED}


def test_a_transfer_knows_whether_it_is_final(make: Make) -> None:
    assert {status for status in Status if make(status).is_final} == FINAL


def _wear_out(transfer: Transfer, epoch: int) -> None:
    transfer.source_changes = MAX_SOURCE_CHANGES
    transfer.source_changed(epoch, "changed")


Verb = Callable[[Transfer, int], object]
HELD_VERBS: dict[str, tuple[str, Verb]] = {
    "offered": (
        "requested",
        lambda t, epoch: t.offered(epoch, Source("a", 9, "f"), 0),
    ),
    "progressed": ("receiving", lambda t, epoch: t.progressed(epoch, received=9, checkpoint=8)),
    "source_changed": ("receiving", lambda t, epoch: t.source_changed(epoch, "changed")),
    "source_changed_again": ("receiving", _wear_out),
    "verified": ("receiving", lambda t, epoch: t.verified(epoch, sha256=SHA)),
    "landed": ("verifying", lambda t, epoch: t.landed(epoch)),
    "fail": ("receiving", lambda t, epoch: t.fail(epoch, "internal")),
    "link_lost": ("receiving", lambda t, epoch: t.link_lost(epoch)),
}


@pytest.mark.parametrize(("status", "verb"), HELD_VERBS.values(), ids=HELD_VERBS)
@pytest.mark.parametrize("epoch", [4, 6])
def test_only_the_connection_that_holds_a_transfer_changes_it(
    make: Make, status: str, verb: Verb, epoch: int
) -> None:
    transfer = make(status, size=9)
    before = row(transfer)
    with pytest.raises(StatusConflict):
        verb(transfer, epoch)
    assert row(transfer) == before


@pytest.mark.parametrize(("status", "verb"), HELD_VERBS.values(), ids=HELD_VERBS)
def test_of_two_that_change_a_transfer_at_once_the_second_is_told(
    make: Make, status: str, verb: Verb
) -> None:
    first = make(status, size=9)
    second = Transfer.objects.get(pk=first.pk)
    first.cancel()
    before = row(first)
    with pytest.raises(StatusConflict) as conflict:
        verb(second, 5)
    assert conflict.value.status == second.status == "cancelled"
    assert row(second) == before


def test_two_cancels_at_once_are_one(make: Make) -> None:
    first = make()
    second = Transfer.objects.get(pk=first.pk)
    first.cancel()
    with pytest.raises(StatusConflict):
        second.cancel()


@pytest.mark.parametrize("status", Status)
def test_what_has_not_ended_can_be_made_slower_and_faster(make: Make, status: str) -> None:
    transfer = make(status)
    if transfer.is_final:
        with pytest.raises(StatusConflict, match="has ended"):
            transfer.limit_rate(2048)
        assert row(transfer)["rate_limit"] is None
        return
    for rate_limit in (2048, None):
        transfer.limit_rate(rate_limit)
        assert transfer.rate_limit == rate_limit
        assert row(transfer)["rate_limit"] == rate_limit


# Taken on by a connection ------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "interrupted"])
def test_a_connection_claims_what_waits(make: Make, status: str) -> None:
    transfer = make(status, attempts=2)
    transfer.claim(7)
    assert (transfer.status, transfer.epoch, transfer.attempts) == ("requested", 7, 3)


@pytest.mark.parametrize("status", ["requested", "receiving", "verifying"])
def test_a_newer_connection_claims_what_an_older_one_left(make: Make, status: str) -> None:
    transfer = make(status, checkpoint=64)
    transfer.claim(6)
    assert (transfer.status, transfer.epoch, transfer.checkpoint) == ("requested", 6, 64)


@pytest.mark.parametrize("status", ["requested", "receiving", "verifying"])
def test_an_older_connection_claims_nothing_of_a_newer_one(make: Make, status: str) -> None:
    transfer = make(status)
    before = row(transfer)
    with pytest.raises(StatusConflict):
        transfer.claim(4)
    assert row(transfer) == before


@pytest.mark.parametrize("status", ["queued", "interrupted"])
def test_an_older_connection_claims_nothing_that_a_newer_one_let_go(
    make: Make, status: str
) -> None:
    transfer = make(status)
    with pytest.raises(StatusConflict):
        transfer.claim(4)


def test_of_two_connections_one_claims(make: Make) -> None:
    first = make()
    second = Transfer.objects.get(pk=first.pk)
    first.claim(6)
    with pytest.raises(StatusConflict):
        second.claim(6)
    assert row(first)["attempts"] == 1


@pytest.mark.parametrize("status", sorted(FINAL))
def test_nobody_claims_what_is_final(make: Make, status: str) -> None:
    with pytest.raises(StatusConflict):
        make(status).claim(6)


def test_a_claim_leaves_a_file_alone_that_is_being_landed(make: Make) -> None:
    transfer = make("verifying")
    partial = create(transfer.partial_path)
    try:
        with pytest.raises(StatusConflict):
            transfer.claim(6)
    finally:
        partial.close()
    assert transfer.status == "verifying"


def test_a_claim_completes_what_has_landed_already(make: Make, data_dir: Path) -> None:
    (data_dir / "downloads/there").touch()
    transfer = make("verifying", file="there", source_sha256=SHA, size=9)
    with pytest.raises(StatusConflict):
        transfer.claim(6)
    assert (transfer.status, transfer.sha256) == ("completed", SHA)


@pytest.mark.parametrize(
    ("status", "checkpoint", "then"),
    [
        ("requested", 0, "queued"),
        ("requested", 1, "interrupted"),
        ("receiving", 0, "queued"),
        ("receiving", 1, "interrupted"),
        ("verifying", 0, "interrupted"),
        ("verifying", 1, "interrupted"),
    ],
)
def test_a_lost_link_leads_back_to_waiting(
    make: Make, status: str, checkpoint: int, then: str
) -> None:
    transfer = make(status, checkpoint=checkpoint)
    transfer.link_lost(5)
    assert (transfer.status, transfer.checkpoint) == (then, checkpoint)


# Bytes -------------------------------------------------------------------------------------------


def test_an_offer_records_what_the_source_is_and_where_it_begins(make: Make) -> None:
    transfer = make("requested")
    transfer.offered(5, Source("a.db", 100, "f"), 64)
    assert transfer.status == "receiving"
    assert (transfer.name, transfer.size, transfer.fingerprint) == ("a.db", 100, "f")
    assert (transfer.checkpoint, transfer.received) == (64, 64)
    assert transfer.started_at is not None


def test_a_transfer_was_started_when_its_first_attempt_was(make: Make) -> None:
    transfer = make("requested", started_at=NOW)
    transfer.offered(5, Source("a.db", 100, "f"), 64)
    assert transfer.started_at == NOW


@pytest.mark.parametrize(
    ("checkpoint", "fingerprint", "changes"), [(64, "f", 1), (64, "g", 2), (0, "f", 1), (0, "g", 1)]
)
def test_a_source_that_changed_while_nobody_looked_is_counted(
    make: Make, checkpoint: int, fingerprint: str, changes: int
) -> None:
    """Where there was nothing to resume, nothing is lost by the change."""
    transfer = make("requested", fingerprint="f", checkpoint=checkpoint, source_changes=1)
    transfer.offered(5, Source("a.db", 100, fingerprint), 0)
    assert transfer.source_changes == row(transfer)["source_changes"] == changes


def test_progress_is_recorded(make: Make) -> None:
    transfer = make("receiving")
    transfer.progressed(5, received=9, checkpoint=8)
    assert (transfer.received, transfer.checkpoint) == (9, 8)
    assert (row(transfer)["received"], row(transfer)["checkpoint"]) == (9, 8)


def test_wire_bytes_of_all_attempts_are_added_up(make: Make) -> None:
    """Compressed or not, and those of a link that broke: it is what the uplink carried."""
    transfer = make("receiving", name="a.db", size=90)
    transfer.progressed(5, received=40, checkpoint=30, wire=10)
    transfer.link_lost(5)
    transfer.claim(6)
    transfer.offered(6, Source("a.db", 90, ""), 30)
    transfer.progressed(6, received=60, checkpoint=30, wire=5)
    transfer.verified(6, sha256=SHA, wire=7)
    transfer.count_wire(6, 1)
    transfer.count_wire(5, 1000)
    assert row(transfer)["wire_bytes"] == 10 + 5 + 7 + 1


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.RECEIVING, Status.VERIFYING}))
def test_progress_is_recorded_only_while_bytes_are_in_hand(make: Make, status: str) -> None:
    with pytest.raises(StatusConflict):
        make(status).progressed(5, received=9, checkpoint=8)


def test_a_changed_source_is_started_again_from_0_three_times_and_then_fails(make: Make) -> None:
    transfer = make("receiving", checkpoint=64, received=70)
    for change in (1, 2, 3):
        transfer.source_changed(5, "grew")
        assert (transfer.status, transfer.source_changes) == ("queued", change)
        assert (transfer.checkpoint, transfer.received) == (0, 0)
        transfer.claim(5)
        transfer.offered(5, Source("a", 9, "f"), 0)
    transfer.source_changed(5, "grew")
    assert (transfer.status, transfer.error_code, transfer.error_detail) == (
        "failed", "source_changed", "grew",
    )  # fmt: skip


# Landing -----------------------------------------------------------------------------------------


@pytest.fixture
def at_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "now", lambda: NOW)


@pytest.mark.usefixtures("at_now")
def test_a_verified_file_gets_a_name_of_its_own(make: Make, data_dir: Path) -> None:
    transfer = make("receiving", name="a.db", size=9)
    final = transfer.verified(5, sha256=SHA)
    assert final == data_dir / "downloads/client1_20261123T063200Z_a.db" == transfer.landed_path
    assert (transfer.status, transfer.source_sha256, transfer.received) == ("verifying", SHA, 9)
    assert transfer.sha256 == ""


@pytest.mark.django_db(transaction=True)
def test_what_came_whole_is_verified_without_having_been_offered(make: Make) -> None:
    transfer = make("requested", error_code="timed_out", error_detail="before")
    since = timezone.now() - timedelta(seconds=9)
    final = transfer.verified(5, sha256=SHA, wire=7, source=Source("a.db", 100, "f", since))
    assert final.name.endswith("_a.db")
    fields = "status", "name", "size", "fingerprint", "received", "checkpoint", "started_at"
    whole = "verifying", "a.db", 100, "f", 100, 0, since
    assert tuple(row(transfer)[name] for name in fields) == whole
    assert tuple(getattr(transfer, name) for name in fields) == whole
    assert (transfer.error_code, row(transfer)["wire_bytes"]) == ("", 7)


def test_a_name_is_not_reserved_for_who_does_not_hold_the_transfer(make: Make) -> None:
    make("receiving", name="a.db", size=9).verified(5, sha256=SHA)
    late = make("receiving", name="a.db", size=9, epoch=6)
    with pytest.raises(StatusConflict):
        late.verified(5, sha256=SHA)
    assert row(late)["file"] is None


@pytest.mark.usefixtures("at_now")
def test_a_name_that_another_transfer_has_reserved_gets_a_number(make: Make) -> None:
    names = [make("receiving", name="a.db", size=9).verified(5, sha256=SHA).name for _ in range(3)]
    assert names == [
        "client1_20261123T063200Z_a.db",
        "client1_20261123T063200Z_a-2.db",
        "client1_20261123T063200Z_a-3.db",
    ]


@pytest.mark.usefixtures("at_now")
def test_a_name_that_is_taken_on_disk_gets_a_number(make: Make, data_dir: Path) -> None:
    (data_dir / "downloads/client1_20261123T063200Z_a.db").touch()
    final = make("receiving", name="a.db", size=9).verified(5, sha256=SHA)
    assert final.name == "client1_20261123T063200Z_a-2.db"


@pytest.mark.usefixtures("at_now")
def test_a_landed_transfer_is_complete(make: Make) -> None:
    transfer = make("verifying", source_sha256=SHA, size=9, checkpoint=4)
    transfer.landed(5)
    assert (transfer.status, transfer.sha256) == ("completed", SHA)
    assert transfer.checkpoint == 9
    assert transfer.finished_at == NOW


@pytest.mark.parametrize(
    ("file", "partial", "landed", "finished"),
    [
        ("f", False, True, True),
        ("f", True, True, False),  # the rename has not happened: that file is another's
        ("f", False, False, False),
        ("f", True, False, False),
        (None, False, False, False),
    ],
)
def test_a_landing_is_finished_only_after_the_rename(
    make: Make, data_dir: Path, file: str | None, partial: bool, landed: bool, finished: bool
) -> None:
    transfer = make("verifying", file=file, source_sha256=SHA, size=9)
    if partial:
        transfer.partial_path.touch()
    if landed:
        (data_dir / "downloads/f").touch()
    assert transfer.finish_landing() is finished
    assert transfer.status == ("completed" if finished else "verifying")


def claim_in_vain(transfer: Transfer) -> None:
    with pytest.raises(StatusConflict, match="EIO"):
        transfer.claim(6)


LOOKS: dict[str, Callable[[Transfer], object]] = {
    "a connection's look": claim_in_vain,
    "a revocation": lambda transfer: transfer.client.revoke(),
    "a sweep": lambda transfer: sweep(),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_landing_that_cannot_be_synced_waits_for_a_later_look(
    make: Make,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    look: Callable[[Transfer], object],
) -> None:
    """Else a power loss takes the file of a completed row, or it fails with its file in place."""

    def failing(directory: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    transfer = make("verifying", file="f", source_sha256=SHA, size=9)
    (data_dir / "downloads/f").touch()
    before = row(transfer)
    monkeypatch.setattr(logging.getLogger("transfers"), "propagate", True)
    with monkeypatch.context() as patched:
        patched.setattr(storage, "sync_directory", failing)
        look(transfer)
    assert row(transfer) == before
    assert "has landed, but cannot be synced" in caplog.text
    transfer.refresh_from_db()
    assert transfer.finish_landing()


# Ends, and new starts ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Transfer.cancel, Transfer.expire])
def test_who_ends_a_transfer_wins_over_what_it_has_just_moved_on_to(
    make: Make, end: Callable[[Transfer], None]
) -> None:
    seen = make("queued")
    Transfer.objects.get(pk=seen.pk).claim(5)
    end(seen)
    assert seen.status in ("cancelled", "expired")
    assert seen.next_attempt_at is None


def test_of_two_deadlines_the_later_counts(client1: Client) -> None:
    soon, later = timezone.now() + timedelta(minutes=1), timezone.now() + timedelta(hours=1)
    first = request_file(client1, deadline=soon)
    assert request_file(client1, deadline=later).deadline == later
    assert request_file(client1, deadline=soon).deadline == later
    assert request_file(client1).deadline is None
    assert request_file(client1, deadline=soon) == first
    first.refresh_from_db()
    assert first.deadline is None


@pytest.mark.parametrize("code", sorted(set(ERRORS) - {"quota_exceeded", "busy"}))  # which wait
@pytest.mark.usefixtures("at_now")
def test_a_failure_has_a_code_a_sentence_and_a_time(
    make: Make, settings: Settings, code: str
) -> None:
    settings.RETRIES = 0
    transfer = make("receiving", checkpoint=64, received=70)
    transfer.fail(5, code)
    assert (transfer.status, transfer.error_code) == ("failed", code)
    assert transfer.error_detail == ERRORS[code].sentence
    assert transfer.finished_at == NOW
    assert transfer.checkpoint == 64


def test_a_failure_may_say_more_and_give_the_bytes_up(make: Make) -> None:
    transfer = make("receiving", checkpoint=64, received=70)
    transfer.fail(5, "checksum_mismatch", "ab is not cd", keep=False)
    assert transfer.error_detail == "ab is not cd"
    assert (transfer.checkpoint, transfer.received) == (0, 0)


def test_a_failure_without_a_code_of_the_table_is_our_bug(make: Make) -> None:
    with pytest.raises(KeyError):
        make("receiving").fail(5, "oops")


@pytest.mark.parametrize("status", sorted(set(Status) - FINAL))
def test_a_cancel_rings_and_removes_what_has_arrived(
    make: Make,
    rings: list[str],
    status: str,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    transfer = make(status)
    transfer.partial_path.touch()
    with django_capture_on_commit_callbacks(execute=True):
        transfer.cancel()
    assert (transfer.status, transfer.error_code) == ("cancelled", "cancelled")
    assert not transfer.partial_path.exists()
    assert rings == ["client1"]


@pytest.mark.parametrize("status", sorted(FINAL))
def test_what_has_ended_cannot_be_cancelled(make: Make, status: str) -> None:
    with pytest.raises(StatusConflict):
        make(status).cancel()


def test_a_cancel_leaves_a_partial_file_to_the_connection_that_writes_it(
    make: Make,
    rings: list[str],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    transfer = make("receiving")
    partial = create(transfer.partial_path)
    with django_capture_on_commit_callbacks(execute=True):
        transfer.cancel()
    assert transfer.is_being_written
    assert transfer.partial_path.exists()
    partial.close()
    assert not transfer.is_being_written


@pytest.mark.usefixtures("rings")
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("end", [Transfer.cancel, lambda transfer: Transfer.objects.expire_due()])
def test_what_was_just_renamed_is_removed_too_unless_its_connection_has_it(
    make: Make,
    end: Callable[[Transfer], object],
    held: bool,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    """The row is not completed yet: nobody would ever look for that file."""
    transfer = make("verifying", file="f", deadline=timezone.now() - timedelta(seconds=1))
    final = transfer.landed_path
    assert final is not None
    partial = create(transfer.partial_path)
    partial.land(final)
    assert transfer.is_being_written
    if not held:
        partial.close()
        assert not transfer.is_being_written
    with django_capture_on_commit_callbacks(execute=True):
        end(transfer)
    partial.close()
    assert final.exists() is held


@pytest.mark.parametrize("end", [Transfer.cancel, lambda transfer: Transfer.objects.expire_due()])
def test_a_partial_file_that_cannot_be_removed_stops_nothing(
    make: Make,
    rings: list[str],
    end: Callable[[Transfer], object],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    transfer = make(deadline=timezone.now() - timedelta(seconds=1))
    transfer.partial_path.mkdir()
    with django_capture_on_commit_callbacks(execute=True):
        end(transfer)
    assert row(transfer)["status"] in ("cancelled", "expired")
    assert transfer.partial_path.is_dir()
    assert rings == ["client1"]


@pytest.mark.usefixtures("rings")
def test_a_retry_starts_anew_and_keeps_the_bytes(make: Make) -> None:
    transfer = make("failed", error_code="internal", error_detail="oops", finished_at=NOW)
    Transfer.objects.update(source_changes=3, checkpoint=64, fingerprint="f", sha256=SHA)
    transfer.retry()
    assert transfer.status == "queued"
    assert (transfer.error_code, transfer.error_detail, transfer.finished_at) == ("", "", None)
    assert (transfer.source_changes, transfer.sha256) == (0, "")
    assert (transfer.checkpoint, transfer.fingerprint) == (64, "f")


def test_a_retry_rings(
    make: Make,
    rings: list[str],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        make("failed").retry()
    assert rings == ["client1"]


@pytest.mark.parametrize(
    "status",
    [
        "queued",
        "requested",
        "receiving",
        "interrupted",
        "verifying",
        "completed",
        "cancelled",
        "expired",
    ],
)
def test_only_what_failed_can_be_retried(make: Make, status: str) -> None:
    with pytest.raises(StatusConflict):
        make(status).retry()


@pytest.mark.parametrize("status", Status.values)
def test_what_is_past_its_deadline_expires_unless_it_has_ended(make: Make, status: str) -> None:
    past = make(status, deadline=timezone.now() - timedelta(seconds=1))
    later = make(status, deadline=timezone.now() + timedelta(hours=1))
    never = make(status)
    alive = status not in FINAL
    assert Transfer.objects.expire_due() == alive
    assert row(past)["status"] == ("expired" if alive else status)
    assert row(past)["error_code"] == ("expired" if alive else "")
    assert row(later)["status"] == row(never)["status"] == status


def test_deadlines_of_one_client_can_be_looked_at_alone(make: Make) -> None:
    other = Client.objects.create(id="client2", token_sha256="2")
    past = timezone.now() - timedelta(seconds=1)
    mine, theirs = make(deadline=past), make(deadline=past, client=other)
    assert Transfer.objects.filter(client="client1").expire_due() == 1
    assert (row(mine)["status"], row(theirs)["status"]) == ("expired", "queued")


def test_what_lands_just_before_its_deadline_has_landed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = make("verifying", size=9, deadline=timezone.now() - timedelta(seconds=1))
    error = Transfer._error

    def lands_first(*args: str) -> dict[str, Any]:
        Transfer.objects.get(pk=transfer.pk).landed(5)
        return error(*args)

    monkeypatch.setattr(Transfer, "_error", staticmethod(lands_first))
    assert Transfer.objects.expire_due() == 0
    assert row(transfer)["status"] == "completed"


# Asking and looking ------------------------------------------------------------------------------


def test_asking_queues_a_transfer_and_rings(
    client1: Client,
    operator: User,
    rings: list[str],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        transfer = request_file(client1, "/a", requested_by=operator, deadline=NOW)
    assert (transfer.status, transfer.path, transfer.deadline) == ("queued", "/a", NOW)
    assert transfer.requested_by == operator
    assert rings == ["client1"]


def test_the_same_key_of_the_same_user_is_the_same_transfer(
    client1: Client,
    operator: User,
    rings: list[str],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        first = request_file(client1, requested_by=operator, idempotency_key="k")
        again = request_file(client1, "/a", requested_by=operator, idempotency_key="k")
    assert again == first
    assert Transfer.objects.get().path is None
    assert rings == ["client1"], "nothing is new the second time"


def test_keys_belong_to_their_users(client1: Client, operator: User) -> None:
    other = User.objects.create_user("otto")
    one = request_file(client1, "/a", requested_by=operator, idempotency_key="k")
    two = request_file(client1, "/b", requested_by=other, idempotency_key="k")
    assert one != two


@pytest.mark.parametrize("path", [None, "/a"])
def test_a_file_that_is_under_way_is_not_asked_for_again(client1: Client, path: str | None) -> None:
    first = request_file(client1, path)
    assert request_file(client1, path) == first
    assert request_file(client1, "/b") != first
    assert request_file(client1, path, duplicate=True) != first
    first.cancel()
    assert request_file(client1, path) != first


def test_a_key_gives_its_transfer_also_after_that_has_ended(
    client1: Client, operator: User
) -> None:
    """Even where its first answer was a transfer that somebody else had asked for."""
    first = request_file(client1)
    assert request_file(client1, requested_by=operator, idempotency_key="k") == first
    first.cancel()
    assert request_file(client1, requested_by=operator, idempotency_key="k") == first
    assert request_file(client1, requested_by=operator, idempotency_key="l") != first


def test_a_retry_gives_way_to_another_transfer_of_the_same_file(client1: Client) -> None:
    failed = request_file(client1)
    failed.fail(0, "not_found")
    request_file(client1)
    with pytest.raises(StatusConflict, match="another transfer of the same file"):
        failed.retry()
    assert failed.status == "failed"


def test_a_connection_looks_for_what_waits_and_what_was_left_oldest_first(make: Make) -> None:
    def at(minute: int) -> datetime:
        return NOW + timedelta(minutes=minute)

    wanted = [
        make("interrupted", created_at=at(1)),
        make("receiving", created_at=at(2)),
        make("queued", created_at=at(3), epoch=9),
        make("requested", created_at=at(4)),
        make("verifying", created_at=at(5), epoch=1),
    ]
    make("receiving", epoch=6)  # a newer connection's
    for status in FINAL:
        make(status)
    make("queued", client=Client.objects.create(id="client2", token_sha256="2"))
    assert list(Transfer.objects.waiting_for("client1", 5)) == wanted


def test_what_has_given_up_its_turn_comes_after_what_waited_meanwhile(make: Make) -> None:
    now = timezone.now()
    had_it = make(
        "interrupted",
        created_at=now - timedelta(hours=2),
        next_attempt_at=now - timedelta(seconds=1),
    )
    waited = make("queued", created_at=now - timedelta(hours=1))
    assert list(Transfer.objects.waiting_for("client1", 5)) == [waited, had_it]


def test_transfers_are_listed_newest_first(make: Make) -> None:
    old, new = make(created_at=NOW), make(created_at=NOW + timedelta(minutes=1))
    assert list(Transfer.objects.all()) == [new, old]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "the default file from client1"),
        ({"path": "/a"}, "/a from client1"),
        ({"path": "/a", "name": "b"}, "b from client1"),
        ({"name": "a\n\u202eb"}, r"a\n\u202eb from client1"),
        ({"path": "/\x1b[2J"}, r"/\x1b[2J from client1"),
    ],
)
def test_a_transfer_says_what_it_is(make: Make, values: dict[str, str], text: str) -> None:
    assert str(make(**values)) == text


def test_partial_files_are_named_by_uuid_alone(make: Make, data_dir: Path) -> None:
    transfer = make(name="../../etc/passwd")
    assert transfer.partial_path == data_dir / "partial" / f"{transfer.pk}.part"
    assert uuid.UUID(transfer.partial_path.stem) == transfer.pk
    assert transfer.landed_path is None


# Presence ----------------------------------------------------------------------------------------


def connect(client: Client) -> int:
    return came_online(client, platform="Linux", hostname="till", agent_version="1")


@pytest.mark.usefixtures("at_now")
def test_a_connection_is_a_lease_and_a_higher_epoch(client1: Client) -> None:
    assert not client1.online
    assert connect(client1) == 1
    assert client1.online
    assert (client1.last_seen, client1.online_until) == (NOW, NOW + LEASE)
    assert (client1.platform, client1.hostname, client1.agent_version) == ("Linux", "till", "1")
    assert connect(Client.objects.get()) == 2


def test_two_connections_at_once_never_share_an_epoch(client1: Client) -> None:
    copy = Client.objects.get()
    assert {connect(client1), connect(copy)} == {1, 2}


def test_two_connections_that_come_together_each_have_their_epoch(client1: Client) -> None:
    other = Client.objects.create(id="client2", token_sha256="2")
    both = [Client.objects.get(pk=pk) for pk in ("client1", "client2", "client1")]
    answers = all_came_online([Arrived(each, "", "", f"{n}") for n, each in enumerate(both)])
    rows = [answer for answer in answers if isinstance(answer, Client)]
    assert [(row.pk, row.epoch, row.agent_version) for row in rows] == [
        ("client1", 1, "0"),
        ("client2", 1, "1"),
        ("client1", 2, "2"),
    ]
    client1.refresh_from_db()
    other.refresh_from_db()
    assert [(row.epoch, row.agent_version) for row in (client1, other)] == [(2, "2"), (1, "1")]


def test_who_was_let_in_with_a_token_that_is_replaced_or_of_a_client_that_is_gone_is_refused(
    client1: Client,
) -> None:
    old, gone = Client.objects.get(), Client(id="gone", token_sha256="1")
    Client.objects.update(token_sha256="new")
    answers = all_came_online([Arrived(each, "", "", "") for each in (old, gone)])
    assert [getattr(answer, "code", None) for answer in answers] == ["replaced"] * 2
    client1.refresh_from_db()
    assert (client1.epoch, client1.online) == (0, False)


def test_a_lease_runs_out_by_itself(client1: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(client1)
    later = timezone.now() + LEASE
    monkeypatch.setattr(timezone, "now", lambda: later)
    assert not client1.online
    assert not Client.objects.get().online


def test_a_heartbeat_renews_the_lease_of_its_own_connection_only(
    client1: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = connect(client1), connect(client1)
    monkeypatch.setattr(timezone, "now", lambda: NOW + timedelta(seconds=9))
    all_seen([("client1", new, NOW), ("client1", old, NOW + timedelta(seconds=1))])
    client1.refresh_from_db()
    assert (client1.last_seen, client1.online_until) == (NOW, NOW + LEASE)


def test_the_end_of_a_connection_ends_its_own_lease_only(client1: Client) -> None:
    old, new = connect(client1), connect(client1)
    client1.went_offline(old)
    assert Client.objects.get().online
    client1.went_offline(new)
    assert not Client.objects.get().online


def test_a_revoked_client_gets_no_lease_and_its_connection_is_rung(
    client1: Client,
    rings: list[str],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    epoch = connect(client1)
    with django_capture_on_commit_callbacks(execute=True):
        client1.revoke()
    assert client1.revoked_at is not None
    Client.objects.update(online_until=None)
    all_seen([("client1", epoch, timezone.now())])
    assert not Client.objects.get().online
    assert rings == ["client1"]


@pytest.mark.parametrize("status", Status.values)
def test_a_revocation_fails_what_the_client_was_asked_for(make: Make, status: str) -> None:
    transfer = make(status)
    other = make(client=Client.objects.create(id="client2", token_sha256="2"))
    before = row(transfer)
    transfer.client.revoke()
    if status in FINAL:
        assert row(transfer) == before
    else:
        after = row(transfer)
        assert (after["status"], after["error_code"]) == ("failed", "revoked")
        assert after["finished_at"] is not None
    assert row(other)["status"] == "queued"


def test_a_revocation_fails_what_moved_on_meanwhile_too(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it waits for ever for a client that is refused."""
    transfer = make("requested")
    fail = Transfer.fail

    def moves_first(row: Transfer, epoch: int, code: str) -> None:
        monkeypatch.setattr(Transfer, "fail", fail)
        Transfer.objects.filter(pk=row.pk).update(status="receiving")
        fail(row, epoch, code)

    monkeypatch.setattr(Transfer, "fail", moves_first)
    transfer.client.revoke()
    assert row(transfer)["status"] == "failed"


@pytest.mark.parametrize("field", ["platform", "hostname", "agent_version"])
def test_what_an_agent_says_of_itself_is_stored_escaped_and_fits(
    client1: Client, field: str
) -> None:
    said: dict[str, Any] = {"platform": "", "hostname": "", "agent_version": ""}
    came_online(client1, **said | {field: "a\n\u202eb"})
    assert getattr(Client.objects.get(), field) == r"a\n\u202eb"
    came_online(client1, **said | {field: "\u202e" * 255})
    assert getattr(Client.objects.get(), field) == (r"\u202e" * 255)[:255]


def test_a_second_revocation_keeps_the_time_of_the_first(client1: Client) -> None:
    client1.revoke()
    first = client1.revoked_at
    client1.revoke()
    assert client1.revoked_at == first


@pytest.mark.parametrize("name", ["a", "client1", "A.b-c_d", "0", "x" * 64])
def test_a_client_id_is_what_a_url_a_file_and_a_group_can_have(name: str) -> None:
    assert is_client_id(name)
    Client(id=name, token_sha256=name).clean_fields()
    assert str(Client(id=name)) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "ä", "x" * 65, "a\0", "\u202ea"]
)
def test_nothing_else_is_a_client_id(name: str) -> None:
    assert not is_client_id(name)
    with pytest.raises(ValidationError):
        Client(id=name, token_sha256="x").clean_fields()


@pytest.mark.django_db
def test_the_migrations_say_what_the_models_say() -> None:
    call_command("makemigrations", "--check", "--dry-run", stdout=StringIO())


def test_what_was_not_on_disk_for_certain_counts_no_more_after_a_lost_link(client1: Client) -> None:
    transfer = Transfer.objects.create(
        client=client1, status="receiving", epoch=1, size=100, received=70, checkpoint=30
    )
    transfer.link_lost(1)
    assert (transfer.status, transfer.received, transfer.checkpoint) == ("interrupted", 30, 30)
