"""The console in a real browser, with a real server and real agents: nothing is loaded anew by hand."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.browser import Chromium
from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import Server, eventually, make_file, sha256

MIB = 1 << 20


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed; `make system-deps` does it")
    with Chromium(tmp_path) as browser:
        yield browser


def log_in(chromium: Chromium, server: Server) -> None:
    server.manage(
        "createsuperuser", "--noinput", "--username=boss", "--email=boss@example.com",
        DJANGO_SUPERUSER_PASSWORD="correct horse",
    )  # fmt: skip
    chromium.open(f"{server.url}/")
    chromium.submit({"username": "boss", "password": "correct horse"})


def reads(chromium: Chromium, text: str, part: str = "main") -> bool:
    words = chromium.evaluate(f"document.getElementById('{part}')?.innerText ?? ''")
    return text in " ".join(words.split())


def wait_reads(chromium: Chromium, text: str, part: str = "main") -> None:
    try:
        eventually(f"{text!r} on the page", partial(reads, chromium, text, part))
    except AssertionError as late:
        raise AssertionError(f"{late}\n{chromium.evaluate('document.body.innerText')}") from None


def click(chromium: Chromium, selector: str) -> None:
    eventually(
        selector, lambda: chromium.evaluate(f"document.querySelector('{selector}') !== null")
    )
    chromium.evaluate(f"document.querySelector('{selector}').click()")


def test_a_client_comes_sends_its_file_and_goes_before_the_eyes_of_its_operator(
    chromium: Chromium, server: Server, start_agent: StartAgent, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "sales.db", 60 * MIB)
    log_in(chromium, server)
    assert chromium.evaluate("location.pathname") == "/clients/"
    wait_reads(chromium, "manage.py add_client client1")
    token = server.manage("add_client", "client1", "--token")
    chromium.open(f"{server.url}/clients/")
    wait_reads(chromium, "client1 Offline")
    wait_reads(chromium, "Live", part="live")
    agent = start_agent("client1", token, server.port, file=source, options=["--limit-rate", "6M"])
    wait_reads(chromium, "client1 Online")
    click(chromium, "tbody th a")
    wait_reads(chromium, "Request a file")
    click(chromium, "form.ask button")
    wait_reads(chromium, "Receiving")
    wait_reads(chromium, "MB/s")
    bar = "document.querySelector('progress')?.value ?? 0"
    first = eventually("a bar that moves", lambda: chromium.evaluate(bar))
    eventually("the bar to move on", lambda: chromium.evaluate(bar) > first)
    wait_reads(chromium, "They agree: every byte is as the client read it.")
    wait_reads(chromium, "Landed: verified, synced and in its place")
    digests = chromium.evaluate(
        "[...document.querySelectorAll('.hashes code')].map(e => e.innerText)"
    )
    assert digests == [sha256(source)] * 2
    fetched = chromium.download(chromium.evaluate("document.querySelector('#buttons a').href"))
    assert fetched == source.read_bytes()
    chromium.open(f"{server.url}/clients/client1/")
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


def test_a_page_says_when_it_is_not_live_and_is_again_when_the_server_is_back(
    chromium: Chromium, server: Server
) -> None:
    log_in(chromium, server)
    server.manage("add_client", "client1", "--token")
    chromium.open(f"{server.url}/clients/")
    wait_reads(chromium, "Live", part="live")
    server.program.terminate()
    wait_reads(chromium, "Not live, trying again", part="live")
    server.start()
    server.manage("revoke_client", "client1")
    eventually("a live page", partial(reads, chromium, "Live", "live"))
    wait_reads(chromium, "client1 Revoked")
