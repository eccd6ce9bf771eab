"""The folder in which the agent keeps what is its own: journal, token. For its account alone."""

import contextlib
import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import platformdirs

VARIABLE = "SILENTMODE_STATE_DIR"


class StateFolderError(Exception):
    """The folder cannot be used; the message says why, and what to do."""

    exit_code = 2


class StateFolder:
    """A folder of mode 0700, with files of mode 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def chosen(cls, option: Path | None, environment: Mapping[str, str] = os.environ) -> Self:
        """What `--state` says, else SILENTMODE_STATE_DIR, else the usual place of this system."""
        if option is None and environment.get(VARIABLE):
            option = Path(environment[VARIABLE])
        return cls((option or platformdirs.user_state_path("silentmode-agent")).absolute())

    def create(self) -> None:
        """Make it, or see that it is ours alone. Raises StateFolderError.

        A folder that was there is not changed: somebody may have named /tmp.
        """
        try:
            if not self.path.is_dir():
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                _only_for_us(self.path)
            status = self.path.stat()
        except OSError as error:
            raise StateFolderError(
                f"The state folder {self.path} cannot be made ({error.strerror}). "
                f"Name another with --state or {VARIABLE}."
            ) from None
        if sys.platform == "win32":
            return
        if status.st_uid != os.geteuid():
            raise StateFolderError(f"The state folder {self.path} belongs to another account.")
        if mode := stat.S_IMODE(status.st_mode) & 0o077:
            raise StateFolderError(
                f"The state folder {self.path} is open to other accounts (mode …{mode:02o}). "
                f"`chmod 700 {self.path}`, or name another with --state or {VARIABLE}."
            )

    def read(self, name: str) -> bytes | None:
        """What `write_private` has written, or None. Raises OSError."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write_private(self, name: str, data: bytes) -> None:
        """Replace a file as a whole: after a crash there is the old one or the new. Raises OSError."""
        temporary = self.path / f".{name}.{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _only_for_us(temporary)  # before there is anything in it
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / name)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        self._sync()

    def _sync(self) -> None:
        if sys.platform == "win32":  # a folder has no descriptor there
            return
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _only_for_us(path: Path) -> None:
    """On Windows, where a mode says nothing: no inherited rights, all rights to this account."""
    if sys.platform == "win32":
        account = f"{os.environ.get('USERDOMAIN', '.')}\\{os.environ['USERNAME']}"
        rights = f"{account}:(OI)(CI)F" if path.is_dir() else f"{account}:F"
        icacls = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "icacls.exe")
        done = subprocess.run(  # noqa: S603
            [str(icacls), str(path), "/inheritance:r", "/grant:r", rights],
            capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise OSError(
                done.returncode, f"icacls: {done.stderr.decode(errors='replace').strip()}"
            )
