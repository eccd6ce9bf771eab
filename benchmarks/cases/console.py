"""The console: what a page that moves costs the server and the browser, and how fast long lists are there."""

import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.figures import Findings, Row, at_most
from benchmarks.processes import cpu_seconds
from benchmarks.scene import Scene
from tests.end_to_end.browser import Chromium, make_boss
from tests.end_to_end.harness import AgentProgram, Server, eventually, make_file

FILES = 8
"""Of each agent, at once: as many as a server takes of one."""

SLOWLY = 20 * 1024
"""Bytes a second of each transfer, so that all of them last, and the server has time left for the page."""

CLICK_MS = 170
"""Between two clicks."""

WATCH = """() => {
    window.clicks = [];
    document.querySelector("h1").addEventListener("click", event => requestAnimationFrame(
        () => setTimeout(() => window.clicks.push(performance.now() - event.timeStamp), 0)));
}"""
"""From a click to the picture after it."""

PAGES = (
    "/clients/",
    "/clients/?sort=seen",
    "/clients/?q=till-09",
    "/clients/?state=online&page=100",
    "/clients/?label=city3",
    "/clients/till-00007/",
    "/transfers/",
    "/transfers/?size=200",
    "/transfers/?page=1900",
    "/transfers/?sort=old",
    "/transfers/?state=failed",
    "/transfers/?state=live",
    "/transfers/?q=99.db",
    "/transfers/?q=nothing-is-called-so",
    "/admin/transfers/client/",
    "/admin/transfers/transfer/",
)


def measure(scene: Scene) -> Findings:
    agents, seconds = (3, 3.0) if scene.quick else (25, 20.0)
    clients, transfers = (500, 5_000) if scene.quick else (10_000, 100_000)
    rows = [*_moving(scene, agents, seconds), *_lists(scene, clients, transfers)]
    title = f"{agents * FILES} live transfers on a page; {clients} clients and {transfers} transfers in lists"
    return Findings(title, tuple(rows))


# A page that moves -------------------------------------------------------------------------------


def _moving(scene: Scene, agents: int, seconds: float) -> list[Row]:
    pushing = Row("server, for pushing to the page", "% of a core", goal=at_most(25))
    click = Row("a click is handled after", "ms", goal=at_most(200))
    if shutil.which("chromium") is None:
        gone = "chromium is not installed; `make system-deps` does it"
        return [replace(row, missing=gone) for row in (pushing, click)]
    live = agents * FILES
    server = scene.server(
        "console",
        SILENTMODE_MAX_ACTIVE_TRANSFERS=str(live),
        SILENTMODE_MAX_IN_FLIGHT=str(live * 16 * 1024**2),
    )
    make_boss(server)
    root = server.directory / "till"
    root.mkdir()
    size = int(SLOWLY * (6 * seconds + 60))
    files = [make_file(root / f"{number}.db", size) for number in range(FILES)]
    with ExitStack() as running:
        for number in range(agents):
            _send(server, f"till-{number}", files, running)
        eventually("all receiving", lambda: _receiving(server) == live, 120)
        browser = running.enter_context(Chromium(server.directory))
        browser.open(f"{server.url}/login/")
        browser.submit({"username": "boss", "password": "correct horse"})
        shares, clicks = [], []
        for _ in range(min(scene.rounds, 2)):
            browser.open("about:blank")
            time.sleep(2)
            without = _used(server, lambda: time.sleep(seconds))
            browser.open(f"{server.url}/transfers/?size=200")
            browser.page.locator("#live.on").wait_for()
            browser.evaluate(WATCH)
            within = _used(server, lambda: _click(browser, seconds))
            shares.append(max(0.0, within - without))
            clicks += browser.evaluate("window.clicks")
        assert _receiving(server) == live
    return [
        replace(pushing, values=tuple(shares), note=f"beside {without:.0f} %"),
        replace(click, values=tuple(clicks), note=f"{len(clicks)} clicks"),
    ]


def _send(server: Server, name: str, files: list[Path], running: ExitStack) -> None:
    """An agent that sends all of these at once."""
    token = server.manage("add_client", name, "--token")
    log = server.directory / f"{name}.log"
    agent = AgentProgram(name, token, server.port, log, roots=[files[0].parent])
    running.callback(agent.terminate)
    agent.wait_for("registered")
    for file in files:
        body = {"client": name, "path": str(file), "rate_limit": SLOWLY}
        status, answer = server.call("POST", "/api/v1/transfers/", body)
        assert status == 202, answer


def _receiving(server: Server) -> int:
    return int(server.call("GET", "/api/v1/transfers/?status=receiving")[1]["count"])


def _used(server: Server, meanwhile: Callable[[], object]) -> float:
    """Per cent of a core."""
    pid = server.program.process.pid
    before, since = cpu_seconds(pid), time.monotonic()
    meanwhile()
    return 100 * (cpu_seconds(pid) - before) / (time.monotonic() - since)


def _click(browser: Chromium, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        browser.page.locator("h1").click()
        browser.page.wait_for_timeout(CLICK_MS)


# Long lists --------------------------------------------------------------------------------------


def _lists(scene: Scene, clients: int, transfers: int) -> Iterator[Row]:
    server = scene.server("lists")
    make_boss(server)
    script = f"from benchmarks.filling import fill; fill({clients}, {transfers})"
    server.manage("shell", "--no-imports", "-c", script)
    reader = _logged_in(server)
    for page in PAGES:
        times = []
        for _ in range(max(3, scene.rounds) + 1):
            since = time.perf_counter()
            with reader.open(server.url + page) as answer:
                answer.read()
            times.append(1000 * (time.perf_counter() - since))
        yield Row(f"GET {page}", "ms", tuple(times[1:]), at_most(150))


def _logged_in(server: Server) -> urllib.request.OpenerDirector:
    reader = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    with reader.open(f"{server.url}/login/") as answer:
        (token,) = re.findall(r'csrfmiddlewaretoken" value="([^"]+)', answer.read().decode())
    form = {"csrfmiddlewaretoken": token, "username": "boss", "password": "correct horse"}
    reader.open(f"{server.url}/login/", urlencode(form).encode()).close()
    return reader
