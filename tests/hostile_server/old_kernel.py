"""Runs a program without openat2: `python -m tests.hostile_server.old_kernel ENOSYS COMMAND…`.

A seccomp filter answers the call with ENOSYS, as Linux before 5.6 does, or with EPERM, as older container
engines do (seccomp(2)).
"""

import ctypes
import errno
import os
import struct
import sys

from agent.gate.kernel import SYS_OPENAT2

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
LOAD, IF_EQUAL, ANSWER = 0x20, 0x15, 0x06
ALLOW, ERROR = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid_openat2(answer: int) -> None:
    steps = [
        (LOAD, 0, 0, 0),  # the number of the system call
        (IF_EQUAL, 0, 1, SYS_OPENAT2),
        (ANSWER, 0, 0, ERROR | answer),
        (ANSWER, 0, 0, ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) == 0
    program = Program(len(steps), code)
    assert libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(FILTER), ctypes.byref(program)) == 0


if __name__ == "__main__":
    forbid_openat2(getattr(errno, sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
