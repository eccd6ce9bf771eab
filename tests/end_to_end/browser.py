"""A real browser, headless Chromium, spoken to by its DevTools protocol."""

import contextlib
import itertools
import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import connect

from tests.end_to_end.harness import PATIENCE, eventually

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--disable-breakpad", "--disable-crash-reporter", "--remote-debugging-port=0",
)  # fmt: skip


class Chromium:
    """One page of a new profile; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._profile = directory / "profile"
        self.downloads = directory / "downloads"
        self.complaints: list[str] = []
        """What its console has shown of errors: the Content-Security-Policy's, a script's, a file's."""
        self._numbers = itertools.count(1)
        self._loads = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            process = subprocess.Popen(
                ["chromium", *QUIET, f"--user-data-dir={self._profile}", "about:blank"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            opened.callback(process.wait, PATIENCE)
            opened.callback(process.terminate)
            self._socket = opened.enter_context(
                connect(self._address(), compression=None, max_size=None, proxy=None)
            )
            for domain in ("Page", "Log", "Runtime", "Audits"):
                self._do(f"{domain}.enable")
            self._do(
                "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads)
            )
            self._opened = opened.pop_all()
        return self

    def _address(self) -> str:
        """Of the one page's DevTools, once there are any."""
        file = self._profile / "DevToolsActivePort"
        eventually("Chromium", lambda: file.exists() and file.read_text().count("\n"))
        url = f"http://127.0.0.1:{file.read_text().split()[0]}/json/list"

        def pages() -> list[str]:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return [
                    page["webSocketDebuggerUrl"]
                    for page in json.load(answer)
                    if page["type"] == "page"
                ]

        [address] = eventually("a page", pages)
        return address

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def _do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give a command, and note what happens until it is answered."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        match event:
            case {"method": "Page.loadEventFired"}:
                self._loads += 1
            case {"method": "Log.entryAdded", "params": {"entry": {"level": "error"} as entry}} if (
                not entry.get("url", "").endswith("/favicon.ico")  # asked for unasked
            ):
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
            case {"method": "Runtime.exceptionThrown", "params": params}:
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case {"method": "Audits.issueAdded", "params": {"issue": {"code": code} as issue}} if (
                code == "ContentSecurityPolicyIssue"
            ):
                self.complaints.append(json.dumps(issue["details"]))

    def evaluate(self, expression: str) -> Any:
        """The value of an expression on the page, as its console would give it."""
        answer = self._do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, url: str) -> None:
        """Go there, as far as the page is loaded, and no further."""
        self._after_load(lambda: self._do("Page.navigate", url=url))

    def submit(self, values: dict[str, str]) -> None:
        """Fill the page's form in, and send it."""
        for name, value in values.items():
            self.evaluate(f"document.querySelector('[name={name}]').value = {json.dumps(value)}")
        self._after_load(
            lambda: self.evaluate("document.querySelector('form [type=submit]').click()")
        )

    def _after_load(self, act: Any) -> None:
        before = self._loads
        act()
        eventually("a loaded page", lambda: self.evaluate("1") and self._loads > before)

    def download(self, url: str) -> bytes:
        """What is saved of an address that shows no page."""
        self._do("Page.navigate", url=url)

        def saved() -> list[Path]:
            self.evaluate("1")
            files = list(self.downloads.iterdir()) if self.downloads.exists() else []
            return [] if any(file.suffix == ".crdownload" for file in files) else files

        [file] = eventually("a download", saved)
        return file.read_bytes()
