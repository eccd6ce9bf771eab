"""What looks like a file and is none: opening it can block, have an effect, or never end."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .scene import FORBIDDEN, PUBLIC, SECRET, Scene


@contextmanager
def within(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(before)


async def test_what_is_no_file_is_not_opened(scene: Scene) -> None:
    os.mkfifo(scene.inside / "fifo")
    (scene.inside / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening, within(scene.inside):
        listening.bind("socket")  # relative: a socket's path has at most 107 bytes
    async with scene.attacked() as attacker:
        for name in ("fifo", "folder", "socket", ".", "folder/.", "fifo/"):
            assert (await attacker.steal(name, "no regular file")).outcome == "not_a_file", name
        assert (await attacker.steal("fifo/x", "no regular file")).outcome == "not_found"
        with pytest.raises(OSError, match="No such device or address"):  # nobody reads from it
            os.open(scene.inside / "fifo", os.O_WRONLY | os.O_NONBLOCK)
        assert (await attacker.steal("data.bin")).data == PUBLIC


@pytest.mark.usefixtures("as_root")
async def test_devices_are_not_opened(scene: Scene) -> None:
    devices = {"zero": (0o020000, 1, 5), "kmsg": (0o020000, 1, 11), "mem": (0o020000, 1, 1),
               "tty": (0o020000, 5, 0), "loop": (0o060000, 7, 0), "tape": (0o020000, 9, 0)}  # fmt: skip
    for name, (kind, major, minor) in devices.items():
        os.mknod(scene.inside / name, 0o600 | kind, os.makedev(major, minor))
    async with scene.attacked() as attacker:
        for name in devices:
            assert (await attacker.steal(name, "devices")).outcome == "not_a_file", name


@pytest.fixture
def mounting(scene: Scene) -> Scene:
    """The agent in a mount namespace of its own, with the system's folders mounted below the root."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    mounts = [("--bind", folder) for folder in ("/proc", "/sys", "/dev")]
    mounts.append(("--rbind", "/dev"))
    steps = []
    for number, (kind, folder) in enumerate(mounts):
        (scene.inside / f"m{number}").mkdir()
        steps.append(f'mount {kind} {folder} "$0/m{number}"')
    (scene.inside / "fresh").mkdir()
    steps.append('mount -t proc proc "$0/fresh"')
    scene.write(scene.inside / "file-of-proc", b"")
    steps.append('mount --bind /proc/self/environ "$0/file-of-proc"')
    (scene.inside / "state-again").mkdir()
    scene.state.mkdir(mode=0o700)
    scene.write(scene.state / "client-token", SECRET)
    steps.append(f'mount --bind "{scene.state}" "$0/state-again"')
    script = " && ".join([*steps, 'exec "$@"'])
    scene.wrapper = ("unshare", "--mount", "sh", "-c", script, str(scene.inside), *scene.wrapper)
    return scene


@pytest.mark.usefixtures("as_root")
async def test_the_systems_own_is_known_wherever_it_is_mounted(mounting: Scene) -> None:
    memory = Path("/dev/shm/silentmode-canary")
    memory.write_bytes(SECRET)
    try:
        async with mounting.attacked() as attacker:
            pid = mounting.pid
            for path in (
                "m0/self/environ", f"m0/{pid}/environ", "m0/version", "m0/self/status", "m0/1/cmdline",
                "m1/kernel/notes", "m1/power/state", "m3/shm/silentmode-canary", "fresh/self/environ",
                "file-of-proc", "state-again/client-token", "state-again/refusals.jsonl",
            ):  # fmt: skip
                stolen = await attacker.steal(
                    path, "/proc, /sys, /dev and own state, mounted elsewhere"
                )
                assert (stolen.outcome, stolen.detail) == ("forbidden", FORBIDDEN), path
            for path in ("m2/null", "m2/zero", "m3/tty", "m0/self/fd/0", "m0/self/root/etc/passwd"):
                stolen = await attacker.steal(
                    path, "/proc, /sys, /dev and own state, mounted elsewhere"
                )
                assert stolen.outcome in ("forbidden", "not_a_file"), path
            assert (await attacker.steal("data.bin")).data == PUBLIC
    finally:
        memory.unlink()


async def test_an_endless_file_is_stopped_by_its_size(scene: Scene) -> None:
    """A sparse file of 4 TiB takes no room on the disk; it must take none of the line, either."""
    scene.head = 'max_file_size = "1 GiB"'
    with (scene.inside / "endless").open("wb") as file:
        file.truncate(2**42)
    async with scene.attacked() as attacker:
        assert (await attacker.steal("endless", "endless file")).outcome == "too_large"
