"""Pictures of the console, of a real server with real agents: `make screenshots`.

Four of them are in the README. With `--all DIR` each page, in light and dark, wide and on a phone, for people
who look whether they are right.
"""

import argparse
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.end_to_end.browser import Chromium, make_boss
from tests.end_to_end.harness import PROJECT, AgentProgram, Server, eventually, make_file

README = PROJECT / "docs/console"

MIB = 1 << 20

FLEET = {
    "milan-till-1": ("milan", "till"),
    "milan-till-2": ("milan", "till"),
    "rome-kiosk-1": ("rome", "kiosk"),
    "rome-till-1": ("rome", "till"),
    "rome-till-2": ("rome", "till"),
    "turin-till-1": ("turin", "till"),
}
AWAY = "rome-kiosk-1"
SLOW = {"rome-till-1", "rome-till-2"}

HISTORY = f"""
from datetime import timedelta
from django.utils import timezone
from transfers.models import Client, Presence
now = timezone.now()
Client.objects.update(created_at=now - timedelta(days=40))
for client in Client.objects.all():
    for day in range(2 if client.pk == "{AWAY}" else 1, 9):
        begun = now - timedelta(days=day, hours=len(client.pk) % 5)
        ended = begun + timedelta(hours=24 if day % 3 else 21, minutes=-20)
        Presence.objects.create(client=client, begun=begun, ended=ended)
    Client.objects.filter(pk=client.pk).update(
        platform="Windows-10-10.0.19045" if "till" in client.pk else "Linux-6.1.0-x86_64",
        hostname=client.pk.upper(),
    )
away = now - timedelta(hours=7)
Client.objects.filter(pk="{AWAY}").update(
    last_seen=away, online_since=away - timedelta(hours=9), online_until=away,
    token_sha256="k" * 64, platform="Linux-6.1.0-x86_64", hostname="KIOSK", agent_version="0.1.0",
)
"""
"""What a week of a real fleet would have brought."""

SIZES = {"wide": (1280, 800), "phone": (390, 844)}


class Album:
    """A server with its fleet, and a browser that is logged in."""

    def __init__(self, directory: Path, opened: ExitStack) -> None:
        self.server = Server(directory / "server")
        self.server.start()
        opened.callback(self.server.program.terminate)
        make_boss(self.server)
        self._root = directory / "var"
        self._root.mkdir()
        make_file(self._root / "sales-2026-11.db", 48 * MIB)
        make_file(self._root / "receipts.zip", 30 * MIB)
        (self._root / "pos.log").write_text("till opened, drawer 1, by anna\n" * 200_000)
        self._browser = opened.enter_context(Chromium(directory))
        self._directory = directory
        self._opened = opened

    def page(
        self, path: str, file: Path, *, dark: bool = False, size: tuple[int, int] = SIZES["wide"]
    ) -> None:
        """A picture of it."""
        page = self._browser.page
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.set_viewport_size({"width": size[0], "height": size[1]})
        self._browser.open(self.server.url + path)
        page.wait_for_load_state("networkidle")
        if page.locator("#live").count():
            page.locator("#live.on").wait_for()
        page.screenshot(path=file)
        print(file)

    def in_all_ways(self, path: str, directory: Path, name: str) -> None:
        for size, measures in SIZES.items():
            for dark in (False, True):
                file = directory / f"{name}-{size}-{'dark' if dark else 'light'}.png"
                self.page(path, file, dark=dark, size=measures)

    def log_in(self) -> None:
        self._browser.open(f"{self.server.url}/login/")
        self._browser.submit({"username": "boss", "password": "correct horse"})

    def add_fleet(self) -> None:
        for name, labels in FLEET.items():
            given = [word for label in labels for word in ("--label", label)]
            token = self.server.manage("add_client", name, "--token", *given)
            if name != AWAY:
                self._start(name, token)
        self.server.manage("shell", "-c", HISTORY)

    def _start(self, name: str, token: str) -> None:
        agent = AgentProgram(
            name,
            token,
            self.server.port,
            self._directory / f"{name}.log",
            file=self._root / "sales-2026-11.db",
            roots=[self._root],
            options=["--limit-rate", "1M" if name in SLOW else "8M"],
        )
        self._opened.callback(agent.terminate)
        agent.wait_for("registered")

    def ask(self) -> tuple[str, str, str]:
        """For files: one has landed, one comes slowly, one was refused."""
        server = self.server
        landed = server.ask("milan-till-1")
        compressed = server.ask("milan-till-2", str(self._root / "pos.log"))
        server.ask(AWAY, "/var/log/kiosk.log")
        refused = server.ask("turin-till-1", "/etc/shadow")
        for transfer in (landed, compressed):
            server.wait_status(transfer, "completed")
        server.wait_status(refused, "failed")
        coming = server.ask("rome-till-1")
        server.ask("rome-till-2", str(self._root / "receipts.zip"))
        eventually("some of it", lambda: server.transfer(coming)["received"] > 6 * MIB)
        return landed, coming, refused


def take(everything: Path | None) -> None:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as opened:
        album = Album(Path(directory), opened)
        if everything is not None:
            everything.mkdir(parents=True, exist_ok=True)
            album.in_all_ways("/login/", everything, "login")
            album.log_in()
            album.in_all_ways("/clients/", everything, "empty")
        else:
            album.log_in()
        album.add_fleet()
        landed, coming, refused = album.ask()
        if everything is None:
            album.page("/clients/", README / "clients.png", size=(1280, 520))
            album.page("/transfers/", README / "transfers.png", dark=True, size=(1280, 600))
            album.page(f"/transfers/{landed}/", README / "transfer.png", size=(1280, 860))
            album.page("/transfers/", README / "phone.png", dark=True, size=SIZES["phone"])
            return
        for name, path in {
            "clients": "/clients/",
            "client": "/clients/rome-till-1/",
            "away": f"/clients/{AWAY}/",
            "transfers": "/transfers/",
            "coming": f"/transfers/{coming}/",
            "landed": f"/transfers/{landed}/",
            "refused": f"/transfers/{refused}/",
        }.items():
            album.in_all_ways(path, everything, name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=__doc__)
    parser.add_argument("--all", type=Path, metavar="DIR", help="every page, into this folder")
    arguments = parser.parse_args()
    if shutil.which("chromium") is None:
        parser.error("chromium is not installed; `make system-deps` does it")
    take(arguments.all)


if __name__ == "__main__":
    main()
