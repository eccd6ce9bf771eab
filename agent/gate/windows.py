"""Opening on Windows: a handle of what has this very name, and where that really is."""

import sys

assert sys.platform == "win32"  # noqa: S101  # for mypy: nothing here is for other systems

import ctypes  # noqa: E402
import msvcrt  # noqa: E402
import os  # noqa: E402
import stat  # noqa: E402
from ctypes import wintypes  # noqa: E402
from pathlib import Path  # noqa: E402

from .policy import Place  # noqa: E402
from .source import Check, must_be_regular, through_a_link  # noqa: E402

_kernel = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel.CreateFileW.restype = wintypes.HANDLE
_kernel.CreateFileW.argtypes = (
    wintypes.LPCWSTR, wintypes.DWORD, wintypes.DWORD, wintypes.LPVOID,
    wintypes.DWORD, wintypes.DWORD, wintypes.HANDLE,
)  # fmt: skip
_kernel.GetFinalPathNameByHandleW.argtypes = (
    wintypes.HANDLE, wintypes.LPWSTR, wintypes.DWORD, wintypes.DWORD,
)  # fmt: skip

GENERIC_READ = 0x80000000
SHARE_ALL = 0x7  # others may go on reading, writing and renaming it
OPEN_EXISTING = 3
OPEN_REPARSE_POINT = 0x00200000  # a link is opened itself, not what it leads to
INVALID = wintypes.HANDLE(-1).value


def open_itself(path: Path) -> int:
    """A descriptor of what has this very name. Raises OSError."""
    handle = _kernel.CreateFileW(
        str(path), GENERIC_READ, SHARE_ALL, None, OPEN_EXISTING, OPEN_REPARSE_POINT, None
    )
    if handle == INVALID:
        raise ctypes.WinError(ctypes.get_last_error())
    return msvcrt.open_osfhandle(handle, os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT)


def final_path(descriptor: int) -> Path:
    """Where a descriptor's file is, every link on the way resolved. Raises OSError."""
    room = ctypes.create_unicode_buffer(32768)
    handle = msvcrt.get_osfhandle(descriptor)
    if not _kernel.GetFinalPathNameByHandleW(handle, room, len(room), 0):
        raise ctypes.WinError(ctypes.get_last_error())
    return Path(room.value.removeprefix("\\\\?\\"))


def is_reparse_point(status: os.stat_result) -> bool:
    return bool(status.st_file_attributes & stat.FILE_ATTRIBUTE_REPARSE_POINT)


def open_place(place: Place, check: Check) -> int:
    """A descriptor to read from, of a regular file that has passed `check`."""
    descriptor = open_itself(place.path)
    try:
        status = os.fstat(descriptor)
        must_be_regular(status)
        if is_reparse_point(status) or final_path(descriptor) != place.path:
            raise through_a_link()
        check(descriptor, status)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def look_at(place: Place) -> os.stat_result:
    """What is in this place now, by the same way."""
    descriptor = open_place(place, lambda descriptor, status: None)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def file_system_type(descriptor: int) -> int | None:
    """Windows shows nothing of the kernel as files."""
    return None
