"""What all tests share: a data directory of their own, and a client with its token."""

from pathlib import Path

import hypothesis
import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from transfers.auth import digest, make_operator, new_token
from transfers.models import Client

hypothesis.settings.register_profile("silentmode", deadline=None)  # no test judges speed
hypothesis.settings.load_profile("silentmode")


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, settings: Settings) -> Path:
    """The data directory of one test."""
    directory = settings.DATA_DIR = tmp_path / "data"
    settings.PARTIAL_DIR = directory / "partial"
    settings.DOWNLOADS_DIR = directory / "downloads"
    for each in (settings.PARTIAL_DIR, settings.DOWNLOADS_DIR):
        each.mkdir(parents=True)
    return directory


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
    make_operator(user)
    return user
