"""Files of the agent itself, which it never sends, by whatever path they are reached."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..state_folder import StateFolder
from .source import forbidden


class OwnFiles:
    """The state folder with all that is in it, and single files elsewhere: policy, token."""

    def __init__(self, folder: StateFolder, files: Sequence[Path] = ()) -> None:
        self._folder = folder.path
        self._files = tuple(files)

    def check_path(self, path: Path) -> None:
        """Before the disk is asked about the path. Raises SourceError."""
        folder = Path(os.path.realpath(self._folder))
        own = {Path(os.path.realpath(file)) for file in self._files}
        if path.is_relative_to(folder) or path in own:
            raise forbidden("built-in list: the agent's own state")

    def check_file(self, status: os.stat_result) -> None:
        """Once it is open: a hard link or a mount may have led to it. Raises SourceError, OSError."""
        for own in self._all():
            try:
                same = os.path.samestat(status, os.stat(own))  # noqa: PTH116
            except FileNotFoundError:
                continue
            if same:
                raise forbidden(f"built-in list: the agent's own state (it is {own})")

    def _all(self) -> Sequence[Path]:
        try:
            return (*self._files, *self._folder.iterdir())
        except FileNotFoundError:  # `check-policy` before the agent's first run
            return self._files
