"""The pages in a real browser: they work under their Content-Security-Policy, and break none of it."""

from functools import partial
from pathlib import Path

from tests.end_to_end.browser import Chromium, make_boss
from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import Server, eventually

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)<script>.html"


def log_in(chromium: Chromium, server: Server) -> None:
    make_boss(server)
    chromium.open(f"{server.url}/admin/")
    assert "/admin/login/" in chromium.evaluate("location.href")
    chromium.submit({"username": "boss", "password": "correct horse"})
    assert chromium.evaluate("location.pathname") == "/admin/"


def land(server: Server, start_agent: StartAgent, tmp_path: Path, content: bytes) -> str:
    """A transfer that has landed, with a name that a page must escape."""
    source = tmp_path / HOSTILE.replace("/", "_")
    source.write_bytes(content)
    token = server.manage("add_client", "client1", "--token")
    start_agent("client1", token, server.port, file=source).wait_for("registered as client1")
    transfer = server.ask("client1")
    server.wait_landed(transfer, source)
    return transfer


def test_the_admin_works_and_breaks_no_policy(
    chromium: Chromium, server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Login, lists, details and the pages between, with a hostile name; then a file is downloaded."""
    content = b"<script>alert('never')</script>"
    transfer = land(server, start_agent, tmp_path, content)
    log_in(chromium, server)
    for path in (
        "/admin/transfers/transfer/",
        f"/admin/transfers/transfer/{transfer}/change/",
        "/admin/transfers/client/",
        "/admin/transfers/client/client1/change/",
        "/admin/auth/user/",
        "/admin/auth/user/add/",
        "/admin/auth/user/1/change/",
        "/admin/transfers/auditrecord/",
        "/admin/transfers/enrolmentkey/",
        "/admin/knox/authtoken/",
        "/admin/password_change/",
    ):
        chromium.open(f"{server.url}{path}")
        assert chromium.evaluate("location.pathname") == path
        assert chromium.evaluate("document.querySelector('#header') !== null")
        assert chromium.evaluate("getComputedStyle(document.querySelector('#header')).position")
    chromium.open(f"{server.url}/admin/transfers/client/")
    chromium.evaluate("document.querySelector('[name=_selected_action]').click()")
    assert chromium.evaluate("document.querySelector('tr.selected') !== null"), "its script runs"
    chromium.evaluate("document.querySelector('[name=action]').value = 'request_file'")
    chromium.open("about:blank")
    chromium.open(f"{server.url}/admin/")
    url = f"{server.url}/api/v1/transfers/{transfer}/content/"
    assert chromium.download(url) == content
    assert chromium.complaints == []


def test_the_docs_of_the_api_work_and_break_no_policy(chromium: Chromium, server: Server) -> None:
    """They load the schema, and an operator who is logged in can try a call out."""
    log_in(chromium, server)
    chromium.open(f"{server.url}/api/docs/")
    shown = "document.querySelectorAll('.opblock').length"
    assert eventually("the calls of the API", lambda: chromium.evaluate(shown)) > 5
    chromium.evaluate("document.querySelector('[id*=clients_list] button').click()")
    for button in (".try-out__btn", ".execute"):
        there = f"document.querySelector('[id*=clients_list] {button}')"
        eventually(button, partial(chromium.evaluate, f"{there} !== null"))
        chromium.evaluate(f"{there}.click()")
    status = "document.querySelector('.live-responses-table tbody .response-col_status')?.innerText"
    answered = eventually("an answer", lambda: chromium.evaluate(status))
    assert answered.startswith("200")
    assert chromium.complaints == []


def complained(chromium: Chromium, directive: str) -> bool:
    chromium.evaluate("1")  # hears what has happened
    return any(f'"violatedDirective": "{directive}"' in each for each in chromium.complaints)


def test_the_browser_would_complain(chromium: Chromium, server: Server) -> None:
    """What gets into a page all the same does not run."""
    chromium.open(f"{server.url}/admin/login/")
    for evil in (
        "script = document.createElement('script'); script.text = 'window.evil = 1'",
        "script = document.createElement('script'); script.src = 'https://evil.example/x.js'",
        "script = document.createElement('iframe'); script.src = '/admin/'",
    ):
        chromium.evaluate(f"{evil}; document.body.append(script)")
    chromium.evaluate("document.body.setAttribute('onclick', 'window.evil = 1')")
    chromium.evaluate("document.body.click()")
    for directive in ("script-src-elem", "script-src-attr", "frame-src"):
        eventually(directive, partial(complained, chromium, directive))
    assert chromium.evaluate("window.evil") is None
