"""The HTTP API: every call, what it takes, and how it refuses."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client as Browser
from django.utils import timezone
from knox.models import AuthToken
from pytest_django import DjangoAssertNumQueries, DjangoCaptureOnCommitCallbacks, Settings
from rest_framework.test import APIClient

from agent.wire.errors import ERRORS
from tests.online import came_online
from transfers import dispatch, rates
from transfers.access import join_group
from transfers.models import FINAL, AuditRecord, Client, Label, Scope, Status, Transfer, verify
from transfers.throttle import Allowances

TRANSFERS = "/api/v1/transfers/"
SHA = "ab" * 32

Make = Callable[..., Transfer]


def token_of(user: User) -> str:
    _, token = AuthToken.objects.create(user)
    return f"Token {token}"


@pytest.fixture
def api(operator: User) -> APIClient:
    """An operator's program."""
    return APIClient(headers={"Authorization": token_of(operator)})


@pytest.fixture
def make(client1: Client) -> Make:
    def make(status: str = "queued", **values: Any) -> Transfer:
        return Transfer.objects.create(
            **{"client": client1, "status": status, "duplicate": True} | values
        )

    return make


def come_online(client: Client) -> None:
    came_online(client, platform="Linux", hostname="till", agent_version="1")


def assert_refused(response: Any, status: int, code: str, *words: str) -> None:
    """Every refusal is a status, a code and a sentence, and nothing else."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/json"
    answer = response.json()
    assert answer.keys() == {"code", "detail"}
    assert answer["code"] == code
    for word in words:
        assert word in answer["detail"]


# Asking for a file -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/download/client1", "/download/client1/"])
def test_the_short_form_asks_for_the_file_that_the_agent_offers(
    api: APIClient, client1: Client, path: str
) -> None:
    response = api.post(path)
    assert response.status_code == 202
    transfer = Transfer.objects.get()
    assert (transfer.client, transfer.path) == (client1, None)
    assert response["Location"] == f"http://testserver{TRANSFERS}{transfer.pk}/"
    assert api.get(response["Location"]).json() == response.json()


# Asking for many ---------------------------------------------------------------------------------

BATCH = f"{TRANSFERS}batch/"


def paths(transfers: list[dict[str, Any]]) -> list[str]:
    return [transfer["path"] for transfer in transfers]


def test_many_files_are_asked_for_at_once(
    api: APIClient, client1: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    wanted = [f"/log/{number}" for number in range(1000)]
    body = {"client": "client1", "paths": wanted, "reason": "audit", "rate_limit": 5000}
    with django_assert_max_num_queries(60):
        response = api.post(BATCH, body, format="json")
    assert response.status_code == 202
    results = response.json()["results"]
    assert paths(results) == wanted
    assert {row["requested_by"] for row in results} == {"olga"}
    assert {(row["reason"], row["rate_limit"]) for row in results} == {("audit", 5000)}
    assert Transfer.objects.filter(client=client1).count() == 1000
    first = api.get(f"{TRANSFERS}{results[0]['id']}/").json()
    assert first == results[0]
    assert verify().problems == ()
    rows = AuditRecord.objects.filter(event="requested")
    assert sorted(row.details["path"] for row in rows) == sorted(wanted)


def test_a_batch_of_what_is_under_way_costs_the_same_however_long_it_is(
    api: APIClient, client1: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    body = {"client": "client1", "paths": [f"/{number}" for number in range(100)]}
    first = api.post(BATCH, body, format="json").json()
    with django_assert_max_num_queries(30):
        again = api.post(BATCH, body, format="json").json()
    assert again == first


def test_what_is_under_way_is_in_the_answer_and_not_asked_for_twice(
    api: APIClient, make: Make
) -> None:
    known = make(path="/b", duplicate=False)
    body = {"client": "client1", "paths": ["/a", "/b", "/c"]}
    results = api.post(BATCH, body, format="json").json()["results"]
    assert paths(results) == ["/a", "/b", "/c"]
    assert results[1]["id"] == str(known.pk)
    assert Transfer.objects.count() == 3
    again = api.post(BATCH, body, format="json").json()["results"]
    assert again == results
    twice = api.post(BATCH, body | {"duplicate": True}, format="json").json()["results"]
    assert not {row["id"] for row in twice} & {row["id"] for row in results}


def test_an_agent_hears_once_of_many(
    api: APIClient, client1: Client, monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:  # fmt: skip
    rung: list[str] = []
    monkeypatch.setattr(dispatch, "ring_from_sync", rung.append)
    with django_capture_on_commit_callbacks(execute=True):
        api.post(BATCH, {"client": "client1", "paths": ["/a", "/b"]}, format="json")
    assert rung == ["client1"]


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize(
    "wanted", [None, [], "/a", ["/a", "/a"], ["/a", 5], ["/a", ""], ["x" * 4097], ["/a"] * 1001]
)
def test_a_batch_that_cannot_be_is_refused_and_nothing_is_asked_for(
    api: APIClient, wanted: Any
) -> None:
    response = api.post(BATCH, {"client": "client1", "paths": wanted}, format="json")
    assert_refused(response, 400, "invalid", "paths")
    assert not Transfer.objects.exists()


@pytest.mark.usefixtures("client1")
def test_a_repeated_batch_gets_the_first_ones_transfers(api: APIClient) -> None:
    body = {"client": "client1", "paths": ["/a", "/b"], "duplicate": True}
    headers = {"Idempotency-Key": "k" * 255}
    first = api.post(BATCH, body, format="json", headers=headers).json()
    assert api.post(BATCH, body, format="json", headers=headers).json() == first
    assert Transfer.objects.count() == 2
    for other in (["/a"], ["/a", "/c"], ["/b", "/a"], ["/a", "/b", "/c"]):
        response = api.post(BATCH, body | {"paths": other}, format="json", headers=headers)
        assert_refused(response, 409, "idempotency_key_reused")


def test_each_file_of_a_batch_counts(
    api: APIClient, client1: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "deeds", Allowances(3, 0.001))
    body = {"client": "client1", "paths": ["/a", "/b"]}
    assert api.post(BATCH, body, format="json").status_code == 202
    response = api.post(BATCH, body | {"paths": ["/c", "/d"]}, format="json")
    assert_refused(response, 429, "throttled")
    assert paths(api.get(TRANSFERS).json()["results"]) == ["/b", "/a"]
    assert int(response["Retry-After"]) > 500, "as many must be allowed, not one"


def test_a_batch_that_was_too_much_takes_nothing_from_what_is_left(
    api: APIClient, client1: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "deeds", Allowances(3, 0.001))
    body = {"client": "client1", "paths": ["/a", "/b", "/c", "/d"]}
    assert api.post(BATCH, body, format="json").status_code == 429
    assert api.post(BATCH, body | {"paths": ["/a", "/b"]}, format="json").status_code == 202


@pytest.mark.usefixtures("client1")
def test_a_batch_for_an_offline_client_can_be_refused(api: APIClient) -> None:
    body = {"client": "client1", "paths": ["/a", "/b"], "if_offline": "fail"}
    assert_refused(api.post(BATCH, body, format="json"), 409, "client_offline")
    assert not Transfer.objects.exists()


# Asking for one ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize("body", [{}, {"path": None}])
def test_an_empty_body_and_a_null_path_are_the_same(api: APIClient, body: Any) -> None:
    response = api.post("/download/client1", body, format="json")
    assert (response.status_code, response.json()["path"]) == (202, None)


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize("path", ["/var/log/syslog", r"C:\a b.db", " ", "ä/😀", "x" * 4096])
def test_a_path_reaches_the_agent_as_it_was_sent(api: APIClient, path: str) -> None:
    for url, body in (
        ("/download/client1", {"path": path}),
        (TRANSFERS, {"client": "client1", "path": path}),
    ):
        response = api.post(url, body, format="json")
        assert (response.status_code, response.json()["path"]) == (202, path)


def test_a_new_transfer_says_all_there_is_to_know(
    api: APIClient, client1: Client, operator: User
) -> None:
    deadline = timezone.now() + timedelta(hours=1)
    response = api.post(
        TRANSFERS,
        {"client": "client1", "path": "/a", "deadline": deadline.isoformat()},
        format="json",
    )
    assert response.status_code == 202
    answer = response.json()
    UUID(answer.pop("id"))
    assert timezone.now() - datetime.fromisoformat(answer.pop("created_at")) < timedelta(minutes=1)
    assert datetime.fromisoformat(answer.pop("deadline")) == deadline
    assert answer == {
        "client": "client1",
        "path": "/a",
        "status": "queued",
        "name": "",
        "size": None,
        "received": 0,
        "checkpoint": 0,
        "wire_bytes": 0,
        "sha256": "",
        "source_sha256": "",
        "file": None,
        "attempts": 0,
        "error": None,
        "next_attempt_at": None,
        "rate": None,
        "waits_for": "client1 to come online",
        "reason": "",
        "held": False,
        "removed_at": None,
        "rate_limit": None,
        "requested_by": "olga",
        "started_at": None,
        "finished_at": None,
    }


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/download/client2", {}),
        ("/download/a%20b", {}),
        ("/download/%00", {}),
        ("/download/%E2%80%AE", {}),
        (TRANSFERS, {"client": "client2"}),
        (TRANSFERS, {"client": "a b"}),
    ],
)
@pytest.mark.usefixtures("client1")
def test_an_unknown_client_is_not_found(api: APIClient, url: str, body: Any) -> None:
    assert_refused(api.post(url, body, format="json"), 404, "not_found", "There is no client")


BAD_BODIES = {
    "an empty path": ({"path": ""}, "path"),
    "a path that is too long": ({"path": "x" * 4097}, "path"),
    "a path with NUL": ({"path": "a\0b"}, "path"),
    "a path that is a list": ({"path": ["a"]}, "path"),
    "a path that is an object": ({"path": {}}, "path"),
    "a path that is a boolean": ({"path": True}, "path"),
    "a rate below the least": ({"rate_limit": 1023}, "rate_limit"),
    "a rate above the most": ({"rate_limit": 2**63}, "rate_limit"),
    "a rate that is a string": ({"rate_limit": "2048"}, "rate_limit"),
    "a rate that is a boolean": ({"rate_limit": True}, "rate_limit"),
    "a rate that is a fraction": ({"rate_limit": 2048.0}, "rate_limit"),
    "an unknown field": ({"paht": "/a"}, "paht"),
}


@pytest.mark.parametrize(("body", "field"), BAD_BODIES.values(), ids=BAD_BODIES)
@pytest.mark.parametrize(
    ("url", "more"), [("/download/client1", {}), (TRANSFERS, {"client": "client1"})]
)
@pytest.mark.usefixtures("client1")
def test_a_bad_body_is_refused_with_the_field_named(
    api: APIClient, url: str, more: Any, body: Any, field: str
) -> None:
    assert_refused(api.post(url, more | body, format="json"), 400, "invalid", f"{field}: ")
    assert not Transfer.objects.exists()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "client"),
        ({"client": None}, "client"),
        ({"client": ["client1"]}, "client"),
        ({"client": "x" * 65}, "client"),
        ({"client": "a\0"}, "client"),
        ({"client": "client1", "deadline": "tomorrow"}, "deadline"),
        ({"client": "client1", "deadline": "2020-01-01T00:00:00Z"}, "deadline"),
        ({"client": "client1", "deadline": 5}, "deadline"),
        ({"client": "client1", "deadline": "9999-12-31T23:59:59-23:59"}, "deadline"),
        ({"client": "client1", "if_offline": "explode"}, "if_offline"),
        ({"client": "client1", "if_offline": None}, "if_offline"),
        ({"client": "client1", "if_offline": ["fail"]}, "if_offline"),
        ({"client": "client1", "status": "completed"}, "status"),
    ],
)
@pytest.mark.usefixtures("client1")
def test_a_bad_request_is_refused_with_the_field_named(
    api: APIClient, body: Any, field: str
) -> None:
    assert_refused(api.post(TRANSFERS, body, format="json"), 400, "invalid", f"{field}: ")
    assert not Transfer.objects.exists()


@pytest.mark.usefixtures("client1")
def test_a_path_that_is_a_number_is_refused(api: APIClient) -> None:
    response = api.post("/download/client1", {"path": 5}, format="json")
    assert_refused(response, 400, "invalid", "path: ")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"path": ', "parse_error"),
        (b"\xff\xfe", "parse_error"),
        (b'{"path": NaN}', "parse_error"),
        (b"[]", "invalid"),
        (b'"path"', "invalid"),
        (b"null", "invalid"),
        (b'{"path": "\\ud800"}', "invalid"),
        (b'{"path": "\\u0000"}', "invalid"),
    ],
)
@pytest.mark.usefixtures("client1")
def test_a_body_that_is_no_json_object_is_refused(api: APIClient, data: bytes, code: str) -> None:
    response = api.post("/download/client1", data, content_type="application/json")
    assert_refused(response, 400, code)
    assert not Transfer.objects.exists()


@pytest.mark.usefixtures("client1")
def test_only_json_is_understood(api: APIClient) -> None:
    response = api.post("/download/client1", b"path=/a", content_type="text/plain")
    assert_refused(response, 415, "unsupported_media_type")


def test_an_offline_client_is_waited_for_unless_the_request_says_otherwise(
    api: APIClient, client1: Client
) -> None:
    fail = {"client": "client1", "if_offline": "fail"}
    assert_refused(api.post(TRANSFERS, fail, format="json"), 409, "client_offline", "client1")
    assert not Transfer.objects.exists()
    queue = {"client": "client1", "if_offline": "queue"}
    assert api.post(TRANSFERS, queue, format="json").status_code == 202
    come_online(client1)
    assert api.post(TRANSFERS, fail, format="json").status_code == 202


@pytest.mark.parametrize("url", ["/download/client1", TRANSFERS])
def test_nothing_is_asked_of_a_revoked_client(api: APIClient, client1: Client, url: str) -> None:
    client1.revoke()
    body = {"client": "client1"} if url == TRANSFERS else {}
    assert_refused(api.post(url, body, format="json"), 409, "revoked", "client1")


# Asking again ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize("url", ["/download/client1", TRANSFERS])
def test_a_repeated_request_gets_the_first_ones_transfer(api: APIClient, url: str) -> None:
    body = {"client": "client1"} if url == TRANSFERS else {}
    first, again = (
        api.post(url, body, format="json", headers={"Idempotency-Key": "k"}) for _ in range(2)
    )
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert first["Location"] == again["Location"]
    Transfer.objects.get().cancel()
    other = api.post(url, body, format="json", headers={"Idempotency-Key": "l"})
    assert other.json()["id"] != first.json()["id"]


@pytest.mark.usefixtures("client1")
def test_another_user_with_the_same_key_gets_a_transfer_of_their_own(api: APIClient) -> None:
    otto = User.objects.create_superuser("otto")
    theirs = APIClient(headers={"Authorization": token_of(otto)})
    key = {"Idempotency-Key": "k"}
    ids = {
        each.post("/download/client1", body, format="json", headers=key).json()["id"]
        for each, body in ((api, {"path": "/a"}), (theirs, {"path": "/b"}))
    }
    assert len(ids) == 2


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_1_to_255_characters(api: APIClient, key: str) -> None:
    response = api.post("/download/client1", headers={"Idempotency-Key": key})
    assert_refused(response, 400, "invalid", "Idempotency-Key")


def test_a_repeated_request_gets_the_first_ones_transfer_though_the_client_left(
    api: APIClient, client1: Client
) -> None:
    """The repeat is what a program sends that did not hear the first answer."""
    come_online(client1)
    body = {"client": "client1", "if_offline": "fail"}
    first = api.post(TRANSFERS, body, format="json", headers={"Idempotency-Key": "k"})
    client1.went_offline(client1.epoch)
    again = api.post(TRANSFERS, body, format="json", headers={"Idempotency-Key": "k"})
    assert first.status_code == 202
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


@pytest.mark.parametrize("url", ["/download/client1", TRANSFERS])
def test_a_repeated_request_gets_the_first_ones_transfer_though_the_client_was_revoked(
    api: APIClient, client1: Client, url: str
) -> None:
    body = {"client": "client1"} if url == TRANSFERS else {}
    key = {"Idempotency-Key": "k"}
    first = api.post(url, body, format="json", headers=key)
    client1.revoke()
    again = api.post(url, body, format="json", headers=key)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert again["Location"] == first["Location"]
    assert again.json()["error"]["code"] == "revoked"


# How fast -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "more"), [("/download/client1", {}), (TRANSFERS, {"client": "client1"})]
)
@pytest.mark.usefixtures("client1")
def test_a_rate_limit_is_asked_for_and_changed(api: APIClient, url: str, more: Any) -> None:
    asked = api.post(url, more | {"rate_limit": 2048}, format="json").json()
    assert asked["rate_limit"] == 2048
    one = f"{TRANSFERS}{asked['id']}/"
    for rate_limit in (2**20, None):
        changed = api.patch(one, {"rate_limit": rate_limit}, format="json")
        assert (changed.status_code, changed.json()["rate_limit"]) == (200, rate_limit)
        assert api.get(one).json()["rate_limit"] == rate_limit


def test_who_is_answered_with_a_transfer_under_way_does_not_change_its_rate(
    api: APIClient, make: Make
) -> None:
    make(path="/a", rate_limit=2048, duplicate=False)
    for body in ({"path": "/a"}, {"path": "/a", "rate_limit": 4096}):
        assert api.post("/download/client1", body, format="json").json()["rate_limit"] == 2048


@pytest.mark.parametrize("status", sorted(FINAL))
def test_what_has_ended_has_no_rate_to_change(api: APIClient, make: Make, status: str) -> None:
    response = api.patch(f"{TRANSFERS}{make(status).pk}/", {"rate_limit": 2048}, format="json")
    assert_refused(response, 409, "conflict", "has ended")


@pytest.mark.parametrize("body", [{}, {"rate_limit": "fast"}, {"rate_limit": 0}, {"path": "/b"}])
def test_a_bad_change_of_the_rate_is_refused(api: APIClient, make: Make, body: Any) -> None:
    transfer = make(rate_limit=2048)
    assert_refused(api.patch(f"{TRANSFERS}{transfer.pk}/", body, format="json"), 400, "invalid")
    transfer.refresh_from_db()
    assert transfer.rate_limit == 2048


# Who may -----------------------------------------------------------------------------------------


def calls(transfer: Transfer) -> dict[str, tuple[str, str, str]]:
    """Every call of the API: its method, its path, and the permission that it takes."""
    one = f"{TRANSFERS}{transfer.pk}/"
    return {
        "download": ("post", "/download/client1", "add_transfer"),
        "create": ("post", TRANSFERS, "add_transfer"),
        "list": ("get", TRANSFERS, "view_transfer"),
        "retrieve": ("get", one, "view_transfer"),
        "content": ("get", f"{one}content/", "fetch_file"),
        "limit": ("patch", one, "change_transfer"),
        "cancel": ("post", f"{one}cancel/", "change_transfer"),
        "retry": ("post", f"{one}retry/", "change_transfer"),
        "clients": ("get", "/api/v1/clients/", "view_client"),
        "client": ("get", "/api/v1/clients/client1/", "view_client"),
    }


CALLS = [
    "download",
    "create",
    "list",
    "retrieve",
    "content",
    "limit",
    "cancel",
    "retry",
    "clients",
    "client",
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Token",
        "Token wrong",
        "Token a b",
        "Token t\xf6ken",
        "Token " + "f" * 64,
        "Token \xff",
    ],
)
def test_without_a_token_that_is_known_nothing_is_said(
    make: Make, call: str, authorization: str | None
) -> None:
    method, path, _ = calls(make())[call]
    api = APIClient(headers={"Authorization": authorization} if authorization else {})
    response = getattr(api, method)(path)
    assert response.status_code == 401
    assert_refused(response, 401, response.json()["code"])
    assert response.json()["code"] in ("not_authenticated", "authentication_failed")
    assert response["WWW-Authenticate"] == "Token"
    assert Transfer.objects.count() == 1


@pytest.mark.parametrize("call", CALLS)
def test_each_call_takes_a_right_of_its_own(make: Make, call: str) -> None:
    method, path, right = calls(make("failed"))[call]
    user = User.objects.create_user("otto")
    rights = Permission.objects.filter(content_type__app_label="transfers")
    user.user_permissions.set(rights.exclude(codename=right))
    api = APIClient(headers={"Authorization": token_of(user)})
    assert_refused(getattr(api, method)(path), 403, "permission_denied")
    user.user_permissions.set(rights.filter(codename=right))
    assert getattr(api, method)(path).status_code not in (401, 403)


def test_a_user_who_was_deactivated_is_refused(api: APIClient, operator: User) -> None:
    User.objects.update(is_active=False)
    assert_refused(api.get(TRANSFERS), 401, "authentication_failed")


@pytest.mark.usefixtures("client1")
def test_a_session_needs_a_csrf_token_to_change_anything(operator: User) -> None:
    browser = Browser(enforce_csrf_checks=True)
    browser.force_login(operator)
    assert browser.get(TRANSFERS).status_code == 200
    post = partial(browser.post, "/download/client1", content_type="application/json")
    assert_refused(post(), 403, "permission_denied", "CSRF")
    browser.cookies["csrftoken"] = "x" * 32
    response = post(headers={"X-CSRFToken": "x" * 32})
    assert (response.status_code, response.json()["requested_by"]) == (202, "olga")


# Looking -----------------------------------------------------------------------------------------


def ids(response: Any) -> list[str]:
    assert response.status_code == 200
    return [each["id"] for each in response.json()["results"]]


def test_transfers_are_listed_newest_first_in_pages(api: APIClient, make: Make) -> None:
    now = timezone.now()
    made = [str(make(created_at=now + timedelta(seconds=n)).pk) for n in range(51)]
    first = api.get(TRANSFERS)
    assert first.json()["count"] == 51
    assert ids(first) == made[:0:-1]
    assert first.json()["previous"] is None
    second = api.get(first.json()["next"])
    assert ids(second) == made[:1]
    assert second.json()["next"] is None
    assert_refused(api.get(TRANSFERS, {"page": "3"}), 404, "not_found")


def test_transfers_are_filtered_by_client_and_status(api: APIClient, make: Make) -> None:
    other = Client.objects.create(id="client2", token_sha256="2")
    mine, theirs, failed = make(), make(client=other), make("failed")
    assert ids(api.get(TRANSFERS, {"client": "client2"})) == [str(theirs.pk)]
    assert ids(api.get(TRANSFERS, {"status": "failed"})) == [str(failed.pk)]
    both = {"client": "client1", "status": "queued"}
    assert ids(api.get(TRANSFERS, both)) == [str(mine.pk)]
    assert ids(api.get(TRANSFERS, {"client": "client2", "status": "failed"})) == []


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize(
    ("name", "value"), [("status", "nonsense"), ("client", "nobody"), ("client", "\0")]
)
def test_a_filter_for_what_does_not_exist_is_refused(api: APIClient, name: str, value: str) -> None:
    assert_refused(api.get(TRANSFERS, {name: value}), 400, "invalid", f"{name}: ")


@pytest.mark.parametrize("count", [1, 20])
def test_a_list_takes_as_many_queries_for_many_rows_as_for_one(
    api: APIClient, make: Make, django_assert_num_queries: DjangoAssertNumQueries, count: int
) -> None:
    for n in range(count):
        make(
            client=Client.objects.create(id=f"till{n}", token_sha256=str(n)),
            requested_by=User.objects.create_user(f"user{n}"),
        )
    # Token, user, rights of the user and of its groups, scope, count, rows.
    with django_assert_num_queries(7):
        assert len(ids(api.get(TRANSFERS))) == count


def test_an_error_is_told_as_a_code_and_a_sentence(api: APIClient, make: Make) -> None:
    transfer = make("failed", error_code="not_found", error_detail="No such file.")
    answer = api.get(f"{TRANSFERS}{transfer.pk}/").json()
    assert answer["error"] == {"code": "not_found", "detail": "No such file."}


@pytest.mark.parametrize("status", Status.values)
def test_a_file_is_told_only_once_it_has_landed(api: APIClient, make: Make, status: str) -> None:
    transfer = make(status, file="client1_a.db")
    answer = api.get(f"{TRANSFERS}{transfer.pk}/").json()
    assert (answer["status"], answer["file"]) == (
        status,
        "client1_a.db" if status == "completed" else None,
    )


def test_a_requester_who_is_gone_is_null(api: APIClient, make: Make) -> None:
    user = User.objects.create_user("otto")
    transfer = make(requested_by=user)
    user.delete()
    assert api.get(f"{TRANSFERS}{transfer.pk}/").json()["requested_by"] is None


@pytest.mark.parametrize(
    "pk", ["5f0c3c8e-1d3a-4b8e-9a51-0d5f6a7b8c9d", "-" * 36, "0" * 36, "nonsense", "1"]
)
@pytest.mark.parametrize("rest", ["", "content/", "cancel/", "retry/"])
def test_an_unknown_transfer_is_not_found(api: APIClient, pk: str, rest: str) -> None:
    url = f"{TRANSFERS}{pk}/{rest}"
    assert_refused(
        api.post(url) if rest in ("cancel/", "retry/") else api.get(url), 404, "not_found"
    )


def test_clients_are_told_with_their_presence_and_never_their_token(
    api: APIClient, client1: Client
) -> None:
    client1.label(["berlin"])
    client1.save()
    Client.objects.create(id="client2", token_sha256="2")
    come_online(client1)
    one, two = api.get("/api/v1/clients/").json()["results"]
    assert one.keys() == {
        "id", "status", "online", "last_seen", "platform", "hostname", "agent_version", "labels",
        "created_at", "enrolled_at", "rotate_requested_at",
    }  # fmt: skip
    assert (one["id"], one["online"], one["labels"]) == ("client1", True, ["berlin"])
    assert (one["platform"], one["hostname"], one["agent_version"]) == ("Linux", "till", "1")
    assert (two["id"], two["online"], two["last_seen"]) == ("client2", False, None)
    assert api.get("/api/v1/clients/client1/").json() == one


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize("name", ["client2", "%00", "a%20b"])
def test_a_client_that_is_unknown_is_not_found(api: APIClient, name: str) -> None:
    assert_refused(api.get(f"/api/v1/clients/{name}/"), 404, "not_found")


def test_a_client_id_may_have_dots(api: APIClient) -> None:
    Client.objects.create(id="till.berlin-1", token_sha256="1")
    assert api.get("/api/v1/clients/till.berlin-1/").status_code == 200
    assert api.post("/download/till.berlin-1").status_code == 202


# Steering ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", Status.values)
def test_what_has_not_ended_can_be_cancelled(api: APIClient, make: Make, status: str) -> None:
    response = api.post(f"{TRANSFERS}{make(status).pk}/cancel/")
    if status in ("completed", "failed", "cancelled", "expired"):
        assert_refused(response, 409, "conflict", status)
    else:
        assert response.status_code == 200
        assert response.json()["status"] == response.json()["error"]["code"] == "cancelled"


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
def test_what_has_not_failed_cannot_be_retried(api: APIClient, make: Make, status: str) -> None:
    response = api.post(f"{TRANSFERS}{make(status).pk}/retry/")
    assert_refused(response, 409, "conflict", status)


def test_what_failed_can_be_retried(api: APIClient, make: Make) -> None:
    transfer = make("failed", error_code="storage_full", error_detail="Full.")
    response = api.post(f"{TRANSFERS}{transfer.pk}/retry/")
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["error"]) == ("queued", None)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "/download/client1"),
        ("put", TRANSFERS),
        ("delete", TRANSFERS),
        ("post", "/api/v1/clients/"),
    ],
)
def test_what_a_page_cannot_do_is_told_as_that(api: APIClient, method: str, path: str) -> None:
    """Else an operator looks for a missing right: `GET` on the trigger is an easy mistake."""
    assert_refused(getattr(api, method)(path), 405, "method_not_allowed", method.upper())
    assert_refused(getattr(APIClient(), method)(path), 401, "not_authenticated")


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_nothing_is_changed_or_deleted_by_hand(api: APIClient, make: Make, method: str) -> None:
    """`PATCH` of a transfer has one field, `rate_limit`, and tests of its own."""
    transfer = make()
    paths = {TRANSFERS, f"{TRANSFERS}{transfer.pk}/", "/api/v1/clients/"}
    for path in paths - ({f"{TRANSFERS}{transfer.pk}/"} if method == "patch" else set()):
        response = getattr(api, method)(path, {"status": "completed"}, format="json")
        assert_refused(response, 405, "method_not_allowed", method.upper())
    assert Transfer.objects.get().status == "queued"


# Reasons and labels ------------------------------------------------------------------------------


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize("url", ["/download/client1", TRANSFERS])
def test_a_reason_is_kept_and_can_be_made_mandatory(
    api: APIClient, settings: Settings, url: str
) -> None:
    settings.REQUIRE_REASON = True
    body = {} if url != TRANSFERS else {"client": "client1"}
    for without in ({}, {"reason": ""}, {"reason": " "}):
        assert_refused(api.post(url, body | without, format="json"), 400, "invalid", "reason")
    answer = api.post(url, body | {"reason": "ticket 7"}, format="json")
    assert (answer.status_code, answer.json()["reason"]) == (202, "ticket 7")


@pytest.fixture
def boss(db: None) -> APIClient:
    """An admin's program."""
    user = User.objects.create_user("anna")
    join_group(user, "admin")
    return APIClient(headers={"Authorization": token_of(user)})


def test_an_admin_labels_a_client(boss: APIClient, client1: Client) -> None:
    url = "/api/v1/clients/client1/"
    for labels in (["berlin", "kiosk"], ["rome"], []):
        answer = boss.patch(url, {"labels": labels}, format="json")
        assert (answer.status_code, answer.json()["labels"]) == (200, labels)
    assert not client1.labels.exists()


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize(
    "body",
    [
        {}, {"labels": "berlin"}, {"labels": ["a b"]}, {"labels": ["<b>"]}, {"labels": [7]},
        {"labels": ["x" * 65]}, {"labels": ["a"], "id": "x"}, [],
    ],
)  # fmt: skip
def test_labels_that_cannot_be_are_refused(boss: APIClient, body: Any) -> None:
    assert_refused(boss.patch("/api/v1/clients/client1/", body, format="json"), 400, "invalid")
    assert not Label.objects.exists()


def test_an_admin_revokes_a_client(boss: APIClient, client1: Client) -> None:
    assert boss.post("/api/v1/clients/client1/revoke/").status_code == 200
    client1.refresh_from_db()
    assert client1.revoked_at is not None
    assert_refused(boss.post("/download/client1"), 409, "revoked")


def test_a_client_outside_of_the_scope_is_as_if_it_were_not_there(
    api: APIClient, operator: User, make: Make
) -> None:
    known = api.post("/download/client1", headers={"Idempotency-Key": "k"})
    transfer = make("failed")
    Scope.objects.create(user=operator).labels.add(Label.objects.create(name="rome"))
    for method, path, _ in calls(transfer).values():
        body = {"client": "client1"} if path == TRANSFERS and method == "post" else None
        response = getattr(api, method)(path, body, format="json" if body else None)
        if path in (TRANSFERS, "/api/v1/clients/") and method == "get":
            assert response.json()["count"] == 0
        else:
            assert_refused(response, 404, "not_found")
    nobody, client1 = (api.get(TRANSFERS, {"client": name}) for name in ("nobody", "client1"))
    assert nobody.json() == client1.json()
    again = api.post("/download/client1", headers={"Idempotency-Key": "k"})
    assert (known.status_code, again.status_code) == (202, 404)


def test_a_token_ends_with_its_time(operator: User) -> None:
    _, token = AuthToken.objects.create(operator, expiry=timedelta(seconds=-1))
    api = APIClient(headers={"Authorization": f"Token {token}"})
    assert_refused(api.get(TRANSFERS), 401, "authentication_failed")


def test_a_fetch_is_on_record_and_takes_a_right_of_its_own(
    api: APIClient, make: Make, data_dir: Path
) -> None:
    (data_dir / "downloads/x").write_bytes(b"landed")
    transfer = make("completed", file="x", sha256=SHA)
    api.get(f"{TRANSFERS}{transfer.pk}/content/", headers={"Range": "bytes=0-1"})
    row = AuditRecord.objects.get(event="fetched")
    assert (row.actor, row.transfer) == ("user olga", transfer.pk)
    assert row.details == {"sha256": SHA, "range": "bytes=0-1"}


# The file ----------------------------------------------------------------------------------------


def body(response: Any) -> bytes:
    """What an asynchronous response streams."""

    async def read() -> bytes:
        return b"".join([block async for block in response.streaming_content])

    return asyncio.run(read())


@pytest.fixture
def content(make: Make, data_dir: Path) -> str:
    """The URL of a landed file of ten bytes."""
    (data_dir / "downloads/client1_a.db").write_bytes(b"0123456789")
    transfer = make("completed", file="client1_a.db", sha256=SHA, size=10)
    return f"{TRANSFERS}{transfer.pk}/content/"


def test_a_landed_file_is_served_as_an_attachment(api: APIClient, content: str) -> None:
    response = api.get(content)
    assert response.status_code == 200
    assert response["Content-Type"] == "application/octet-stream"
    assert response["Content-Disposition"] == 'attachment; filename="client1_a.db"'
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Content-Length"] == "10"
    assert response["ETag"] == f'"{SHA}"'
    assert body(response) == b"0123456789"


def test_a_range_of_a_landed_file_is_served(api: APIClient, content: str) -> None:
    response = api.get(content, headers={"Range": "bytes=7-"})
    assert (response.status_code, response["Content-Range"]) == (206, "bytes 7-9/10")
    assert body(response) == b"789"
    response = api.get(content, headers={"Range": "bytes=7-", "If-Range": '"old"'})
    assert (response.status_code, body(response)) == (200, b"0123456789")
    response = api.get(content, headers={"Range": "bytes=10-"})
    assert (response.status_code, response["Content-Range"]) == (416, "bytes */10")


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.COMPLETED}))
def test_a_file_that_has_not_landed_is_a_conflict(
    api: APIClient, make: Make, data_dir: Path, status: str
) -> None:
    (data_dir / "downloads/f").touch()
    response = api.get(f"{TRANSFERS}{make(status, file='f').pk}/content/")
    assert_refused(response, 409, "conflict", status)


@pytest.mark.parametrize("code", ERRORS)
def test_a_file_that_will_not_land_is_refused_with_what_went_wrong(
    api: APIClient, make: Make, data_dir: Path, code: str
) -> None:
    (data_dir / "downloads/f").touch()
    transfer = make("failed", file="f", error_code=code, error_detail="Bad luck.")
    response = api.get(f"{TRANSFERS}{transfer.pk}/content/")
    assert_refused(response, ERRORS[code].http_status, code, "Bad luck.")


def test_a_landed_file_that_was_removed_is_not_found(
    api: APIClient, content: str, data_dir: Path
) -> None:
    (data_dir / "downloads/client1_a.db").unlink()
    assert_refused(api.get(content), 404, "not_found", "removed")


# Health, the agents' door, and what is not there -------------------------------------------------


@pytest.mark.django_db
def test_a_healthy_server_says_so_to_anybody() -> None:
    response = APIClient().get("/healthz")
    assert (response.status_code, response.json()) == (200, {"code": "healthy"})


@pytest.mark.django_db
def test_a_server_without_its_data_directory_is_unhealthy(data_dir: Path) -> None:
    (data_dir / "partial").rmdir()
    assert_refused(APIClient().get("/healthz"), 503, "unhealthy")


@pytest.mark.django_db
def test_a_server_without_its_database_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    def down() -> None:
        raise ConnectionError("secret address")

    monkeypatch.setattr(connection, "cursor", down)
    response = APIClient().get("/healthz")
    assert_refused(response, 503, "unhealthy")
    assert "secret" not in response.json()["detail"]


def knock(client_id: str, **headers: str) -> Any:
    return APIClient().get(f"/ws/agent/{client_id}/", headers=headers)


@pytest.mark.usefixtures("client1")
def test_an_agent_is_told_that_its_token_would_do(token: str) -> None:
    response = knock("client1", Authorization=f"Bearer {token}")
    assert_refused(response, 426, "upgrade_required", "WebSocket", "silentmode.v1")
    assert response["Upgrade"] == "websocket"


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic eDp5", "Bearer t\xf6ken\xff"]
)
def test_an_agent_without_a_token_that_is_known_is_unauthorized(authorization: str) -> None:
    assert_refused(knock("client1", Authorization=authorization), 401, "unauthorized")
    assert_refused(knock("nobody", Authorization=authorization), 401, "unauthorized")


@pytest.mark.usefixtures("client1")
def test_a_token_is_a_bearer_token(token: str) -> None:
    assert_refused(knock("client1", Authorization=f"Token {token}"), 401, "unauthorized")


@pytest.mark.usefixtures("client1")
def test_an_agent_with_another_id_than_its_tokens_is_told(token: str) -> None:
    response = knock("client2", Authorization=f"Bearer {token}")
    assert_refused(response, 403, "wrong_id", "client2")


def test_a_revoked_agent_is_told(client1: Client, token: str) -> None:
    client1.revoke()
    assert_refused(knock("client1", Authorization=f"Bearer {token}"), 403, "revoked")


@pytest.mark.usefixtures("client1")
def test_a_browser_is_turned_away_at_the_agents_door(token: str) -> None:
    response = knock("client1", Authorization=f"Bearer {token}", Origin="https://evil.example")
    assert_refused(response, 403, "forbidden")


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1/", "/download/", "/download/a/b"])
def test_a_page_that_does_not_exist_is_told_as_json(api: APIClient, path: str) -> None:
    assert_refused(api.get(path), 404, "not_found")


def test_a_host_that_is_not_allowed_is_told_as_json(settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["silentmode.example"]
    response = APIClient().get(TRANSFERS, headers={"Host": "evil.example"})
    assert_refused(response, 400, "bad_request")


def test_a_failure_inside_is_told_as_json(operator: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("transfers.views.TransferViewSet.get_queryset", broken)
    api = APIClient(raise_request_exception=False, headers={"Authorization": token_of(operator)})
    response = api.get(TRANSFERS)
    assert_refused(response, 500, "internal", ERRORS["internal"].sentence)
    assert "a bug" not in response.json()["detail"]


def test_an_idempotency_key_is_not_for_two_requests(api: APIClient, client1: Client) -> None:
    Client.objects.create(id="client2", token_sha256="2")
    key = {"Idempotency-Key": "k1"}
    assert api.post("/download/client1", headers=key).status_code == 202
    again = api.post("/download/client2", headers=key)
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_key_reused")
    other = api.post("/download/client1", {"path": "/x"}, headers=key, format="json")
    assert other.status_code == 409


def test_a_body_that_is_no_json_is_told_what_to_send(api: APIClient, client1: Client) -> None:
    form = "application/x-www-form-urlencoded"
    answer = api.post("/download/client1", "path=x", content_type=form)
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["detail"]
