"""What a person sees: a bar on a terminal, plain lines elsewhere, and no control characters."""

import io
import sys

import pytest

from agent.progress import PLAIN_SECONDS, Bar, Lines, progress_of, say
from agent.wire.display import shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_for(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error, as if it were a terminal. No fixture: pytest's capture would undo it."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_a_bar_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    bar = progress_of("data.bin", 1000, 250)
    assert isinstance(bar, Bar)
    assert "25%" in terminal.getvalue(), "an earlier attempt counts"
    bar.update(1000)
    bar.close()
    assert "[client] Uploading data.bin" in terminal.getvalue()


def test_a_line_is_written_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    bar = progress_of("data.bin", 1000, 0)
    say("[client] SHA256: 0fce29e")
    bar.close()
    assert "[client] SHA256: 0fce29e\n" in terminal.getvalue()


def test_plain_lines_elsewhere_one_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress_of("data.bin", 1000, 0)
    assert isinstance(lines, Lines)
    for done in range(0, 1001, 25):
        lines.update(done)
    lines.close()
    assert capsys.readouterr().err.splitlines() == [
        f"[client] Uploading data.bin: {tenth}0.0%" for tenth in range(1, 10)
    ], "the sending itself says 100.0%, once it is true"


def test_what_is_there_from_an_earlier_attempt_is_not_announced_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines("data.bin", 1000, 550)
    lines.update(590)
    assert capsys.readouterr().err == ""
    lines.update(600)
    assert capsys.readouterr().err == "[client] Uploading data.bin: 60.0%\n"


def test_a_slow_sending_is_heard_of_between_the_tenths(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = Lines("data.bin", 1000, 0, clock=lambda: now)
    lines.update(1)
    assert capsys.readouterr().err == ""
    now = PLAIN_SECONDS
    lines.update(2)
    assert capsys.readouterr().err == "[client] Uploading data.bin: 0.2%\n"
    lines.update(3)
    assert capsys.readouterr().err == ""


def test_an_empty_file_needs_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines("empty", 0, 0)
    lines.update(0)
    lines.close()
    assert capsys.readouterr().err == ""


HOSTILE = "a\x1b[2J\r\n\u202eexe.\x07\udcff"


@pytest.mark.parametrize("text", ["data.bin", "café 😀 数据"])
def test_ordinary_names_are_shown_as_they_are(text: str) -> None:
    assert shown(text) == text


def test_control_characters_are_escaped() -> None:
    assert shown(HOSTILE) == "a\\x1b[2J\\r\\n\\u202eexe.\\x07\\udcff"


def test_a_hostile_name_does_not_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    bar = progress_of(HOSTILE, 10, 0)
    bar.update(10)
    bar.close()
    assert "a\\x1b[2J" in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()
    assert "\u202e" not in terminal.getvalue()


def test_a_hostile_name_does_not_reach_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    Lines(HOSTILE, 10, 0).update(5)
    assert shown(HOSTILE) in capsys.readouterr().err
