"""What people use today for the same job, as they use it: `cp`, `scp` and `rsync` over ssh.

They push, as an agent does: the end that dials out is the one that has the file. None of them syncs
what it has written to disk, nor hashes it with SHA-256.
"""

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from tests.end_to_end.harness import sha256

from .figures import Row, Run
from .scene import Scene
from .sshd import HOST, Missing, program

Subject = Callable[[], Run]


def cp(scene: Scene, source: Path) -> Subject:
    """Both of its ends are one process, the sender."""
    command = [program("cp"), str(source)]
    return lambda: _timed(scene, command, "{}", source, lambda: 0.0)


def scp(scene: Scene, source: Path) -> Subject:
    sshd = scene.sshd
    command = [program("scp"), "-q", "-F", str(sshd.configuration), str(source)]
    return lambda: _timed(scene, command, f"{HOST}:{{}}", source, sshd.cpu)


def rsync(scene: Scene, source: Path, *, options: Sequence[str] = (), port: int = 0) -> Subject:
    """`port`: where sshd is reached, if not straight."""
    sshd = scene.sshd
    shell = f"{sshd.shell} -p {port or sshd.port}"
    command = [program("rsync"), "-a", *options, "-e", shell, str(source)]
    return lambda: _timed(scene, command, f"{HOST}:{{}}", source, sshd.cpu)


PEERS = {"scp": scp, "rsync over ssh": rsync, "cp": cp}


def available(scene: Scene, source: Path) -> tuple[dict[str, Subject], dict[str, str]]:
    """The peers that are to be had here, and why the others are not."""
    return sort_out({name: partial(peer, scene, source) for name, peer in PEERS.items()})


def sort_out(
    peers: dict[str, Callable[[], Subject]],
) -> tuple[dict[str, Subject], dict[str, str]]:
    """Those that are to be had here, and why the others are not."""
    here, missing = {}, {}
    for name, peer in peers.items():
        try:
            here[name] = peer()
        except Missing as why:
            missing[name] = str(why)
    return here, missing


def missing_rows(missing: dict[str, str], unit: str = "MiB/s") -> Iterable[Row]:
    return (Row(name, unit, missing=why, peer=True) for name, why in missing.items())


def _timed(
    scene: Scene, command: Sequence[str], target: str, source: Path, receiver: Callable[[], float]
) -> Run:
    """Copy to a new file; it is verified, and removed, when the time has been taken."""
    landed = scene.folder / f"{source.name}.copy"
    before = resource.getrusage(resource.RUSAGE_CHILDREN), receiver()
    began = time.monotonic()
    subprocess.run([*command, target.format(landed)], check=True, stdin=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    sender = sum(
        getattr(after, kind) - getattr(before[0], kind) for kind in ("ru_utime", "ru_stime")
    )
    run = Run(source.stat().st_size, seconds, sender, receiver() - before[1])
    assert sha256(landed) == sha256(source), f"{command[0]} made another file of {source}"
    landed.unlink()
    os.sync()  # or the next one would pay for what is still to be written
    return run
