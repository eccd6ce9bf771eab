"""What is logged stays on its line and says what it is, whatever a name or an exception carries."""

import json
import logging
import os
import subprocess
import sys
from datetime import datetime
from types import TracebackType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silentmode.settings import BASE_DIR
from tests.environment import directory
from transfers.logs import EscapedFormatter, JsonFormatter

HOSTILE = "till\r\n[server] Finished receiving\x1b[2J\u202egpj.exe\u2028\x85"
ESCAPED = r"till\r\n[server] Finished receiving\x1b[2J\u202egpj.exe\u2028\x85"

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def failure(text: str) -> ExcInfo:
    try:
        raise ValueError(text)
    except ValueError as error:
        return type(error), error, error.__traceback__


def record(message: str, *args: object, exc_info: ExcInfo | None = None) -> logging.LogRecord:
    return logging.LogRecord("transfers.x", logging.INFO, "x.py", 1, message, args, exc_info)


def shown(entry: logging.LogRecord) -> str:
    return EscapedFormatter("[server] %(message)s").format(entry)


def test_a_line_is_as_the_readme_shows_it() -> None:
    line = record("✅ Hash verified successfully")
    assert shown(line) == "[server] ✅ Hash verified successfully"


def test_a_hostile_message_stays_on_its_line() -> None:
    assert shown(record("Receiving %s", HOSTILE)) == f"[server] Receiving {ESCAPED}"


def test_a_traceback_keeps_its_lines_and_none_looks_like_a_line_of_ours() -> None:
    lines = shown(record("It failed", exc_info=failure(HOSTILE))).splitlines()
    assert lines[:2] == ["[server] It failed", "    Traceback (most recent call last):"]
    assert len(lines) > 4
    assert [line for line in lines if line.startswith("[server]")] == lines[:1]
    assert all(line.isprintable() for line in lines)


def test_what_another_formatter_has_left_behind_is_not_printed() -> None:
    """`logging.Formatter` keeps its traceback on the record, for the next one to use."""
    entry = record("It failed", exc_info=failure(HOSTILE))
    logging.Formatter().format(entry)
    assert "\x1b" not in shown(entry)


def test_a_stack_is_printed_like_a_traceback() -> None:
    entry = record("Here")
    entry.stack_info = "Stack (most recent call last):\n  File \x1b"
    assert shown(entry).splitlines()[1:] == [
        "    Stack (most recent call last):",
        "      File \\x1b",
    ]


@given(st.text(), st.text())
def test_whatever_is_logged_there_is_one_line_for_it(message: str, argument: str) -> None:
    entry = record("%s: %s", message, argument)
    assert len(shown(entry).splitlines()) == 1
    assert shown(entry).isprintable()
    line = JsonFormatter().format(entry)
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == f"{message}: {argument}"


def test_a_line_of_json_says_when_who_and_what() -> None:
    line = JsonFormatter().format(record("Receiving %s", HOSTILE))
    assert line.isprintable()
    entry = json.loads(line)
    assert datetime.fromisoformat(entry.pop("time")).utcoffset() is not None
    assert entry == {"level": "INFO", "logger": "transfers.x", "message": f"Receiving {HOSTILE}"}


def test_a_line_of_json_has_the_traceback() -> None:
    entry = json.loads(JsonFormatter().format(record("It failed", exc_info=failure(HOSTILE))))
    assert entry["exception"].startswith("Traceback (most recent call last):\n")
    assert entry["exception"].endswith(f"ValueError: {HOSTILE}")


LOGGING = """
import logging, django
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")  # as daphne does, before
django.setup()
for name in ("transfers.x", "django.request", "daphne.server", "asyncio", "nobody"):
    try:
        raise ValueError("a\\n[server] b\\x1b")
    except ValueError:
        logging.getLogger(name).error("%s\\n[server] \\u202e", name, exc_info=True)
"""


def lines(**environment: str) -> list[str]:
    """What is logged by ours and by others, under daphne."""
    settings = {"SILENTMODE_DATA_DIR": directory, "DJANGO_SETTINGS_MODULE": "silentmode.settings"}
    done = subprocess.run(
        [sys.executable, "-c", LOGGING], cwd=BASE_DIR, env={**os.environ, **settings, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_no_logger_of_any_library_gets_by() -> None:
    said = lines()
    assert all(line.isprintable() for line in said)
    assert [line for line in said if not line.startswith("    ")] == [
        r"[server] transfers.x\n[server] \u202e",
        *(
            rf"[server] ERROR {name}: {name}\n[server] \u202e"
            for name in ("django.request", "daphne.server", "asyncio", "nobody")
        ),
    ]


def test_all_loggers_write_json_if_that_is_asked_for() -> None:
    entries = [json.loads(line) for line in lines(SILENTMODE_LOG_FORMAT="json")]
    assert [entry["logger"] for entry in entries] == [
        "transfers.x", "django.request", "daphne.server", "asyncio", "nobody",
    ]  # fmt: skip
    assert all(entry["exception"].endswith("\x1b") for entry in entries)


@pytest.mark.parametrize("level", ["INFO", "ERROR"])
def test_the_level_is_that_of_the_setting(level: str) -> None:
    script = LOGGING.replace('error("%s', 'info("%s').replace(", exc_info=True", "")
    settings = {
        "SILENTMODE_DATA_DIR": directory,
        "DJANGO_SETTINGS_MODULE": "silentmode.settings",
        "SILENTMODE_LOG_LEVEL": level,
    }
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=BASE_DIR, env={**os.environ, **settings},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ("[server] transfers.x" in done.stderr) == (level == "INFO")
