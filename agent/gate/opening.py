"""Opening a file of a `Place` so that nothing outside of it can be had instead.

No link is followed below a root, nor on the way to it once its own links are resolved: with openat2 where
the kernel has it, else name by name under descriptors of the folders. What is no regular file is never
opened, only looked at (`O_PATH`), and what was looked at is what is then read.

Everything here blocks. Raises SourceError and OSError; `gate` turns the latter into the former.
"""

import sys

assert sys.platform != "win32"  # noqa: S101  # for mypy: `windows` does this there

import errno  # noqa: E402
import os  # noqa: E402
import stat  # noqa: E402
from pathlib import Path  # noqa: E402

from . import kernel  # noqa: E402
from .kernel import O_PATH, NoOpenat2, openat2  # noqa: E402
from .policy import Place  # noqa: E402
from .source import Check, SourceError, must_be_regular, through_a_link  # noqa: E402


def open_place(place: Place, check: Check) -> int:
    """A descriptor to read from, of a regular file that has passed `check`."""
    if not O_PATH:
        return _open_without_o_path(place, check)
    seen = _reach(place, O_PATH)
    try:
        status = os.fstat(seen)
        must_be_regular(status)
        check(seen, status)
        return _read_from(seen, status, place)
    finally:
        os.close(seen)


def look_at(place: Place) -> os.stat_result:
    """What is in this place now, by the same way."""
    descriptor = (
        _reach(place, O_PATH) if O_PATH else open_place(place, lambda descriptor, status: None)
    )
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def final_path(descriptor: int) -> Path | None:
    """Where the system says that an open file is, or None where it does not say."""
    try:
        if sys.platform == "darwin":
            import fcntl  # noqa: PLC0415

            found = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
            return Path(os.fsdecode(found.rstrip(b"\0")))
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:  # no /proc here
        return None


def file_system_type(descriptor: int) -> int | None:
    """Linux' number for the kind of file system, or None elsewhere. Raises OSError."""
    return kernel.file_system_type(descriptor) if sys.platform == "linux" else None


def _reach(place: Place, flags: int) -> int:
    """A descriptor of what is in this place."""
    if not place.parts:
        return _from_top(place.base, flags)
    root = _from_top(place.base, O_PATH)
    try:
        return _beneath(root, place.parts, flags)
    finally:
        os.close(root)


def _from_top(path: Path, flags: int) -> int:
    """By a path whose links are resolved, so that whatever link is met has come since."""
    top = os.open(path.anchor, O_PATH | os.O_CLOEXEC)
    parts = path.parts[1:]
    if not parts:
        return top
    try:
        return _beneath(top, parts, flags)
    finally:
        os.close(top)


def _beneath(folder: int, parts: tuple[str, ...], flags: int) -> int:
    try:
        return openat2(folder, "/".join(parts), flags)
    except NoOpenat2:
        return _step_by_step(folder, parts, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise through_a_link() from None
        if error.errno in (errno.EXDEV, errno.EAGAIN):
            raise SourceError("source_changed", "It was moved while it was opened.") from None
        raise


def _step_by_step(folder: int, parts: tuple[str, ...], flags: int) -> int:
    """As openat2 does it, for systems without: each name under the descriptor of its folder."""
    *parents, name = parts
    held = os.dup(folder)
    try:
        for parent in parents:
            inner = _step(parent, held, O_PATH)
            os.close(held)
            held = inner
        return _step(name, held, flags)
    finally:
        os.close(held)


def _step(name: str, folder: int, flags: int) -> int:
    descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    if stat.S_ISLNK(os.fstat(descriptor).st_mode):  # with O_PATH the link itself is what is opened
        os.close(descriptor)
        raise through_a_link()
    return descriptor


def _read_from(seen: int, status: os.stat_result, place: Place) -> int:
    """Open what was looked at, and nothing else."""
    # O_NONBLOCK: a lease that another program has on the file must not hold us.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{seen}", flags)
    except FileNotFoundError:  # no /proc here: reach it once more, and compare
        return _the_same(_reach(place, flags), status)


def _the_same(descriptor: int, status: os.stat_result) -> int:
    now = os.fstat(descriptor)
    if os.path.samestat(status, now) and stat.S_ISREG(now.st_mode):
        return descriptor
    os.close(descriptor)
    raise SourceError("source_changed", "It was replaced while it was opened.")


def _open_without_o_path(place: Place, check: Check) -> int:
    """macOS: look, open without waiting, look again."""
    path = place.path
    folder = os.open(path.anchor, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for parent in path.parts[1:-1]:
            inner = _enter(parent, folder)
            os.close(folder)
            folder = inner
        before = os.stat(path.name or ".", dir_fd=folder, follow_symlinks=False)
        must_be_regular(before)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = _the_same(os.open(path.name, flags, dir_fd=folder), before)
    finally:
        os.close(folder)
    return _checked(descriptor, check)


def _enter(name: str, folder: int) -> int:
    if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise through_a_link()
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=folder)


def _checked(descriptor: int, check: Check) -> int:
    try:
        status = os.fstat(descriptor)
        must_be_regular(status)
        check(descriptor, status)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
