r"""Log lines that nobody can forge: what an agent or a browser has sent stays on its line, as `\x1b`.

For every logger, also those of the libraries: a hostile name can be in any message or exception.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

from tqdm import tqdm

from agent.wire.display import is_terminal, shown

# What no line of ours shows is not looked up for each (Python's logging how-to, "Optimization").
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class EscapedFormatter(logging.Formatter):
    """For people: control, bidi and other unprintable characters escaped.

    A traceback keeps its lines, indented, so that none of them looks like a line of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        lines = [shown(self.formatMessage(record))]
        lines += (f"    {shown(line)}" for line in _details(record).splitlines())
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """For programs: an object on a line. All of it ASCII, so that JSON itself escapes the rest."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if details := _details(record):
            entry["exception"] = details
        return json.dumps(entry, ensure_ascii=True)


class SaidAlready(logging.Filter):
    """Drops Django's line for each answer 429: who is told to wait has one line of ours, once a pause."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "status_code", None) != 429


def _details(record: logging.LogRecord) -> str:
    """Traceback and stack, if any. Not from `record.exc_text`: another formatter may have filled it."""
    parts = []
    if record.exc_info and record.exc_info[0]:
        parts.append("".join(traceback.format_exception(*record.exc_info)))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(part.rstrip("\n") for part in parts)


class ConsoleHandler(logging.Handler):
    """Log lines on standard error, written above any bar that is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            if is_terminal(sys.stderr):
                tqdm.write(line, file=sys.stderr)
            else:  # where no bar is drawn, tqdm has nothing to move out of the way
                sys.stderr.write(line + "\n")
        except Exception:
            self.handleError(record)
