"""System calls of Linux that Python has no name for."""

import sys

assert sys.platform != "win32"  # noqa: S101  # for mypy: nothing here is for Windows

import ctypes  # noqa: E402
import errno  # noqa: E402
import os  # noqa: E402

O_PATH = getattr(os, "O_PATH", 0)
"""A descriptor that only names a file: nothing is opened, so no FIFO waits and no tape rewinds."""

SYS_OPENAT2 = 437
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
"""openat2(2), since Linux 5.6; one number on all architectures but Alpha."""

TRIES = 16
"""EAGAIN, EXDEV: something was renamed on the way, and the kernel could not tell whether we got out, or
found the file outside in the end; without `..` and links nothing else leads there."""


class NoOpenat2(Exception):
    """The kernel has no openat2, or a filter of system calls hides it."""


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


LIBC = ctypes.CDLL(None, use_errno=True)


def openat2(directory: int, path: str, flags: int) -> int:
    """Open below a directory, following no link at all. Raises OSError, NoOpenat2."""
    how = _OpenHow(
        flags | os.O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    )
    number = 0
    for _ in range(TRIES):
        descriptor = LIBC.syscall(
            ctypes.c_long(SYS_OPENAT2), ctypes.c_int(directory), ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)),
        )  # fmt: skip
        if descriptor >= 0:
            return int(descriptor)
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EXDEV, errno.EINTR):
            break
    if number in (errno.ENOSYS, errno.EPERM):
        raise NoOpenat2
    raise OSError(number, os.strerror(number), path)


def file_system_type(descriptor: int) -> int:
    """`f_type` of what a descriptor is on (statfs(2)). Raises OSError."""
    room = ctypes.create_string_buffer(512)  # struct statfs has 120 bytes at most
    if LIBC.fstatfs(ctypes.c_int(descriptor), room):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return ctypes.c_long.from_buffer(room).value & 0xFFFFFFFF
