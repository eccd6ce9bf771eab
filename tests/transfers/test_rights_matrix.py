"""Who gets what answer from every call of the API and every page: the whole matrix, cell by cell."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from knox.models import AuthToken
from rest_framework.test import APIClient

from transfers.access import join_group
from transfers.models import (
    Client,
    Delivery,
    EnrolmentKey,
    Event,
    Label,
    Scope,
    Transfer,
    Webhook,
    make_code,
    record,
)

PEOPLE = ("nobody", "viewer", "elsewhere", "operator", "admin")
"""`elsewhere` is an operator who is limited to labels that the client does not have."""

Cells = tuple[int, int, int, int, int]

API: dict[tuple[str, str], Cells] = {
    ("post", "/download/{client}"): (401, 403, 404, 202, 202),
    ("get", "/api/v1/transfers/"): (401, 200, 200, 200, 200),
    ("post", "/api/v1/transfers/"): (401, 403, 404, 202, 202),
    ("post", "/api/v1/transfers/batch/"): (401, 403, 404, 202, 202),
    ("get", "/api/v1/transfers/{id}/"): (401, 200, 404, 200, 200),
    ("patch", "/api/v1/transfers/{id}/"): (401, 403, 404, 200, 200),
    ("get", "/api/v1/transfers/{id}/history/"): (401, 200, 404, 200, 200),
    ("post", "/api/v1/transfers/{id}/cancel/"): (401, 403, 404, 200, 200),
    ("post", "/api/v1/transfers/{failed}/retry/"): (401, 403, 404, 200, 200),
    ("get", "/api/v1/transfers/{landed}/content/"): (401, 403, 404, 200, 200),
    ("post", "/api/v1/transfers/{landed}/hold/"): (401, 403, 404, 200, 200),
    ("post", "/api/v1/transfers/{landed}/release/"): (401, 403, 404, 200, 200),
    ("get", "/api/v1/events/"): (401, 200, 200, 200, 200),
    ("get", "/api/v1/clients/"): (401, 200, 200, 200, 200),
    ("get", "/api/v1/clients/{client}/"): (401, 200, 404, 200, 200),
    ("patch", "/api/v1/clients/{client}/"): (401, 403, 403, 403, 200),
    ("post", "/api/v1/clients/{client}/revoke/"): (401, 403, 403, 403, 200),
    ("post", "/api/v1/clients/{pending}/approve/"): (401, 403, 403, 403, 200),
    ("post", "/api/v1/clients/{client}/rotate/"): (401, 403, 403, 403, 200),
    ("post", "/api/v1/enrol/"): (403, 403, 403, 403, 403),  # the code decides, and nothing else
}
"""What a token gets."""

OPEN: dict[tuple[str, str], int] = {
    ("get", "/healthz"): 200,
    ("get", "/api/schema/"): 200,
    ("get", "/api/docs/"): 200,
    ("get", "/ws/agent/client1/"): 401,
    ("get", "/login/"): 200,
    ("get", "/admin/login/"): 200,
    ("get", "/"): 302,
}
"""What everybody gets, the same."""

NEVER: Cells = (302, 403, 403, 403, 403)
PAGES: dict[tuple[str, str], Cells] = {
    ("get", "/admin/"): (302, 200, 200, 200, 200),
    ("post", "/logout/"): (302, 302, 302, 302, 302),
    ("post", "/admin/logout/"): (302, 302, 302, 302, 302),
    ("get", "/metrics"): (401, 200, 403, 200, 200),
    ("get", "/clients/"): (302, 200, 200, 200, 200),
    ("get", "/clients/{client}/"): (302, 200, 404, 200, 200),
    ("post", "/clients/{client}/request/"): (302, 403, 404, 302, 302),
    ("get", "/transfers/"): (302, 200, 200, 200, 200),
    ("get", "/transfers/{id}/"): (302, 200, 404, 200, 200),
    ("post", "/transfers/{id}/cancel/"): (302, 403, 404, 302, 302),
    ("post", "/transfers/{failed}/retry/"): (302, 403, 404, 302, 302),
    ("get", "/admin/password_change/"): (302, 200, 200, 200, 200),
    ("get", "/admin/password_change/done/"): (302, 200, 200, 200, 200),
    ("get", "/admin/jsi18n/"): (302, 200, 200, 200, 200),
    ("get", "/admin/autocomplete/"): NEVER,
    ("get", "/admin/transfers/transfer/"): (302, 200, 200, 200, 200),
    ("get", "/admin/transfers/transfer/{id}/change/"): (302, 200, 302, 200, 200),
    ("get", "/admin/transfers/transfer/{id}/history/"): (302, 200, 302, 200, 200),
    ("get", "/admin/transfers/transfer/{id}/delete/"): NEVER,
    ("get", "/admin/transfers/transfer/add/"): NEVER,
    ("get", "/admin/transfers/client/"): (302, 200, 200, 200, 200),
    ("get", "/admin/transfers/client/{client}/change/"): (302, 200, 302, 200, 200),
    ("get", "/admin/transfers/client/{client}/history/"): (302, 200, 302, 200, 200),
    ("get", "/admin/transfers/client/{client}/delete/"): NEVER,
    ("get", "/admin/transfers/client/add/"): NEVER,
    ("get", "/admin/transfers/enrolmentkey/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/enrolmentkey/{key}/change/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/enrolmentkey/{key}/history/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/enrolmentkey/{key}/delete/"): NEVER,
    ("get", "/admin/transfers/enrolmentkey/add/"): NEVER,
    ("get", "/admin/transfers/auditrecord/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/auditrecord/1/change/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/auditrecord/1/history/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/auditrecord/1/delete/"): NEVER,
    ("get", "/admin/transfers/auditrecord/add/"): NEVER,
    ("get", "/admin/transfers/label/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/label/rome/change/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/label/rome/history/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/label/rome/delete/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/label/add/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/webhook/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/webhook/{webhook}/change/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/webhook/{webhook}/history/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/webhook/{webhook}/delete/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/webhook/add/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/delivery/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/delivery/{delivery}/change/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/delivery/{delivery}/history/"): (302, 403, 403, 403, 200),
    ("get", "/admin/transfers/delivery/{delivery}/delete/"): NEVER,
    ("get", "/admin/transfers/delivery/add/"): NEVER,
    ("get", "/admin/auth/user/"): (302, 403, 403, 403, 200),
    ("get", "/admin/auth/user/{user}/change/"): (302, 403, 403, 403, 200),
    ("get", "/admin/auth/user/{user}/password/"): (302, 403, 403, 403, 200),
    ("get", "/admin/auth/user/{user}/history/"): (302, 403, 403, 403, 200),
    ("get", "/admin/auth/user/{user}/delete/"): NEVER,
    ("get", "/admin/auth/user/{root}/change/"): (302, 403, 403, 403, 200),
    ("get", "/admin/auth/user/{root}/password/"): NEVER,
    ("get", "/admin/auth/user/add/"): (302, 403, 403, 403, 200),
    ("get", "/admin/knox/authtoken/"): (302, 403, 403, 403, 200),
    ("get", "/admin/knox/authtoken/{token}/change/"): (302, 403, 403, 403, 200),
    ("get", "/admin/knox/authtoken/{token}/history/"): (302, 403, 403, 403, 200),
    ("get", "/admin/knox/authtoken/{token}/delete/"): (302, 403, 403, 403, 200),
    ("get", "/admin/knox/authtoken/add/"): NEVER,
}
"""What a session gets of somebody who may log in to the admin, too; 302 for nobody is the login page, and
for `elsewhere` the message that there is no such row."""

ACTIONS: dict[tuple[str, str], tuple[bool, bool, bool, bool, bool]] = {
    ("transfer", "cancel"): (False, False, False, True, True),
    ("transfer", "retry"): (False, False, False, True, True),
    ("transfer", "hold"): (False, False, False, True, True),
    ("transfer", "release"): (False, False, False, True, True),
    ("client", "request_file"): (False, False, False, True, True),
    ("client", "label"): (False, False, False, False, True),
    ("client", "revoke"): (False, False, False, False, True),
    ("client", "approve"): (False, False, False, False, True),
    ("client", "rotate"): (False, False, False, False, True),
    ("client", "make_code"): (False, False, False, False, True),
    ("enrolmentkey", "revoke"): (False, False, False, False, True),
    ("delivery", "send_again"): (False, False, False, False, True),
}
"""Who can do an action of the admin's lists to this client."""


@pytest.fixture
def names(client1: Client, data_dir: Path) -> dict[str, str]:
    """What the paths are about: a client in Berlin and its transfers."""
    client1.label(["berlin"])
    Label.objects.create(name="rome")
    (data_dir / "downloads/landed.db").write_bytes(b"landed")

    def transfer(status: str, **values: Any) -> str:
        made = Transfer.objects.create(client=client1, status=status, duplicate=True, **values)
        return str(made.pk)

    record(Event.REQUESTED, client=client1)
    user = User.objects.create_user("someone")
    made, _ = AuthToken.objects.create(user)
    Client.objects.filter(pk="client1").update(renewable=True)
    make_code(client1, timedelta(hours=1))
    pending = Client.objects.create(id="waiting", token_sha256="w", approved_at=None)
    pending.label(["berlin"])
    webhook = Webhook.objects.create(url="https://hooks.example.com/")
    delivery = Delivery.objects.create(webhook=webhook, event="landed", body="{}")
    return {
        "client": "client1",
        "pending": "waiting",
        "key": str(EnrolmentKey.objects.get().pk),
        "id": transfer("queued"),
        "failed": transfer("failed"),
        "landed": transfer(
            "completed", file="landed.db", sha256="ab" * 32, finished_at=timezone.now()
        ),
        "user": str(user.pk),
        "root": str(User.objects.create_superuser("root").pk),
        "token": made.pk,
        "webhook": str(webhook.pk),
        "delivery": str(delivery.pk),
    }


def person(name: str) -> User | None:
    if name == "nobody":
        return None
    user = User.objects.create_user(name, is_staff=True)
    join_group(user, "operator" if name == "elsewhere" else name)
    if name == "elsewhere":
        Scope.objects.create(user=user).labels.add(Label.objects.get(name="rome"))
    return user


def browser_of(name: str) -> Browser:
    browser = Browser()
    if user := person(name):
        browser.force_login(user)
    return browser


def program_of(name: str) -> APIClient:
    user = person(name)
    if user is None:
        return APIClient()
    _, token = AuthToken.objects.create(user)
    return APIClient(headers={"Authorization": f"Token {token}"})


def cells(rows: dict[tuple[str, str], Any]) -> list[Any]:
    return [
        pytest.param(method, path, who, expected[n], id=f"{method} {path} {who}")
        for (method, path), expected in rows.items()
        for n, who in enumerate(PEOPLE)
    ]


@pytest.mark.parametrize(("method", "path", "who", "expected"), cells(API))
def test_api(names: dict[str, str], method: str, path: str, who: str, expected: int) -> None:
    body: dict[tuple[str, str], Any] = {
        ("post", "/api/v1/transfers/"): {"client": "client1"},
        ("post", "/api/v1/transfers/batch/"): {"client": "client1", "paths": ["/a", "/b"]},
        ("patch", "/api/v1/clients/{client}/"): {"labels": ["berlin"]},
        ("patch", "/api/v1/transfers/{id}/"): {"rate_limit": 2048},
        ("post", "/api/v1/enrol/"): {"code": "no" * 13, "token_sha256": "ab" * 32},
    }
    before = Transfer.objects.count()
    data = {} if method == "get" else {"data": body.get((method, path)), "format": "json"}
    response = getattr(program_of(who), method)(path.format(**names), **data)
    assert response.status_code == expected
    if expected >= 400:
        assert response.json().keys() == {"code", "detail"}
        assert Transfer.objects.count() == before
    if who == "elsewhere" and expected == 200 and not response.streaming:
        assert response.json()["count"] == 0


@pytest.mark.parametrize(("method", "path", "who", "expected"), cells(PAGES))
def test_page(names: dict[str, str], method: str, path: str, who: str, expected: int) -> None:
    response = getattr(browser_of(who), method)(path.format(**names))
    assert response.status_code == expected
    if expected == 302 and who == "nobody":
        assert response["Location"].startswith(("/admin/", "/login/"))
    if who == "elsewhere" and expected in (200, 302):
        assert "client1" not in response.content.decode()


@pytest.mark.parametrize("path", OPEN)
@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.usefixtures("names")
def test_what_is_for_everybody(path: tuple[str, str], who: str) -> None:
    expected = 302 if path[1].endswith("/login/") and who != "nobody" else OPEN[path]
    assert getattr(browser_of(who), path[0])(path[1]).status_code == expected


@pytest.mark.parametrize(
    ("model", "action", "who", "expected"),
    [
        pytest.param(model, action, who, expected[n], id=f"{action} of {model} by {who}")
        for (model, action), expected in ACTIONS.items()
        for n, who in enumerate(PEOPLE)
    ],
)
def test_action(names: dict[str, str], model: str, action: str, who: str, expected: bool) -> None:
    row = {
        "enrolmentkey": "key",
        "delivery": "delivery",
        "client": "client",
        "approve": "pending",
        "retry": "failed",
        "hold": "landed",
        "release": "landed",
    }
    chosen = names[row.get(action, row.get(model, "id"))]
    if action == "release":
        Transfer.objects.filter(pk=chosen).update(held=True)
    form = {
        "action": action,
        "_selected_action": chosen,
        "ask": "1",
        "path": "/new",
        "labels": "oslo",
        "valid_for": "1h",
    }
    before = state()
    browser_of(who).post(f"/admin/transfers/{model}/", form)
    assert (state() != before) is expected


def state() -> Any:
    """All that the actions could change."""
    return (
        list(Transfer.objects.order_by("pk").values_list("pk", "status", "held")),
        list(Client.objects.values_list("pk", "revoked_at", "approved_at", "rotate_requested_at")),
        list(EnrolmentKey.objects.values_list("pk", "revoked_at")),
        list(Delivery.objects.values_list("pk", "next_attempt_at")),
        list(Client.labels.through.objects.values_list("client", "label")),
    )


# The matrix is whole -----------------------------------------------------------------------------


def shape(path: str) -> str:
    """A path with its variable parts made alike."""
    return re.sub(r"\{[^}]*\}|(?<=/)(1|rome|client1)(?=/)", "*", path).rstrip("/")


@pytest.mark.django_db
def test_every_call_of_the_schema_is_in_it() -> None:
    schema = yaml.safe_load(Browser().get("/api/schema/").content)
    said = {(method, shape(path)) for path, calls in schema["paths"].items() for method in calls}
    assert said == {(method, shape(path)) for method, path in API}


def test_every_page_is_in_it() -> None:
    known = {shape(path) for _, path in (*API, *PAGES, *OPEN)}
    missing = [path for path in urls() if shape(path) not in known]
    assert not missing


def urls() -> Iterator[str]:
    """Every path that there is, with `{x}` for what varies."""
    yield from _urls(get_resolver().url_patterns, "/")


def _urls(patterns: list[Any], above: str) -> Iterator[str]:
    for pattern in patterns:
        here = above + _plain(str(pattern.pattern))
        if isinstance(pattern, URLResolver):
            yield from _urls(pattern.url_patterns, here)
        elif isinstance(pattern, URLPattern) and not _is_left_out(here):
            yield here


def _plain(pattern: str) -> str:
    pattern = re.sub(r"\(\?P<\w+>[^)]*\)|<[^>]*>", "{x}", pattern)
    return re.sub(r"[\^$?]|\\Z", "", pattern).replace("\\.", ".")


def _is_left_out(path: str) -> bool:
    """Redirects of the admin to its own pages, and its lists of an app."""
    return re.fullmatch(r"/admin/(\w+/\w+/|r/\{x\}/)?\{x\}/?", path) is not None


def test_every_action_of_the_admin_is_in_it() -> None:
    said = {
        (model._meta.model_name, name)
        for model, page in admin.site._registry.items()
        for name in _names(page.actions)
    }
    assert said == set(ACTIONS)


def _names(actions: Any) -> list[str]:
    return [each if isinstance(each, str) else each.__name__ for each in actions or ()]
