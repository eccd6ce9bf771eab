"""What a browser is told with every answer, and that our pages get by with it."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qsl, urljoin, urlsplit

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.http import HttpResponseBase, StreamingHttpResponse
from django.test import AsyncClient
from django.test import Client as Browser
from pytest_django import Settings

from transfers.models import Client, Transfer

HOSTILE = "<script>alert('x')</script>\"' onload=x \u202egpj.exe"
STATIC = "/static/admin/css/base.css"
POLICY = {
    "default-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "img-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
}


def policy(response: HttpResponseBase) -> dict[str, str]:
    parts = [part.strip().partition(" ") for part in response["Content-Security-Policy"].split(";")]
    return {name: value for name, _, value in parts}


@pytest.fixture
def landed(client1: Client, data_dir: Path) -> Transfer:
    """A transfer whose every text is hostile, and whose file is there."""
    (data_dir / "downloads/file").write_bytes(b"<script>alert(1)</script>")
    client1.hostname = client1.platform = client1.agent_version = HOSTILE
    client1.save()
    transfer = Transfer.objects.create(
        client=client1, status="completed", name=HOSTILE, path=HOSTILE, size=25, received=25,
        sha256="0" * 64, file="file", fingerprint=HOSTILE,
    )  # fmt: skip
    Transfer.objects.create(
        client=client1, status="failed", name=HOSTILE, error_code="not_found", error_detail=HOSTILE,
        duplicate=True,
    )  # fmt: skip
    return transfer


@pytest.fixture
def boss(db: None) -> Browser:
    browser = Browser(raise_request_exception=False)
    browser.force_login(User.objects.create_superuser("root", password="correct horse"))
    return browser


# Headers ------------------------------------------------------------------------------------------


@pytest.fixture
def everywhere(boss: Browser, landed: Transfer) -> dict[str, HttpResponseBase]:
    """One of each kind of answer."""
    content = f"/api/v1/transfers/{landed.pk}/content/"
    nobody = Browser()
    return {
        "page": boss.get("/admin/"),
        "login": nobody.get("/admin/login/"),
        "redirect": nobody.get("/admin/"),
        "root": nobody.get("/"),
        "api": boss.get("/api/v1/clients/"),
        "refused": nobody.get("/api/v1/clients/"),
        "schema": nobody.get("/api/schema/"),
        "docs": nobody.get("/api/docs/"),
        "docs' script": nobody.get("/api/docs/?script="),
        "content": boss.get(content),
        "range": boss.get(content, headers={"Range": "bytes=1-2"}),
        "no range": boss.get(content, headers={"Range": "bytes=99-"}),
        "agents' door": nobody.get("/ws/agent/client1/"),
        "health": nobody.get("/healthz"),
        "static": nobody.get(STATIC),
        "no such page": nobody.get("/nowhere"),
        "wrong method": nobody.post("/healthz"),
        "bad host": nobody.get("/", headers={"Host": "evil.example"}),
        "forgery": Browser(enforce_csrf_checks=True).post("/admin/login/"),
    }


def test_every_answer_has_the_headers_of_a_careful_server(
    everywhere: dict[str, HttpResponseBase],
) -> None:
    for kind, response in everywhere.items():
        headers = response.headers
        assert headers["X-Content-Type-Options"] == "nosniff", kind
        assert headers["X-Frame-Options"] == "DENY", kind
        assert headers["Referrer-Policy"] == "same-origin", kind
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin", kind
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin", kind
        assert "camera=()" in headers["Permissions-Policy"], kind
        assert policy(response)["default-src"] == "'none'", kind
        assert policy(response)["frame-ancestors"] == "'none'", kind
        assert "unsafe" not in headers["Content-Security-Policy"], kind
        assert "*" not in headers["Content-Security-Policy"], kind
        assert ("no-store" in headers["Cache-Control"]) == (kind != "static"), kind


def test_only_the_docs_may_fetch_and_only_from_here(
    everywhere: dict[str, HttpResponseBase],
) -> None:
    for kind, response in everywhere.items():
        if kind in ("docs", "docs' script"):
            more = {"connect-src": "'self'", "img-src": "'self' data:"}
            assert policy(response) == POLICY | more
        elif kind not in ("content", "range"):
            assert policy(response) == POLICY, kind


def test_a_file_is_only_ever_an_attachment_that_could_do_nothing(
    everywhere: dict[str, HttpResponseBase],
) -> None:
    for kind in ("content", "range"):
        response = everywhere[kind]
        assert response["Content-Type"] == "application/octet-stream"
        assert response["Content-Disposition"].startswith("attachment; ")
        assert policy(response) == {
            "default-src": "'none'", "frame-ancestors": "'none'", "sandbox": "",
        }  # fmt: skip


def test_an_error_of_ours_has_them_too(boss: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfers.refusals.exception_handler", None)
    response = boss.get("/api/v1/clients/nobody/")
    assert response.status_code == 500
    assert policy(response) == POLICY
    assert response["Cache-Control"] == "no-store"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/healthz", "/admin/login/", STATIC])
async def test_they_are_there_under_asgi_as_well(path: str) -> None:
    response = await AsyncClient().get(path)
    assert response.status_code == 200
    assert policy(response) == POLICY
    assert "camera=()" in response["Permissions-Policy"]
    if isinstance(response, StreamingHttpResponse):
        async for _ in response:
            pass


def test_cookies_are_for_our_own_pages_and_not_for_their_scripts(boss: Browser) -> None:
    user = User.objects.create_superuser("anna", password="correct horse")
    browser = Browser()
    browser.get("/admin/login/")
    answer = browser.post("/admin/login/", {"username": user.username, "password": "correct horse"})
    assert answer.status_code == 302
    assert set(answer.cookies) == {"sessionid", "csrftoken"}
    for cookie in answer.cookies.values():
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"
        assert cookie["path"] == "/"
        assert not cookie["domain"]


def test_behind_tls_browsers_are_told_to_stay_there(db: None, settings: Settings) -> None:
    settings.SECURE_HSTS_SECONDS = 365 * 24 * 3600
    assert Browser().get("/healthz", secure=True)["Strict-Transport-Security"] == "max-age=31536000"
    assert "Strict-Transport-Security" not in Browser().get("/healthz")


# Pages --------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page asks a browser to run and to load, and where it leads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = dict(attrs)
        if tag == "style" or (tag == "script" and not has.get("src")):
            self.inline.append(f"<{tag}>")
        self.inline += [name for name in has if name == "style" or name.startswith("on")]
        values = [value or "" for name, value in attrs if name in ("href", "src", "action")]
        self.inline += [
            value for value in values if re.match(r"\s*(javascript|data):", value, re.I)
        ]
        if tag in ("script", "img", "iframe", "source") or (tag == "link" and has.get("href")):
            self.loads += [value for value in values if value]
        elif tag == "a":
            self.links += values


OURS = ("/admin/", "/clients/", "/transfers/")


def crawl(browser: Browser, *starts: str) -> Iterator[tuple[str, Page]]:
    """Every page of the admin and of the console that can be reached from these."""
    todo, seen = list(starts), set(starts)
    while todo:
        url = todo.pop()
        response = browser.get(url)
        assert response.status_code == 200, url
        if not response["Content-Type"].startswith("text/html"):
            continue
        page = Page(response.content.decode())
        yield url, page
        for link in page.links:
            target = urljoin(url, link).partition("#")[0]
            address = urlsplit(target)
            # Each filter by itself: together they make thousands of addresses of the same pages.
            kept = address.path.startswith(OURS) and len(parse_qsl(address.query)) <= 1
            kept = kept and "logout" not in target
            if kept and target not in seen and len(seen) < 300:
                seen.add(target)
                todo.append(target)


def assert_within_the_policy(browser: Browser, url: str, page: Page) -> None:
    assert not page.inline, f"{url}: {page.inline}"
    for load in page.loads:
        assert urljoin("http://testserver/", load).startswith("http://testserver/"), (
            f"{url}: {load}"
        )


def assert_loads(browser: Browser, url: str) -> None:
    if url.startswith(
        "/static/"
    ):  # served by an iterator of asyncio, which this browser does not read
        assert finders.find(url.removeprefix("/static/")), url
    else:
        assert browser.get(url).status_code == 200, url


def test_no_page_needs_anything_inline_or_from_elsewhere(boss: Browser, landed: Transfer) -> None:
    """With texts of an agent that try: were they not escaped, they would be found as inline, too."""
    pages = dict(crawl(boss, "/admin/", "/clients/"))
    for url, page in pages.items():
        assert_within_the_policy(boss, url, page)
    for there in (
        "/admin/transfers/client/client1/change/",
        f"/admin/transfers/transfer/{landed.pk}/change/",
        "/admin/auth/user/add/",
        "/admin/password_change/",
        "/clients/client1/",
        f"/transfers/{landed.pk}/",
    ):
        assert there in pages
    for load in {load for page in pages.values() for load in page.loads}:
        assert_loads(boss, load)


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("/admin/transfers/client/", {"action": "request_file", "_selected_action": "client1"}),
        ("/admin/transfers/client/", {"action": "revoke", "_selected_action": "client1"}),
        ("/admin/auth/user/add/", {"username": HOSTILE}),
    ],
)
def test_no_page_after_a_form_does(
    boss: Browser, landed: Transfer, url: str, form: dict[str, str]
) -> None:
    response = boss.post(url, form)
    assert response.status_code == 200
    assert_within_the_policy(boss, url, Page(response.content.decode()))


def test_neither_does_who_is_not_logged_in(db: None) -> None:
    browser = Browser()
    for url in ("/admin/login/", "/api/docs/"):
        page = Page(browser.get(url).content.decode())
        assert_within_the_policy(browser, url, page)
        assert page.loads
        for load in page.loads:
            assert_loads(browser, urljoin(url, load))


def test_the_crawl_would_notice() -> None:
    html = "<script>1</script><p style=a onclick=b><a href=' JavaScript:c'><style></style>"
    assert Page(html).inline == ["<script>", "style", "onclick", " JavaScript:c", "<style>"]
