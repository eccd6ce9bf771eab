"""System checks: a deploy mistake has an id, a sentence and a hint."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.checks import CheckMessage, run_checks
from django.db import connection
from pytest_django import Settings

from agent.wire.messages import MAX_CHUNK


def checked(*, deploy: bool = False) -> dict[str | None, CheckMessage]:
    found = run_checks(tags=["silentmode"], include_deployment_checks=deploy)
    for message in found:
        assert message.msg.endswith("."), "a sentence"
        assert message.hint, "what to do"
    return {message.id: message for message in found}


def test_what_is_set_up_well_passes() -> None:
    assert checked(deploy=True) == {}


def test_several_workers_on_the_in_memory_layer_are_a_mistake(settings: Settings) -> None:
    settings.WORKERS = 2
    assert checked().keys() == {"silentmode.E001"}


def test_several_workers_on_redis_are_none(settings: Settings) -> None:
    settings.WORKERS = 2
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer"}}
    assert checked() == {}


@pytest.mark.parametrize("name", ["partial", "downloads"])
def test_a_data_directory_that_is_gone_is_a_mistake(data_dir: Path, name: str) -> None:
    (data_dir / name).rmdir()
    found = checked()
    assert found.keys() == {"silentmode.E002"}
    assert name in found["silentmode.E002"].msg


def test_a_data_directory_that_cannot_be_written_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whoever runs the tests may be root, to whom nothing is refused.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert checked().keys() == {"silentmode.E002"}


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    directory = Path(tempfile.mkdtemp(dir=shared_memory))
    yield directory
    shutil.rmtree(directory)


def test_two_file_systems_are_a_mistake(settings: Settings, other_file_system: Path) -> None:
    settings.PARTIAL_DIR = other_file_system
    assert checked().keys() == {"silentmode.E003"}


@pytest.mark.parametrize(("more", "ids"), [(31, {"silentmode.E004"}), (32, set())])
def test_a_message_limit_below_a_chunk_is_a_mistake(
    settings: Settings, more: int, ids: set[str]
) -> None:
    settings.WEBSOCKET_MAX_MESSAGE_SIZE = MAX_CHUNK + more
    assert checked().keys() == ids
    settings.MAX_CHUNK = MAX_CHUNK - 1
    assert checked().keys() == set()


@pytest.mark.parametrize("setting", ["MAX_IN_FLIGHT", "MAX_IN_FLIGHT_PER_CLIENT"])
def test_less_in_flight_than_one_window_is_a_mistake(settings: Settings, setting: str) -> None:
    settings.WINDOW = settings.MAX_IN_FLIGHT = settings.MAX_IN_FLIGHT_PER_CLIENT = 1 << 20
    assert checked().keys() == set()
    setattr(settings, setting, (1 << 20) - 1)
    assert "silentmode.E005" in checked()


@pytest.mark.parametrize(
    ("share", "whole"),
    [
        ("MAX_ACTIVE_PER_CLIENT", "MAX_ACTIVE_TRANSFERS"),
        ("MAX_IN_FLIGHT_PER_CLIENT", "MAX_IN_FLIGHT"),
        ("BYTES_PER_DAY_PER_CLIENT", "BYTES_PER_DAY"),
    ],
)
def test_a_share_beyond_the_whole_is_a_warning(settings: Settings, share: str, whole: str) -> None:
    setattr(settings, whole, 1 << 30)
    setattr(settings, share, 1 << 30)
    assert checked().keys() == set()
    setattr(settings, share, (1 << 30) + 1)
    assert checked().keys() == {"silentmode.W002"}


def test_any_host_is_a_warning_when_deployed(settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    assert checked().keys() == set()
    assert checked(deploy=True).keys() == {"silentmode.W001"}


@pytest.mark.django_db
def test_sqlite_has_readers_beside_its_writer() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("not on SQLite")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        assert cursor.fetchone() == ("wal",)
