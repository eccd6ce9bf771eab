"""What the agent shows a person: tqdm on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from tqdm import tqdm

from .wire.display import is_terminal, shown

PLAIN_SECONDS = 10.0
"""On no terminal, a line for each tenth of the file, and at least one in this time."""


class Progress(Protocol):
    """A callback that the sending does not understand."""

    def update(self, done: int) -> None:
        """`done` bytes of the file have been sent."""

    def close(self) -> None:
        """No more is coming."""


def say(text: str) -> None:
    """A line for the person who watches, above any bar that is being drawn."""
    if is_terminal(sys.stderr):
        tqdm.write(text, file=sys.stderr)
    else:  # where no bar is drawn, tqdm has nothing to move out of the way
        sys.stderr.write(f"{text}\n")


class Bar:
    """A progress bar with rate and time left."""

    def __init__(self, name: str, size: int, done: int) -> None:
        self._bar: tqdm[Any] = tqdm(
            total=size, initial=done, desc=f"[client] Uploading {shown(name)}",
            unit="B", unit_scale=True, dynamic_ncols=True, leave=False,
        )  # fmt: skip

    def update(self, done: int) -> None:
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class Lines:
    """Plain lines, for logs."""

    def __init__(
        self, name: str, size: int, done: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = shown(name)
        self._size = size
        self._tenth = self._tenths(done)
        self._clock = clock
        self._said_at = clock()

    def _tenths(self, done: int) -> int:
        return done * 10 // self._size if self._size else 10

    def update(self, done: int) -> None:
        tenth = self._tenths(done)
        waited = self._clock() - self._said_at >= PLAIN_SECONDS
        if done < self._size and (tenth > self._tenth or waited):
            self._tenth = tenth
            self._said_at = self._clock()
            say(f"[client] Uploading {self._name}: {100 * done / self._size:.1f}%")

    def close(self) -> None:
        pass


def progress_of(name: str, size: int, done: int) -> Progress:
    """The kind that fits standard error; `done` bytes are there from an earlier attempt."""
    return (Bar if is_terminal(sys.stderr) else Lines)(name, size, done)
