"""A list of the admin can be narrowed by what its filters show, and by no other column."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.test import RequestFactory

from transfers.admin.base import NarrowAdmin

SECRETS = {
    "transfers/client": ("token_sha256", "next_token_sha256", "codes__digest", "epoch"),
    "transfers/transfer": ("client__token_sha256", "client__codes__digest", "requested_by__password"),
    "transfers/enrolmentkey": ("digest", "client__token_sha256", "given__token_sha256"),
    "transfers/auditrecord": ("digest", "previous", "details__user"),
    "transfers/webhook": ("secret", "told", "url"),
    "transfers/delivery": ("webhook__secret", "body", "answer"),
    "transfers/label": ("clients__token_sha256", "scopes__user__password"),
    "auth/user": ("password", "auth_token_set__digest", "transfers__client__token_sha256"),
    "knox/authtoken": ("digest", "token_key", "user__password"),
}  # fmt: skip


A, B = "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"


@pytest.fixture
def boss(db: None) -> Browser:
    """The browser of a superuser, who may see every page."""
    browser = Browser()
    browser.force_login(User.objects.create_superuser("root"))
    return browser


def test_every_list_is_narrow() -> None:
    pages = {model._meta.label_lower.replace(".", "/"): page for model, page in registry()}
    assert pages.keys() == SECRETS.keys()
    assert all(isinstance(page, NarrowAdmin) for page in pages.values())


def registry() -> Any:
    return admin.site._registry.items()


@pytest.mark.parametrize("page", SECRETS)
@pytest.mark.parametrize("how", ["", "__startswith", "__exact", "__gt", "__isnull", "__regex"])
def test_nobody_guesses_a_secret_by_a_lists_parameters(boss: Browser, page: str, how: str) -> None:
    for column in SECRETS[page]:
        answer = boss.get(f"/admin/{page}/", {f"{column}{how}": "1"})
        assert answer.status_code == 400, column


@pytest.mark.parametrize(
    ("page", "parameters"),
    [
        ("transfers/client", ("status=active", "labels__name__exact=rome", "labels__isnull=True",
                              "platform=Linux", "agent_version=1",
                              f"created_at__gte={A}&created_at__lt={B}")),
        ("transfers/transfer", ("status__exact=queued", "error_code=internal", "held__exact=1",
                                "client__id__exact=client1", f"created_at__gte={A}&created_at__lt={B}")),
        ("transfers/auditrecord", ("event=requested", f"at__gte={A}&at__lt={B}")),
        ("auth/user", ("is_staff__exact=1", "groups__id__exact=1")),
        ("knox/authtoken", ("expiry__isnull=True",
                            f"expiry__gte={A}&expiry__lt={B}")),
    ],
)  # fmt: skip
def test_the_filters_links_work(boss: Browser, page: str, parameters: tuple[str, ...]) -> None:
    for each in parameters:
        answer = boss.get(f"/admin/{page}/?{each}")
        assert answer.status_code == 200, each


@pytest.mark.django_db
def test_every_parameter_of_every_filter_is_allowed() -> None:
    """What each filter says itself that it puts into its links."""
    request = RequestFactory().get("/")
    request.user = User.objects.create_superuser("root")
    for _, page in registry():
        changes = page.get_changelist_instance(request)
        filters, *_ = changes.get_filters(request)
        for each in filters:
            for parameter in each.expected_parameters():
                assert page.lookup_allowed(parameter, "", request), parameter
