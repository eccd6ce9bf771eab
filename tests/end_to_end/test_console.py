"""The console in a real browser, with a real server and real agents: nothing is loaded anew by hand."""

import contextlib
import sqlite3
from itertools import product
from pathlib import Path

import axe_core_python
from playwright.sync_api import expect

from tests.end_to_end.browser import Chromium, make_boss
from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import PATIENCE, Server, make_file, sha256

MIB = 1 << 20


def log_in(chromium: Chromium, server: Server) -> None:
    make_boss(server)
    chromium.open(f"{server.url}/")
    chromium.submit({"username": "boss", "password": "correct horse"})


def wait_reads(chromium: Chromium, text: str, part: str = "main") -> None:
    """Wait until that part of the page says so."""
    shown = chromium.page.locator(f"#{part}")
    expect(shown).to_contain_text(text, use_inner_text=True, timeout=1000 * PATIENCE)


def click(chromium: Chromium, selector: str) -> None:
    chromium.page.locator(selector).first.click()


def test_a_client_comes_sends_its_file_and_goes_before_the_eyes_of_its_operator(
    chromium: Chromium, server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "sales.db", 60 * MIB)
    log_in(chromium, server)
    assert chromium.evaluate("location.pathname") == "/clients/"
    wait_reads(chromium, "manage.py add_client client1")
    wait_reads(chromium, "Live", part="live")
    token = server.manage("add_client", "store.7", "--token")
    wait_reads(chromium, "store.7 Offline")
    agent = start_agent("store.7", token, server.port, file=source, options=["--limit-rate", "6M"])
    wait_reads(chromium, "store.7 Online")
    click(chromium, "tbody th a")
    wait_reads(chromium, "Request a file")
    click(chromium, "form.ask button")
    wait_reads(chromium, "Receiving")
    wait_reads(chromium, "MB/s")
    bar = "document.querySelector('progress')?.value ?? 0"
    chromium.page.wait_for_function(f"{bar} > 0")
    chromium.page.wait_for_function(f"before => {bar} > before", arg=chromium.evaluate(bar))
    wait_reads(chromium, "They agree: every byte is as the client read it.")
    wait_reads(chromium, "Landed: verified, synced and in its place")
    digests = chromium.evaluate(
        "[...document.querySelectorAll('.hashes code')].map(e => e.innerText)"
    )
    assert digests == [sha256(source)] * 2
    fetched = chromium.download(chromium.evaluate("document.querySelector('#buttons a').href"))
    assert fetched == source.read_bytes()
    chromium.open(f"{server.url}/clients/store.7/")
    wait_reads(chromium, "Online", part="presence")
    agent.terminate()
    wait_reads(chromium, "Offline", part="presence")
    assert chromium.complaints == []


def test_an_operator_reads_why_it_failed_and_stops_what_runs(
    chromium: Chromium, server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 64 * MIB)
    log_in(chromium, server)
    token = server.manage("add_client", "client1", "--token")
    start_agent("client1", token, server.port, file=source, options=["--limit-rate", "1M"])
    chromium.open(f"{server.url}/transfers/")
    wait_reads(chromium, "Live", part="live")
    server.ask("client1", "/etc/shadow")
    wait_reads(
        chromium, "/etc/shadow client1 Failed The agent's configuration does not allow this file."
    )
    running = server.ask("client1")
    wait_reads(chromium, "data.bin client1 Receiving")
    click(chromium, f'[id="cancel-{running}"]')
    wait_reads(chromium, "Cancelled data.bin from client1.", part="said")
    wait_reads(chromium, "data.bin client1 Cancelled")
    assert chromium.evaluate("location.pathname") == "/transfers/"
    click(chromium, "tbody [id^=retry]")
    wait_reads(chromium, "Asked for again: /etc/shadow from client1.", part="said")
    assert chromium.complaints == []


def left_alone_with_client1(chromium: Chromium, server: Server) -> None:
    """The server stops beneath the page of clients, which says so."""
    log_in(chromium, server)
    server.manage("add_client", "client1", "--token")
    chromium.open(f"{server.url}/clients/")
    wait_reads(chromium, "Live", part="live")
    server.program.terminate()
    wait_reads(chromium, "Not live, trying again", part="live")


def test_a_page_says_when_it_is_not_live_and_is_again_when_the_server_is_back(
    chromium: Chromium, server: Server
) -> None:
    left_alone_with_client1(chromium, server)
    server.start()
    server.manage("revoke_client", "client1")
    wait_reads(chromium, "client1 Revoked")


def test_a_page_that_could_not_be_looked_at_is_live_again_once_it_can(
    chromium: Chromium, server: Server
) -> None:
    """As when the database restarts. The socket ends for that, with a code after which pages come again."""
    log_in(chromium, server)
    server.manage("add_client", "client1", "--token")
    chromium.open(f"{server.url}/clients/")
    wait_reads(chromium, "client1 Offline")
    path = server.directory / "data" / "db.sqlite3"
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
        database.execute("PRAGMA legacy_alter_table = ON")
        database.execute("ALTER TABLE transfers_client RENAME TO away")
        wait_reads(chromium, "Not live, trying again", part="live")
        database.execute("ALTER TABLE away RENAME TO transfers_client")
    server.manage("revoke_client", "client1")
    wait_reads(chromium, "client1 Revoked")
    wait_reads(chromium, "Live", part="live")


def test_a_button_that_could_not_do_its_work_says_so(chromium: Chromium, server: Server) -> None:
    log_in(chromium, server)
    server.manage("add_client", "client1", "--token")
    waiting = server.ask("client1", "/file")
    button = f'[id="cancel-{waiting}"]'
    chromium.open(f"{server.url}/transfers/")
    wait_reads(chromium, "Live", part="live")
    cookies = chromium.page.context
    cookies.add_cookies([{"name": "csrftoken", "value": "a" * 32, "url": server.url}])
    click(chromium, button)
    wait_reads(chromium, "The server refused it (403).", part="said")
    chromium.open(f"{server.url}/transfers/")
    cookies.clear_cookies(name="sessionid")
    click(chromium, button)
    chromium.page.wait_for_url("**/login/?next=/transfers/")


def test_a_server_that_does_not_answer_is_said_and_not_said_any_more_once_it_does(
    chromium: Chromium, server: Server
) -> None:
    left_alone_with_client1(chromium, server)
    chromium.page.locator("#q").fill("nobody")
    wait_reads(chromium, "The server does not answer. Try again in a moment.", part="said")
    server.start()
    chromium.page.locator("#q").fill("client")
    wait_reads(chromium, "client1 Offline", part="list")
    expect(chromium.page.locator("#said")).to_be_empty()


AXE = Path(axe_core_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")


def findings(chromium: Chromium) -> list[str]:
    """What axe-core finds on the page that is serious or critical."""
    chromium.evaluate(AXE)
    found = chromium.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def test_every_page_can_be_used_by_everybody_and_asks_nobody_else_for_anything(
    chromium: Chromium, server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    """In light and dark, on a wide screen and a phone; and no page is wider than the phone."""
    source = make_file(tmp_path / "data.bin", 40 * MIB)
    chromium.open(f"{server.url}/login/")
    assert findings(chromium) == []
    log_in(chromium, server)
    wait_reads(chromium, "No client yet")
    assert findings(chromium) == []
    token = server.manage("add_client", "client1", "--token", "--label", "rome")
    agent = start_agent("client1", token, server.port, file=source, options=["--limit-rate", "1M"])
    agent.wait_for("registered as client1")
    failed = server.ask("client1", "/etc/shadow")
    server.wait_status(failed, "failed")
    running = server.ask("client1")
    server.manage("add_client", "other", "--token")
    pages = (
        "/clients/", "/clients/client1/", "/clients/?q=nothing+like+it", "/transfers/",
        f"/transfers/{failed}/", f"/transfers/{running}/", "/nothing/",
    )  # fmt: skip
    for scheme, (width, height) in product(("light", "dark"), ((1280, 800), (390, 844))):
        chromium.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of its words
        chromium.page.set_viewport_size({"width": width, "height": height})
        for path in pages:
            chromium.open(f"{server.url}{path}")
            assert findings(chromium) == [], f"{path}, {scheme}, {width} wide"
            assert chromium.evaluate("document.documentElement.scrollWidth") <= width, path
    assert chromium.asked == {server.url}
    assert [each for each in chromium.complaints if "404" not in each] == []


def test_a_viewer_sees_it_all_and_finds_nothing_to_press(
    chromium: Chromium, server: Server
) -> None:
    server.manage("add_client", "client1", "--token")
    transfer = server.ask("client1")
    make = (
        "from django.contrib.auth.models import User; from transfers.access import join_group; "
        "join_group(User.objects.create_user('vera', password='correct horse'), 'viewer')"
    )
    server.manage("shell", "-c", make)
    chromium.open(f"{server.url}/transfers/{transfer}/")
    chromium.submit({"username": "vera", "password": "correct horse"})
    wait_reads(chromium, "Waiting for client1 to come online")
    wait_reads(chromium, "Live", part="live")
    chromium.open(f"{server.url}/clients/client1/")
    wait_reads(chromium, "Waiting for client1 to come online")
    assert chromium.page.locator("main button").count() == 0
    assert chromium.complaints == []
