"""Logging in: guessing passwords is slowed down, for the one who guesses."""

from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.utils import timezone
from pytest_django import Settings

from transfers import login, recovery
from transfers.models import AuditRecord
from transfers.throttle import Failures

LOGIN = "/admin/login/"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nobody_has_failed_yet(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    most = login.NAMES * settings.LOGIN_FAILURES
    failures = Failures(most, settings.LOGIN_PAUSE, clock=lambda: 0.0)  # none is forgotten
    monkeypatch.setattr(login, "failures", failures)
    settings.PASSWORD_HASHERS = [
        "django.contrib.auth.hashers.MD5PasswordHasher"
    ]  # hundreds of guesses


@pytest.fixture(autouse=True)
def anna(nobody_has_failed_yet: None) -> User:
    return User.objects.create_superuser("anna", password="correct horse")


def log_in(password: str, address: str = "198.51.100.7", username: str = "anna") -> int:
    """The status: 302 logged in, 200 asked again, 429 locked out."""
    form = {"username": username, "password": password}
    status: int = Browser(REMOTE_ADDR=address).post(LOGIN, form).status_code
    return status


def test_a_right_password_logs_in() -> None:
    assert log_in("correct horse") == 302
    assert AuditRecord.objects.get(event="logged_in").details == {"user": "anna"}


def test_after_five_wrong_passwords_even_the_right_one_is_refused() -> None:
    assert [log_in(f"guess {n}") for n in range(5)] == [200, 200, 200, 200, 429]
    assert log_in("correct horse") == 429
    events = list(AuditRecord.objects.values_list("event", flat=True))
    assert (events.count("login_failed"), events.count("locked_out")) == (5, 1)
    assert {row.address for row in AuditRecord.objects.filter(event="login_failed")} == {
        "198.51.100.7"
    }


def test_nobody_can_lock_out_somebody_elsewhere() -> None:
    for n in range(6):
        log_in(f"guess {n}")
    assert log_in("correct horse", address="203.0.113.9") == 302


def test_whoever_guesses_at_many_names_is_locked_out_too_and_nobody_elsewhere() -> None:
    for n in range(50):
        log_in("guess", username=f"user{n}")
    assert log_in("correct horse") == 429
    assert log_in("correct horse", address="203.0.113.9") == 302


def test_a_paused_address_is_told_how_long_in_a_plain_sentence() -> None:
    for n in range(50):
        log_in("guess", username=f"user{n}")
    answer = Browser(REMOTE_ADDR="198.51.100.7").post(LOGIN, {"username": "anna", "password": "x"})
    assert answer.status_code == 429
    assert 0 < int(answer["Retry-After"]) <= 900
    assert answer["Content-Type"].startswith("text/plain")
    assert f"Wait {answer['Retry-After']} seconds" in answer.content.decode()
    assert Browser(REMOTE_ADDR="198.51.100.7").get(LOGIN).status_code == 200, "to read it is free"


def test_guessing_on_from_a_paused_address_writes_no_row_and_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for n in range(50):
        log_in("guess", username=f"user{n}")
    begun = [line for line in caplog.messages if "Too many logins from 198.51.100.7" in line]
    assert len(begun) == 1
    attempts, rows = AccessAttempt.objects.count(), AuditRecord.objects.count()
    caplog.clear()
    assert {log_in("guess", username=f"other{n}") for n in range(50)} == {429}
    assert (AccessAttempt.objects.count(), AuditRecord.objects.count()) == (attempts, rows)
    assert caplog.messages == []


def test_guessing_on_at_a_locked_out_name_writes_no_row(caplog: pytest.LogCaptureFixture) -> None:
    for n in range(6):
        log_in(f"guess {n}")
    before = list(AccessAttempt.objects.values()), AuditRecord.objects.count()
    caplog.clear()
    for n in range(20):
        log_in(f"guess {n}")
    assert (list(AccessAttempt.objects.values()), AuditRecord.objects.count()) == before
    assert caplog.messages == []


def test_a_sweep_removes_the_counts_that_are_over() -> None:
    log_in("guess")
    recovery.sweep()
    assert AccessAttempt.objects.count() == 1
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(seconds=901))
    recovery.sweep()
    assert AccessAttempt.objects.count() == 0


def test_whoever_guesses_on_does_not_fill_the_audit_log() -> None:
    for n in range(70):
        log_in("guess", username=f"user{n}")
    assert AuditRecord.objects.filter(event="login_failed").count() == 50


def test_a_login_starts_the_count_anew() -> None:
    for _ in range(3):
        assert [log_in(f"guess {n}") for n in range(4)] == [200] * 4
        assert log_in("correct horse") == 302


def test_a_locked_out_name_is_let_in_again_after_the_pause(settings: Settings) -> None:
    for n in range(6):
        log_in(f"guess {n}")
    settings.AXES_COOLOFF_TIME = timedelta(0)
    assert log_in("correct horse") == 302


def test_passwords_are_nowhere_in_the_log() -> None:
    log_in("guess 1")
    log_in("x\x00\u202e" * 20, username="<script>\u202e")
    assert "guess" not in str(list(AuditRecord.objects.values()))
