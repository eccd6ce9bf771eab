"""One large file: ours with chunks of several sizes, in turn with scp, rsync over ssh and cp."""

from pathlib import Path

from benchmarks.figures import Findings, Goal, Row, at_least, rates, ratio
from benchmarks.peers import Subject, available, missing_rows
from benchmarks.pulls import Puller
from benchmarks.scene import Scene

ADAPTIVE = "silentmode, adaptive"
LIMITED = {f"silentmode, up to {kib} KiB": kib * 1024 for kib in (64, 256, 512)}
"""SILENTMODE_MAX_CHUNK. The default is the last of these: how far it is from adaptive is the noise."""

RATIOS: tuple[tuple[str, str, Goal], ...] = (
    (ADAPTIVE, "scp", at_least(1.15)),
    (ADAPTIVE, "rsync over ssh", at_least(1.3)),
    ("silentmode, up to 64 KiB", "scp", at_least(0.7)),
)


def measure(scene: Scene) -> Findings:
    mib = 64 if scene.quick else 512
    source = scene.file("data.bin", mib)
    peers, missing = available(scene, source)
    results = scene.in_turn(_ours(scene, source) | peers)
    rows = {
        name: rates(name, runs, note=_note(scene, name), peer=name in peers)
        for name, runs in results.items()
    }
    rows |= {row.name: row for row in missing_rows(missing)}
    return Findings(
        f"one file of {mib} MiB, random bytes, over loopback",
        (*rows.values(), *(_ratio(rows, over, under, goal) for over, under, goal in RATIOS)),
    )


def _ours(scene: Scene, source: Path) -> dict[str, Subject]:
    """Each with a server of its own, all running: those whose turn it is not are idle."""
    subjects: dict[str, Subject] = {}
    for name, most in {ADAPTIVE: None, **LIMITED}.items():
        settings = {"SILENTMODE_MAX_CHUNK": str(most)} if most else {}
        server = scene.server(f"server-{most}", **settings)
        agent = scene.agent(server, "till", file=source)
        subjects[name] = Puller(server, "till", agent, source).pull
    return subjects


def _note(scene: Scene, name: str) -> str:
    if name.startswith("silentmode"):
        return "SHA-256 at both ends, synced"
    return "not synced" if name == "cp" else f"{scene.sshd.cipher}, not synced"


def _ratio(rows: dict[str, Row], over: str, under: str, goal: Goal) -> Row:
    return ratio(f"{over} / {under}", rows[over], rows[under], goal)
