"""What can happen to a server on its disk: calls that fail, and the end in the middle of a landing."""

import threading
from pathlib import Path

from .plan import Act
from .saboteur import Saboteur
from .scene import Hit, Scene

CALLS = {
    "write": ("pwritev,pwritev2", "partial"),
    "checkpoint": ("fdatasync", "partial"),
    "sync": ("fsync", "partial"),
    "rename": ("rename", "partial"),
    "directory": ("fsync", "downloads"),
}
"""System calls, and whether on the transfer's partial file or on the directory of the downloads."""

LANDING = ("sync", "rename", "directory")
"""Its steps, in order."""

LANDING_SECONDS = 1
"""How long a slow step of it takes."""

LOOK_SECONDS = 0.02


def _path(scene: Scene, where: str) -> Path:
    data = scene.server.directory / "data"
    return data / "partial" / f"{scene.transfer}.part" if where == "partial" else data / where


def _attach(scene: Scene, hit: Hit, call: str, tampering: str) -> Saboteur:
    calls, where = CALLS[call]
    scene.note(f"to come, for the {call}: {tampering}")
    pid = scene.server.program.process.pid
    saboteur = Saboteur.attach(pid, f"{calls}:{tampering}", _path(scene, where))
    hit.call_off = saboteur.leave
    return saboteur


def fail(call: str) -> Act:
    """Have calls of one kind fail, until a moment after the first that did."""

    def arm(scene: Scene, hit: Hit) -> None:
        dice = hit.strike.throw()
        error = dice.choice(("ENOSPC", "EIO"))
        when = dice.choice((1, 1, 2, 5)) if call == "write" else 1
        saboteur = _attach(scene, hit, call, f"error={error}:when={when}+")
        scene.begin_when(hit, saboteur.acted)
        if call == "checkpoint":  # a short file has no other one than at a lost link
            scene.link.at(hit.strike.at[0], scene.link.cut)

    return arm


def kill_in_landing(scene: Scene, hit: Hit) -> None:
    """Have the server killed as it comes to one step of it."""
    saboteur = _attach(scene, hit, hit.strike.throw().choice(LANDING), "signal=SIGKILL")
    server = scene.server.program
    scene.dismissed.add(server)

    def is_killed() -> bool:
        saboteur.acted()
        return server.process.poll() is not None

    scene.begin_when(hit, is_killed)


def slow_landing(scene: Scene, hit: Hit) -> None:
    """Have one step of it take its time, and strike in the middle."""
    step = hit.strike.throw().choice(LANDING)
    saboteur = _attach(scene, hit, step, f"delay_enter={LANDING_SECONDS}s:when=1")
    called_off = threading.Event()

    def is_landing() -> bool:
        while not (sent := scene.has_sent_all()) and not called_off.wait(LOOK_SECONDS):
            pass
        return sent

    def call_off() -> None:
        called_off.set()
        saboteur.leave()

    hit.call_off = call_off
    scene.begin_when(hit, is_landing)


def leave(scene: Scene, hit: Hit) -> None:
    hit.call_off()
