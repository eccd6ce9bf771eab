"""Stopping the process: who is waited for, for how long, and what is refused meanwhile.

In processes of their own, with the reactor that daphne runs.
"""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = r"""
import asyncio, os, signal, sys
from daphne.server import Server  # chooses the reactor
from twisted.internet import reactor
import django
django.setup()
from transfers import lifecycle, recovery

lifecycle.STOP_SECONDS = 2.0
recovery.tend = lambda: os.write(1, b"tended\n")
lifecycle.Client.rung_since = lambda when: []
lifecycle.webhooks.tell = lambda is_stopping: None

async def stay(cancelled, hangs):
    with lifecycle.staying(0 if cancelled else None):
        os.write(1, b"in\n")
        try:
            await asyncio.sleep(0.2 if not cancelled else 3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.2)  # keeps what has arrived
            os.write(1, b"kept\n")
        while hangs:
            await asyncio.sleep(1)
        os.write(1, b"out\n")

async def come_and_go():
    with lifecycle.staying(0):
        pass
    os.write(1, b"out\n")

def begin():
    loop = asyncio.get_event_loop()
    if "one has left" in sys.argv:
        tasks.append(loop.create_task(come_and_go()))
    tasks.append(loop.create_task(stay(cancelled="cancelled" in sys.argv, hangs="hangs" in sys.argv)))
    loop.call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)

tasks = []
asyncio.set_event_loop(reactor._asyncioEventloop)
lifecycle.install()
if "nobody" in sys.argv:
    reactor.callWhenRunning(lambda: reactor.callLater(0.05, os.kill, os.getpid(), signal.SIGTERM))
else:
    reactor.callWhenRunning(begin)
reactor.run()
"""


def run(*how: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *how],
        cwd=Path(__file__).parents[2],
        env=None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.split()


@pytest.fixture(autouse=True)
def django_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "silentmode.settings")


def test_who_stays_is_waited_for() -> None:
    status, said = run("waits")
    assert (status, sorted(said), said[-1]) == (0, ["in", "out", "tended"], "out")


def test_who_left_before_leaves_the_others_to_be_waited_for() -> None:
    status, said = run("waits", "one has left")
    assert (status, said[-1], said.count("out")) == (0, "out", 2)


def test_a_connection_is_cancelled_and_has_time_to_keep_what_arrived() -> None:
    status, said = run("cancelled")
    assert (status, said[-2:]) == (0, ["kept", "out"])


def test_who_hangs_does_not_keep_the_process_for_ever() -> None:
    status, said = run("hangs")
    assert (status, "out" in said) == (1, False)


def test_a_process_that_serves_nobody_ends_at_once() -> None:
    assert run("nobody") == (0, ["tended"])
