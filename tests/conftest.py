"""What all tests share: a data directory of their own, and a client with its token."""

import gc
import signal
from pathlib import Path

import hypothesis
import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from transfers import limits, rates, turns
from transfers.access import join_group
from transfers.models import Client
from transfers.throttle import Allowances
from transfers.tokens import digest, new_token

hypothesis.settings.register_profile("silentmode", deadline=None)  # no test judges speed
hypothesis.settings.load_profile("silentmode")


# A shell starts what is behind an `&` with Ctrl-C ignored, and Python leaves it so in all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What the modules hold stays: looking through it again after each test took 0.3 s of each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, settings: Settings) -> Path:
    """The data directory of one test."""
    directory = settings.DATA_DIR = tmp_path / "data"
    settings.PARTIAL_DIR = directory / "partial"
    settings.DOWNLOADS_DIR = directory / "downloads"
    for each in (settings.PARTIAL_DIR, settings.DOWNLOADS_DIR):
        each.mkdir(parents=True)
    return directory


@pytest.fixture(autouse=True)
def fresh_turns() -> None:
    """No test waits for the turns of another, nor has its settings, or the room that it found."""
    turns.of_this_process.cache_clear()
    limits.spare_of_this_process.cache_clear()


@pytest.fixture(autouse=True)
def fresh_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """No user has done, or was refused, anything yet: their numbers are the same in each test."""
    for name in ("deeds", "refusals"):
        burst = getattr(rates, f"{name.upper()}_AT_ONCE")
        monkeypatch.setattr(rates, name, Allowances(burst, 0.1))


@pytest.fixture
def token() -> str:
    """The token of `client`."""
    return new_token()


@pytest.fixture
def client1(db: None, token: str) -> Client:
    """A registered client that has never connected."""
    return Client.objects.create(id="client1", token_sha256=digest(token))


@pytest.fixture
def operator(db: None) -> User:
    """A user with an operator's rights, and no more."""
    user = User.objects.create_user("olga")
    join_group(user, "operator")
    return user
