"""Links of every kind, and names that change into something else while they are opened."""

import os
from collections import Counter
from pathlib import Path

import pytest

from .scene import FORBIDDEN, PUBLIC, SECRET, Scene, steal_many

TRIES = 10_000

pytestmark = pytest.mark.timeout(600)


async def test_links_are_not_followed(scene: Scene) -> None:
    links = {
        "file": scene.outside / "secret", "folder": scene.outside, "relative": Path("../outside/secret"),
        "up": Path(".."), "top": Path("/"), "proc": Path("/proc/self"), "magic": Path("/proc/self/root"),
        "fd": Path("/proc/self/fd/0"), "cwd": Path("/proc/self/cwd"), "dev": Path("/dev"),
        "loop": Path("loop"), "dangling": Path("nowhere"), "chain": Path("file"), "same": Path("data.bin"),
        "here": Path("."),
    }  # fmt: skip
    for name, target in links.items():
        (scene.inside / name).symlink_to(target)
    paths = [
        *links, "folder/secret", "folder/gone", "up/outside/secret", "top/etc/passwd", "proc/environ",
        "magic/etc/passwd", "cwd/manage.py", "dev/null", "loop/x", "here/data.bin", "here/file",
        "up/inside/data.bin", "here/here/folder/secret",
    ]  # fmt: skip
    async with scene.attacked() as attacker:
        for path in paths:
            stolen = await attacker.steal(path, "links")
            assert (stolen.outcome, stolen.detail) == ("forbidden", FORBIDDEN), path
        assert (await attacker.steal("data.bin")).data == PUBLIC


def both_were_seen(outcomes: Counter[str], *lost: str) -> None:
    """The race was one: the file was had, and what took its place was met, too."""
    assert outcomes["sent"] + outcomes["source_changed"], outcomes
    assert any(outcomes[code] for code in lost), outcomes
    assert set(outcomes) <= {"sent", "source_changed", *lost}, outcomes


async def test_a_link_swapped_in_while_opening_is_never_followed(scene: Scene) -> None:
    """10,000 tries while another process swaps the file and a link to a secret as fast as it can."""
    (scene.folder / "link").symlink_to(scene.outside / "secret")
    async with (
        scene.attacked() as attacker,
        scene.racing(scene.inside / "data.bin", scene.folder / "link") as swaps,
    ):
        outcomes = await steal_many(attacker, ["data.bin"] * TRIES, "link swapped in for a file")
        assert swaps() > TRIES, "the racer was fast enough"
    both_were_seen(outcomes, "forbidden")
    assert outcomes.total() == TRIES


async def test_a_folder_swapped_for_a_link_is_never_followed(scene: Scene) -> None:
    for name in ("data.bin", "secret"):
        scene.write(scene.inside / "a" / "b" / name, PUBLIC)
    (scene.folder / "link").symlink_to(scene.outside)
    async with (
        scene.attacked() as attacker,
        scene.racing(scene.inside / "a" / "b", scene.folder / "link"),
    ):
        paths = ["a/b/data.bin", "a/b/secret"] * (TRIES // 10)
        both_were_seen(
            await steal_many(attacker, paths, "link swapped in for a folder"), "forbidden"
        )


async def test_the_root_itself_swapped_for_a_link(scene: Scene) -> None:
    """Who can do that is the machine's owner; a link that is there when the root is resolved is meant,
    and one that comes in the middle of a look-up is not followed. Links to a public folder show it."""
    other = scene.folder / "other"
    scene.write(other / "data.bin", PUBLIC)
    (scene.folder / "link").symlink_to(other)
    async with scene.attacked() as attacker, scene.racing(scene.inside, scene.folder / "link"):
        outcomes = await steal_many(attacker, ["data.bin"] * 1000, "root swapped for a link")
    assert outcomes["sent"]
    assert set(outcomes) <= {"sent", "source_changed", "forbidden", "not_found", "unreadable"}


async def test_a_folder_moved_out_of_the_root_in_the_middle(scene: Scene) -> None:
    """A `..` would lead out of it then; there is none, so all that is reached was below the root."""
    scene.write(scene.inside / "a" / "b" / "data.bin", PUBLIC)
    (scene.inside / "a" / "b" / "up").symlink_to("../secret")
    (scene.outside / "a").mkdir()
    async with (
        scene.attacked() as attacker,
        scene.racing(scene.inside / "a", scene.outside / "a"),
    ):
        paths = ["a/b/data.bin", "a/b/../data.bin", "a/b/../../secret", "a/b/up"] * 250
        outcomes = await steal_many(attacker, paths, "folder moved out of the root")
    both_were_seen(outcomes, "not_found", "forbidden")


async def test_a_fifo_swapped_in_is_never_opened(scene: Scene) -> None:
    """Opening it would let a program go on that waits to write; it waits in vain."""
    fifo = scene.folder / "fifo"
    os.mkfifo(fifo)
    async with scene.attacked() as attacker, scene.racing(scene.inside / "data.bin", fifo):
        outcomes = await steal_many(attacker, ["data.bin"] * 1000, "FIFO swapped in for a file")
    both_were_seen(outcomes, "not_a_file")


@pytest.mark.usefixtures("as_root")
async def test_a_device_swapped_in_is_never_read(scene: Scene) -> None:
    device = scene.folder / "zero"
    os.mknod(device, 0o600 | 0o020000, os.makedev(1, 5))
    async with scene.attacked() as attacker, scene.racing(scene.inside / "data.bin", device):
        outcomes = await steal_many(attacker, ["data.bin"] * 1000, "device swapped in for a file")
    both_were_seen(outcomes, "not_a_file")


async def test_a_file_swapped_for_another_is_one_of_them_whole(scene: Scene) -> None:
    scene.write(scene.folder / "other", PUBLIC[: len(PUBLIC) // 2])
    async with (
        scene.attacked() as attacker,
        scene.racing(scene.inside / "data.bin", scene.folder / "other"),
    ):
        outcomes = await steal_many(attacker, ["data.bin"] * 1000, "file swapped for another")
    assert outcomes["sent"]
    assert set(outcomes) <= {"sent", "source_changed"}


async def test_a_key_swapped_in_never_leaves(scene: Scene) -> None:
    """Its content is looked at on the very descriptor that is read."""
    key = b"-----BEGIN PRIVATE KEY-----\n" + SECRET
    scene.write(scene.folder / "other", key)
    async with (
        scene.attacked() as attacker,
        scene.racing(scene.inside / "data.bin", scene.folder / "other"),
    ):
        outcomes = await steal_many(attacker, ["data.bin"] * 1000, "key swapped in for a file")
    both_were_seen(outcomes, "forbidden")
