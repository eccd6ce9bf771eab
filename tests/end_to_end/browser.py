"""A real browser for tests: Playwright with the distribution's Chromium, headless."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, sync_playwright

from tests.end_to_end.harness import PATIENCE, Server

QUIET = ("--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")


class Chromium:
    """One page of a new profile; a context manager."""

    page: Page

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.complaints: list[str] = []
        """What its console has shown of errors: the Content-Security-Policy's, a script's, a file's."""
        self.asked: set[str] = set()
        """The origins that its pages have asked for anything."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            playwright = opened.enter_context(sync_playwright())
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), chromium_sandbox=False, args=list(QUIET)
            )
            opened.callback(browser.close)
            context = browser.new_context(accept_downloads=True)
            context.set_default_timeout(1000 * PATIENCE)
            self.page = context.new_page()
            self.page.on("console", self._heard)
            self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
            self.page.on("request", self._asks)
            issues = context.new_cdp_session(self.page)
            issues.on("Audits.issueAdded", self._blames)
            issues.send("Audits.enable")
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error" and "favicon.ico" not in message.location["url"]:
            self.complaints.append(f"{message.text} {message.location['url']}")

    def _asks(self, request: Request) -> None:
        if request.url.startswith(("http:", "https:")):
            self.asked.add("/".join(request.url.split("/")[:3]))

    def _blames(self, event: dict[str, Any]) -> None:
        if event["issue"]["code"] == "ContentSecurityPolicyIssue":
            self.complaints.append(json.dumps(event["issue"]["details"]))

    def evaluate(self, expression: str) -> Any:
        """The value of an expression on the page, as its console would give it."""
        return self.page.evaluate(expression)

    def open(self, url: str) -> None:
        """Go there, as far as the page is loaded, and no further."""
        self.page.goto(url)

    def submit(self, values: dict[str, str]) -> None:
        """Fill the page's form in, and send it."""
        for name, value in values.items():
            self.page.locator(f"[name={name}]").fill(value)
        with self.page.expect_navigation():
            self.page.locator("form [type=submit]").first.click()

    def download(self, url: str) -> bytes:
        """What is saved of an address that shows no page."""
        with self.page.expect_download() as coming:
            self.page.evaluate("url => location.assign(url)", url)
        file = self._directory / "download"
        coming.value.save_as(file)
        return file.read_bytes()


@contextlib.contextmanager
def chromium_in(directory: Path) -> Iterator[Chromium]:
    """The browser; where it is not installed the test is skipped, and says so."""
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed; `make system-deps` does it")
    with Chromium(directory) as browser:
        yield browser


def make_boss(server: Server) -> None:
    """A superuser, who logs in with `correct horse`."""
    server.manage(
        "createsuperuser", "--noinput", "--username=boss", "--email=boss@example.com",
        DJANGO_SUPERUSER_PASSWORD="correct horse",
    )  # fmt: skip
