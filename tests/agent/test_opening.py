"""What is opened and what is not, in each of the ways that systems need."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.gate import opening
from agent.gate.policy import Policy, Root
from agent.gate.reading import Block
from agent.gate.source import SourceError
from agent.wire.errors import ERRORS

from .servers import gate
from .ways import WAYS

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="links, FIFOs and devices of POSIX"),
    pytest.mark.timeout(30),
]

FORBIDDEN = ERRORS["forbidden"].sentence


@pytest.fixture(autouse=True, params=WAYS, ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    request.param(monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory that may be pulled from, with one file directly in it and one below."""
    root = tmp_path / "root"
    (root / "logs").mkdir(parents=True)
    (root / "data.bin").write_bytes(b"data")
    (root / "logs" / "today.log").write_bytes(b"log")
    return root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that may not be pulled from."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    return outside


def below(*roots: Path) -> Policy:
    return Policy(roots=[Root.whole(root) for root in roots])


def content(policy: Policy, path: str | None) -> Block:
    source, _ = gate(policy).open(path)
    try:
        return source.read(0, source.size)
    finally:
        source.close()


def refusal(policy: Policy, path: str | None) -> str:
    """The code with which opening fails. Of what is forbidden the server hears one sentence only."""
    before = descriptors()
    with pytest.raises(SourceError) as refused:
        gate(policy).open(path)
    assert descriptors() == before, "it leaves a descriptor open"
    if refused.value.code == "forbidden":
        assert refused.value.detail == FORBIDDEN
        assert refused.value.reason != FORBIDDEN
    return refused.value.code


def descriptors() -> int:
    here = Path("/proc/self/fd")
    return len(list(here.iterdir())) if here.is_dir() else 0


# What is there


@pytest.mark.parametrize("path", ["data.bin", "logs/today.log", "./data.bin", "logs//today.log"])
def test_relative_paths_below_a_root(root: Path, path: str) -> None:
    assert content(below(root), path) in (b"data", b"log")


def test_absolute_paths_below_a_root(root: Path) -> None:
    assert content(below(root), str(root / "logs" / "today.log")) == b"log"


def test_each_of_several_roots_is_looked_into_in_turn(root: Path, outside: Path) -> None:
    policy = below(root, outside)
    assert content(policy, "data.bin") == b"data"
    assert content(policy, "secret") == b"secret"
    assert content(policy, str(outside / "secret")) == b"secret"
    assert refusal(policy, "neither") == "not_found"


def test_a_root_may_itself_be_a_link(root: Path, tmp_path: Path) -> None:
    """It is named by who runs the agent, wherever it leads."""
    (tmp_path / "link").symlink_to(root)
    policy = below(tmp_path / "link")
    assert content(policy, "data.bin") == b"data"
    assert content(policy, str(tmp_path / "link" / "data.bin")) == b"data"
    assert content(policy, str(root / "data.bin")) == b"data"


def test_the_file_may_be_a_link(root: Path, outside: Path) -> None:
    (outside / "link").symlink_to(root / "data.bin")
    assert content(Policy(outside / "link"), None) == b"data"


def test_the_root_directory_as_a_root_allows_everything(root: Path) -> None:
    assert content(below(Path("/")), str(root / "data.bin")) == b"data"


def test_a_relative_file_is_had_by_its_name_and_by_its_whole_path(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--file ./data.bin`, as in the README, and `manage.py pull client1 ./data.bin`."""
    monkeypatch.chdir(root)
    policy = Policy(Path("./data.bin"))
    for asked in (None, "data.bin", "./data.bin", str(root / "data.bin")):
        assert content(policy, asked) == b"data"


# What is not


def test_a_missing_file_is_not_found(root: Path) -> None:
    policy = Policy(root / "gone", [Root.whole(root)])
    for asked in (None, "nowhere/gone", "data.bin/gone", "x/" * 2000):
        assert refusal(policy, asked) == "not_found"


def test_a_root_that_is_not_there_is_not_found(root: Path) -> None:
    """A disk that is not mounted yet."""
    assert refusal(below(root / "later"), "data.bin") == "not_found"


@pytest.mark.parametrize(
    "path",
    [
        "../outside/secret",
        "logs/../data.bin",
        "/etc/passwd",
        "..",
        "../root-2/data.bin",
        "//etc/passwd",
    ],
)
def test_nothing_above_or_beside_a_root_is_looked_for(root: Path, outside: Path, path: str) -> None:
    assert refusal(below(root), path) == "forbidden"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_unreadable(root: Path) -> None:
    (root / "data.bin").chmod(0)
    assert refusal(below(root), "data.bin") == "unreadable"


# Links


def test_no_link_below_a_root_is_followed(root: Path, outside: Path) -> None:
    """Neither out of it nor within, and it does not show whether there is something behind it."""
    (root / "file").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    (root / "inside").symlink_to("data.bin")
    (root / "logs" / "up").symlink_to("..")
    (root / "dangling").symlink_to("nothing")
    (root / "loop").symlink_to("loop")
    (root / "magic").symlink_to("/proc/self/root/etc/passwd")
    for asked in (
        "file", "folder", "folder/secret", "folder/gone", "inside", "logs/up/data.bin",
        "dangling", "loop", "loop/x", "magic",
    ):  # fmt: skip
        assert refusal(below(root), asked) == "forbidden", asked


def test_a_link_in_the_way_to_a_root_that_comes_later_is_not_followed(
    root: Path, outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (outside / "data.bin").write_bytes(b"secret")
    policy = below(root)
    place = policy.places("data.bin")[0]
    root.rename(tmp_path / "old")
    root.symlink_to(outside)
    with pytest.raises(SourceError) as refused:
        opening.open_place(place, lambda descriptor, status: None)
    assert refused.value.code == "forbidden"


# What is no regular file


def directory(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)  # no one writes to it: opening it without O_NONBLOCK would wait for ever


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)  # relative: a socket's path has at most 107 bytes


@pytest.mark.parametrize("make", [directory, fifo, unix_socket])
def test_what_is_no_regular_file_is_refused_without_being_opened(
    root: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    make(root / "special")
    opened = watch_opening(monkeypatch)
    assert refusal(Policy(root / "special"), None) == "not_a_file"
    assert refusal(below(root), "special") == "not_a_file"
    assert "special" not in opened


def watch_opening(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is opened, not only looked at, from now on."""
    opened: list[str] = []
    really_open = os.open

    def watched(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if not flags & os.O_PATH:
            opened.append(Path(path).name)
        return really_open(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", watched)
    return opened


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_refused_without_being_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a device can rewind a tape; reading /dev/zero never ends."""
    os.mknod(root / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    opened = watch_opening(monkeypatch)
    assert refusal(below(root), "zero") == "not_a_file"
    assert refusal(Policy(root / "zero"), None) == "not_a_file"
    assert "zero" not in opened


def test_a_root_itself_is_no_file(root: Path) -> None:
    assert refusal(below(root), ".") == "not_a_file"
    assert refusal(below(root), str(root)) == "not_a_file"
    assert refusal(Policy(Path("/")), None) == "not_a_file"


# Changes while opening


def opened_while(swap: Callable[[], object], policy: Policy) -> bytes | str:
    """What is read, or the code of the refusal, when `swap` happens after the look at data.bin."""

    def check(descriptor: int, status: os.stat_result) -> None:
        swap()

    try:
        descriptor = opening.open_place(policy.places("data.bin")[0], check)
    except SourceError as error:
        return error.code
    try:
        return os.read(descriptor, 10)
    finally:
        os.close(descriptor)


def test_what_is_read_is_what_was_looked_at(root: Path, outside: Path) -> None:
    """A file that takes the name between the look and the opening is not read in its stead."""
    swap = lambda: (outside / "secret").replace(root / "data.bin")  # noqa: E731
    assert opened_while(swap, below(root)) in (b"data", "source_changed")


def test_a_fifo_swapped_in_is_neither_opened_nor_waited_for(root: Path) -> None:
    os.mkfifo(root / "fifo")
    swap = lambda: (root / "fifo").replace(root / "data.bin")  # noqa: E731
    assert opened_while(swap, below(root)) in (b"data", "source_changed")
