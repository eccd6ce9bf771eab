"""Whoever guesses at the real server, passwords or codes, is told to wait and leaves little behind."""

import re
import urllib.error
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

from tests.end_to_end.harness import PATIENCE, Server

NAMES = 10
"""As `transfers.login` has it: so many names' worth of failures are let through."""


class Browser:
    """Somebody who has read the login page and fills it in."""

    def __init__(self, server: Server) -> None:
        self._server = server
        cookies = urllib.request.HTTPCookieProcessor(CookieJar())
        self._opener = urllib.request.build_opener(cookies)
        _, _, page = self.open("/admin/login/")
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert found
        self._csrf = found[1]

    def open(self, path: str, form: bytes | None = None) -> tuple[int, str, str]:
        """Status, `Retry-After` and text of the answer."""
        try:
            with self._opener.open(self._server.url + path, form, PATIENCE) as answer:
                return answer.status, "", answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Retry-After"], error.read().decode()

    def log_in(self, name: str, password: str = "a guess") -> tuple[int, str, str]:
        fields = {"username": name, "password": password, "csrfmiddlewaretoken": self._csrf}
        form = urllib.parse.urlencode(fields).encode()
        return self.open("/admin/login/?next=/admin/", form)


def test_guessing_passwords_ends_in_429_and_in_silence(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", SILENTMODE_LOGIN_FAILURES="1")
    server.start()
    try:
        browser = Browser(server)
        status, retry_after, said = browser.log_in("anna")
        assert (status, retry_after) == (429, "900"), "the name is locked out: axes' own answer"
        assert said == "Too many tries. Wait 900 seconds, then try again."
        for number in range(NAMES - 1):
            browser.log_in(f"user{number}")
        answers = [browser.log_in(f"more{number}") for number in range(30)]
        assert {status for status, _, _ in answers} == {429}
        assert all(0 < int(retry_after) <= 90 for _, retry_after, _ in answers)
    finally:
        assert server.program.terminate() == 0
    output = server.program.output
    assert output.count("Too many logins from 127.0.0.1 have failed") == 1
    assert "AXES" not in output
    assert "more1" not in output
    assert "Too Many Requests" not in output


def test_a_machine_enrols_while_its_neighbour_guesses(server: Server) -> None:
    code = server.manage("add_client", "till-1")
    body = {"code": "0" * 25, "token_sha256": "ab" * 32}
    answers = [server.call("POST", "/api/v1/enrol/", body) for _ in range(40)]
    assert [status for status, _ in answers].count(403) <= 22
    assert answers[-1][0] == 429
    assert server.program.output.count("Refused to enrol") <= 22
    status, answer = server.call("POST", "/api/v1/enrol/", body | {"code": code})
    assert (status, answer) == (201, {"client": "till-1", "status": "active"})


def test_what_a_page_refuses_is_on_record(server: Server) -> None:
    """The refusal is recorded in the thread of the database, whatever thread answers."""
    server.manage(
        "shell",
        "-c",
        "from django.contrib.auth.models import User;"
        "from transfers.access import join_group;"
        "join_group(User.objects.create_user('vera', password='correct horse', is_staff=True), 'viewer')",
    )
    browser = Browser(server)
    assert browser.log_in("vera", "correct horse")[0] == 200
    assert browser.open("/admin/auth/user/")[0] == 403
    rows = server.manage("export_audit")
    assert '"event": "refused"' in rows
    assert '"path": "/admin/auth/user/"' in rows
