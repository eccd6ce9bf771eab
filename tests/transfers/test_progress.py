"""What the server shows on its console."""

import io
import logging
import sys

import pytest

from agent.wire.display import shown
from transfers.logs import ConsoleHandler
from transfers.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal. Not a fixture: pytest sets it anew when the test begins."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == "", "standard output is not for this"
    return err.splitlines()


def test_elsewhere_than_on_a_terminal_every_tenth_is_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("a.db", "client1", 1000) as progress:
        for done in range(0, 1001, 10):
            progress.update(done)
        progress.finish()
    assert lines(capsys) == [
        f"[server] Receiving a.db: {percent}.0%" for percent in range(10, 101, 10)
    ]


def test_what_was_there_before_is_not_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("a.db", "client1", 1000, 550) as progress:
        progress.update(560)
        progress.update(610)
    assert lines(capsys) == ["[server] Receiving a.db: 61.0%"]


def test_a_big_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("a.db", "client1", 1000) as progress:
        progress.update(955)
    assert lines(capsys) == ["[server] Receiving a.db: 95.5%"]


@pytest.mark.parametrize("size", [0, 1])
def test_the_smallest_files_are_told_once(capsys: pytest.CaptureFixture[str], size: int) -> None:
    with Progress("a.db", "client1", size) as progress:
        progress.update(size)
        progress.finish()
    assert lines(capsys) == ["[server] Receiving a.db: 100.0%"]


def test_what_does_not_finish_is_not_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConnectionError), Progress("a.db", "client1", 10):
        raise ConnectionError
    assert lines(capsys) == []


def test_on_a_terminal_there_is_a_bar_and_a_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with Progress("a.db", "client1", 1000, 500) as progress:
        progress.update(1000)
        progress.finish()
    said = terminal.getvalue()
    assert "[server] Receiving a.db from client1:  50%" in said
    assert said.endswith("[server] Receiving a.db: 100.0%\n")
    assert said.count("\n") == 1, "the bar is wiped away"


def test_closing_a_bar_twice_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    open_terminal(monkeypatch)
    with Progress("a.db", "client1", 1000) as progress:
        progress.close()
        progress.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a b.db", "a b.db"),
        ("tïll 😀", "tïll 😀"),
        ("a\nb", r"a\nb"),
        ("\x1b[2J", r"\x1b[2J"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("\u2028", r"\u2028"),
        ("\ud800", r"\ud800"),
        ("\0", r"\x00"),
        ("\x9b31m", r"\x9b31m"),
    ],
)
def test_a_hostile_name_cannot_drive_the_console(name: str, text: str) -> None:
    assert shown(name) == text


def test_a_hostile_name_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("a\nroot: all is well\x1b[2J", "client1", 1) as progress:
        progress.finish()
    assert len(lines(capsys)) == 1


def test_a_log_line_that_cannot_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = ConsoleHandler()
    handled: list[logging.LogRecord] = []
    monkeypatch.setattr(handler, "handleError", handled.append)
    record = logging.LogRecord("transfers", logging.INFO, "", 0, "%d", ("not a number",), None)
    handler.handle(record)
    assert handled == [record]
