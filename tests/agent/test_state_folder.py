"""The agent's own folder: for its account alone, and files that are replaced as a whole."""

import os
import sys
from pathlib import Path

import pytest

from agent.gate.own_files import OwnFiles
from agent.gate.source import SourceError
from agent.state_folder import StateFolder, StateFolderError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    folder = StateFolder(tmp_path / "a" / "state")
    folder.create()
    return folder


def test_the_option_goes_before_the_environment_and_that_before_the_usual_place(
    tmp_path: Path,
) -> None:
    environment = {"SILENTMODE_STATE_DIR": str(tmp_path / "environment")}
    assert StateFolder.chosen(tmp_path / "x", environment).path == tmp_path / "x"
    assert StateFolder.chosen(None, environment).path == tmp_path / "environment"
    assert StateFolder.chosen(None, {}).path.name == "silentmode-agent"
    assert StateFolder.chosen(Path("relative"), {}).path.is_absolute()


def test_it_is_made_for_this_account_alone(folder: StateFolder) -> None:
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.create()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_one_that_is_open_to_others_is_refused_and_left_as_it_is(tmp_path: Path, mode: int) -> None:
    """Somebody may have named /tmp."""
    tmp_path.chmod(mode)
    with pytest.raises(StateFolderError, match="chmod 700"):
        StateFolder(tmp_path).create()
    assert tmp_path.stat().st_mode & 0o777 == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_one_that_belongs_to_somebody_else_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(StateFolderError, match="belongs to another account"):
        StateFolder(tmp_path).create()


def test_one_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateFolderError, match=r"file/state cannot be made .* --state"):
        StateFolder(tmp_path / "file" / "state").create()


def test_what_is_written_is_read_again_and_for_this_account_alone(folder: StateFolder) -> None:
    assert folder.read("token") is None
    folder.write_private("token", b"one")
    folder.write_private("token", b"two")
    assert folder.read("token") == b"two"
    assert [file.name for file in folder.path.iterdir()] == ["token"]
    assert (folder.path / "token").stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_private("token", b"old")

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="Input/output"):
        folder.write_private("token", b"new")
    assert folder.read("token") == b"old"
    assert [file.name for file in folder.path.iterdir()] == ["token"]


# What is the agent's own


def test_all_in_the_folder_and_the_files_named_are_the_agents_own(
    folder: StateFolder, tmp_path: Path
) -> None:
    folder.write_private("token", b"x")
    policy, other = tmp_path / "policy.toml", tmp_path / "other"
    policy.write_text("")
    other.write_text("")
    own = OwnFiles(folder, [policy])
    for path in (folder.path, folder.path / "token", folder.path / "new" / "x", policy):
        with pytest.raises(SourceError, match="does not allow"):
            own.check_path(path)
    for file in (folder.path / "token", policy):
        with pytest.raises(SourceError, match="does not allow"):
            own.check_file(file.stat())
    own.check_path(other)
    own.check_file(other.stat())


def test_before_there_is_a_state_folder_nothing_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    OwnFiles(StateFolder(tmp_path / "later"), [tmp_path / "gone"]).check_file(
        (tmp_path / "x").stat()
    )
