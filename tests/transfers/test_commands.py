"""`manage.py add_client`, `add_api_token` and `sweep`."""

import sys
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
from django.contrib.auth.models import User
from django.core.management import (
    CommandError,
    call_command,
    get_commands,
    load_command_class,
)
from django.core.management.base import BaseCommand
from django.core.management.color import make_style
from rest_framework.test import APIClient

from tests.online import authenticate_agent
from transfers.access import OPERATOR, Action, may
from transfers.models import Client, Transfer
from transfers.recovery import Report

pytestmark = pytest.mark.django_db


class Said(NamedTuple):
    out: str
    err: str


def manage(*args: str) -> Said:
    out, err = StringIO(), StringIO()
    call_command(*args, stdout=out, stderr=err)
    return Said(out.getvalue(), err.getvalue())


@pytest.mark.parametrize(
    "name", [name for name, app in get_commands().items() if app == "transfers"]
)
def test_what_people_are_told_beside_the_output_is_not_red(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("django.core.management.base.color_style", lambda *_: make_style("light"))
    red = BaseCommand().stderr.style_func
    assert red is not None
    assert red("Registered.") != "Registered."
    calm = load_command_class("transfers", name).stderr.style_func
    assert calm is not None
    assert calm("Registered.") == "Registered."


def test_a_client_is_registered_and_its_token_is_alone_on_standard_output() -> None:
    said = manage("add_client", "client1", "--token")
    token = said.out.removesuffix("\n")
    assert "\n" not in token
    assert token not in said.err
    client = authenticate_agent("client1", {"authorization": f"Bearer {token}"})
    assert client == Client.objects.get(pk="client1")


def test_a_token_has_256_random_bits_and_is_stored_hashed() -> None:
    tokens = {manage("add_client", f"client{n}", "--token").out.strip() for n in range(5)}
    assert len(tokens) == 5
    assert {len(token) for token in tokens} == {43}
    assert not tokens & set(Client.objects.values_list("token_sha256", flat=True))


def test_a_client_is_registered_once() -> None:
    manage("add_client", "client1", "--token")
    stored = Client.objects.get().token_sha256
    with pytest.raises(CommandError, match="client1 is registered already"):
        manage("add_client", "client1", "--token")
    assert Client.objects.get().token_sha256 == stored


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", "x" * 65, "tïll", "a\n"])
def test_a_client_id_that_cannot_be_is_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(CommandError):
        manage("add_client", name, "--token")
    assert not Client.objects.exists()


def test_an_api_token_makes_an_operator_who_cannot_log_in() -> None:
    said = manage("add_api_token", "olga")
    token = said.out.removesuffix("\n")
    assert "\n" not in token
    assert token not in said.err
    assert "may not" not in said.err
    olga = User.objects.get()
    assert not olga.has_usable_password()
    assert not olga.is_staff
    assert {action for action in Action if may(olga, action)} == set(OPERATOR)
    api = APIClient(headers={"Authorization": f"Token {token}"})
    assert api.get("/api/v1/transfers/").status_code == 200


def test_a_second_token_of_a_user_works_beside_the_first() -> None:
    tokens = [manage("add_api_token", "olga").out.strip() for _ in range(2)]
    assert User.objects.count() == 1
    for token in tokens:
        api = APIClient(headers={"Authorization": f"Token {token}"})
        assert api.get("/api/v1/clients/").status_code == 200


def test_a_token_gives_a_user_who_is_there_no_new_rights() -> None:
    User.objects.create_user("otto", password="secret")
    said = manage("add_api_token", "otto")
    token = said.out.strip()
    assert "otto may not ask for files" in said.err
    otto = User.objects.get()
    assert not any(may(otto, action) for action in Action)
    assert otto.check_password("secret")
    api = APIClient(headers={"Authorization": f"Token {token}"})
    assert api.get("/api/v1/clients/").status_code == 403


@pytest.mark.parametrize("name", ["", "x" * 151, "a b"])
def test_a_username_that_cannot_be_is_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(CommandError, match=r"'.*': .*\."):
        manage("add_api_token", name)
    assert not User.objects.exists()


def test_a_sweep_says_what_it_did_and_what_is_missing(client1: Client, data_dir: Path) -> None:
    Transfer.objects.create(client=client1, status="receiving")
    Transfer.objects.create(client=client1, status="completed", file="gone.db")
    said = manage("sweep").out
    assert said == f"{Report(interrupted=1, missing=('gone.db',))}\nmissing: gone.db\n"
