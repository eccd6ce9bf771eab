"""The journal: a line a step, whole or not at all, bounded, and readable for its owner alone."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.journal import KEPT_SECONDS, MAX_TEXT, Full, Journal
from agent.state_folder import StateFolder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")


REFUSED = "refusals.jsonl"


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    folder = StateFolder(tmp_path / "state")
    folder.create()
    return folder


def lines(folder: StateFolder, name: str = "requests.jsonl") -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder.path / name).read_text().splitlines()]


def test_a_line_says_when_what_and_for_whom(folder: StateFolder) -> None:
    journal = Journal(folder, "wss://files.example.com", clock=lambda: 1795415520.5)
    journal.write("landed", "T", "a.log", size=3, sha256="ab", code=None)
    assert lines(folder) == [
        {
            "time": "2026-11-23T06:32:00.500+00:00", "event": "landed", "transfer": "T",
            "server": "wss://files.example.com", "asked": "a.log", "size": 3, "sha256": "ab",
        }
    ]  # fmt: skip
    assert (folder.path / "requests.jsonl").stat().st_mode & 0o777 == 0o600


def test_what_the_server_says_cannot_make_or_hide_a_line(folder: StateFolder) -> None:
    evil = '\n{"event":"landed"}\r\x00\x1b[2K\x7f\x85\u2028\u202e\ud800'
    Journal(folder, "s").write("refused", "T", evil)
    (line,) = lines(folder, REFUSED)
    assert line["asked"] == evil
    raw = (folder.path / REFUSED).read_bytes()
    assert all(0x20 <= byte < 0x7F for byte in raw[:-1])


@pytest.mark.parametrize("letter", ["x", "é", "\N{GRINNING FACE}", '"', "\x7f", "\ud800"])
def test_of_a_long_path_as_much_is_kept_as_has_the_bytes(folder: StateFolder, letter: str) -> None:
    """However many bytes the server can make of a character."""
    Journal(folder, "s").write("refused", "T", letter * 4096, reason=letter * 4096)
    (line,) = lines(folder, REFUSED)
    written = len(json.dumps(letter).replace("\x7f", "\\u007f")) - 2
    assert line["asked"] == line["reason"] == letter * (MAX_TEXT // written)
    assert (folder.path / REFUSED).stat().st_size < 2 * MAX_TEXT + 200


def test_refusals_take_no_more_room_than_they_may(folder: StateFolder) -> None:
    journal = Journal(folder, "s", max_bytes=1000, kept_refused=2)
    for number in range(50):
        journal.write("refused", str(number), "x" * 100)
    files = sorted(folder.path.iterdir())
    assert [file.name for file in files] == [REFUSED, f"{REFUSED}.1", f"{REFUSED}.2"]
    assert all(file.stat().st_size <= 1000 for file in files)
    kept = [line["transfer"] for file in reversed(files) for line in lines(folder, file.name)]
    assert kept == [str(number) for number in range(50 - len(kept), 50)]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)


# A thief who would wash it away ------------------------------------------------------------------


def test_no_flood_of_refusals_pushes_out_what_was_sent(folder: StateFolder) -> None:
    journal = Journal(folder, "s", max_bytes=1000)
    journal.write("allowed", "theft", "sales.db")
    for number in range(1000):
        journal.write("refused", str(number), "x" * 100)
    journal.write("landed", "theft", "sales.db")
    assert [line["event"] for line in lines(folder)] == ["allowed", "landed"]


def filled(folder: StateFolder) -> tuple[Journal, int]:
    """A journal in which nothing more may be sent, and how often it was."""
    journal = Journal(folder, "s", max_bytes=1000, kept=2)
    for number in range(100):
        try:
            journal.write("allowed", str(number), "x" * 100)
        except Full:
            return journal, number
        journal.write("landed", str(number), "x" * 100)
    raise AssertionError("what was sent just now has been let go")


def sent(folder: StateFolder) -> list[object]:
    """What was sent, from the oldest."""
    names = [f"requests.jsonl{suffix}" for suffix in (".2", ".1", "")]
    return [line["transfer"] for name in names for line in lines(folder, name)]


def test_what_was_sent_today_is_not_pushed_out_by_more_of_it(folder: StateFolder) -> None:
    """Rather nothing more is sent."""
    _, times = filled(folder)
    assert times > 5
    assert sent(folder) == [str(number) for number in range(times) for _ in "AL"]


def test_the_end_of_what_was_allowed_is_recorded_in_a_full_journal(folder: StateFolder) -> None:
    journal, times = filled(folder)
    journal.write("stopped", "the last", "x" * 1000)
    assert sent(folder)[-1] == "the last"
    assert len(sent(folder)) == 2 * times + 1


@pytest.mark.parametrize("age", [KEPT_SECONDS + 1, -1000], ids=["old", "of a clock that was wrong"])
def test_when_the_oldest_may_go_the_journal_goes_on(folder: StateFolder, age: float) -> None:
    journal, _ = filled(folder)
    then = time.time() - age
    os.utime(folder.path / "requests.jsonl.2", (then, then))
    journal.write("allowed", "next", "x")
    assert sent(folder)[-1] == "next"
    assert len(list(folder.path.iterdir())) == 3


def test_when_the_older_files_were_moved_away_the_journal_goes_on(folder: StateFolder) -> None:
    journal, _ = filled(folder)
    (folder.path / "requests.jsonl.2").unlink()
    journal.write("allowed", "next", "x")


# Whole lines -------------------------------------------------------------------------------------


def test_several_threads_write_whole_lines(folder: StateFolder) -> None:
    journal = Journal(folder, "s", max_bytes=20_000)

    def write() -> None:
        for number in range(100):
            journal.write("landed", str(number), "x" * 50)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(lines(folder, file.name)) for file in folder.path.iterdir()) == 400


def test_a_line_that_did_not_fit_leaves_no_part_of_itself(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full takes the beginning of a line."""
    journal = Journal(folder, "s")
    journal.write("landed", "first", "x")
    really_write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: really_write(descriptor, data[:10]))
        with pytest.raises(OSError, match="No space left"):
            journal.write("landed", "second", "x")
    journal.write("landed", "third", "x")
    assert [line["transfer"] for line in lines(folder)] == ["first", "third"]


def test_a_link_in_its_place_is_not_written_through(folder: StateFolder, tmp_path: Path) -> None:
    (folder.path / "requests.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Journal(folder, "s").write("landed", "T", "x")
    assert not (tmp_path / "elsewhere").exists()
