"""How far each arriving file is, on the server's standard error: a bar on a terminal.

Elsewhere plain lines stand in for it, one for every tenth.
"""

import logging
import sys
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from agent.wire.display import is_terminal, shown

log = logging.getLogger(__name__)


class Progress:
    """The progress of one arriving file; a context manager."""

    def __init__(self, name: str, client: str, size: int, done: int = 0) -> None:
        self._label = f"Receiving {shown(name)}"
        self._size = size
        self._done = done
        self._tenth = self._tenths()
        self._bar: tqdm[Any] | None = None
        if is_terminal(sys.stderr):
            self._bar = tqdm(
                total=size, initial=done, desc=f"[server] {self._label} from {client}",
                unit="B", unit_scale=True, dynamic_ncols=True, leave=False,
            )  # fmt: skip

    def _tenths(self) -> int:
        return self._done * 10 // self._size if self._size else 10

    def update(self, done: int) -> None:
        """`done` bytes of the file are written."""
        if self._bar is not None:
            self._bar.update(done - self._done)
        self._done = done
        if self._tenths() > self._tenth:
            self._tenth = self._tenths()
            if self._bar is None and self._tenth < 10:
                log.info("%s: %.1f%%", self._label, 100 * done / self._size)

    def finish(self) -> None:
        """All bytes are there: the last line says so, on a terminal too."""
        self.close()
        log.info("%s: 100.0%%", self._label)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
