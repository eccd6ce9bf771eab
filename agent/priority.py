"""Stepping back: whoever else wants the CPU or the disk of this machine goes first.

What the system refuses is no reason not to serve: it is told, and the agent runs on.
"""

import contextlib
import sys

NICE = 10
"""Of 19: gets about a tenth of what a normal program gets of a CPU that both want (sched(7))."""


def step_back() -> str:
    """Lower the priority of this process; what is in force now, in words.

    Call it before there are threads: on Linux each has its own, and a new one has its parent's.
    """
    return ", ".join(filter(None, (_step_back_on_cpu(), _step_back_on_disk()))) or "normal priority"


if sys.platform == "win32":
    import ctypes

    BELOW_NORMAL_PRIORITY_CLASS = 0x4000

    def _step_back_on_cpu() -> str:
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        kernel.SetPriorityClass.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        done = kernel.SetPriorityClass(kernel.GetCurrentProcess(), BELOW_NORMAL_PRIORITY_CLASS)
        return "CPU below normal" if done else ""

else:
    import os

    def _step_back_on_cpu() -> str:
        with contextlib.suppress(OSError):  # what is in force is what is asked for next
            lowest = max(os.getpriority(os.PRIO_PROCESS, 0), NICE)
            os.setpriority(os.PRIO_PROCESS, 0, lowest)
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        return f"CPU nice {nice}" if nice else ""


if sys.platform == "linux":
    import ctypes
    import platform

    # glibc has no name for ioprio_set(2), and psutil would be one more compiled package at every store
    # for this one call.
    _IN_64_BITS = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
    _IN_32_BITS = {"i386": 289, "i686": 289, "armv6l": 314, "armv7l": 314}

    IOPRIO_WHO_PROCESS = 1
    IOPRIO_CLASS_IDLE = 3
    IOPRIO_BEST_EFFORT_7 = 2 << 13 | 7
    """Behind all normal programs. Not the idle class: on a disk that is never idle that is never."""

    def _step_back_on_disk() -> str:
        # A 32-bit Python on a 64-bit kernel has the calls of neither list: it is left alone.
        numbers = _IN_64_BITS if sys.maxsize > 2**32 else _IN_32_BITS
        number = numbers.get(platform.machine())
        if number is None:
            return ""
        if _call(number + 1, IOPRIO_WHO_PROCESS, 0) >> 13 == IOPRIO_CLASS_IDLE:  # ioprio_get(2)
            return "disk idle"  # whoever started the agent wants it so
        done = _call(number, IOPRIO_WHO_PROCESS, 0, IOPRIO_BEST_EFFORT_7) == 0
        return "disk best-effort 7" if done else ""

    def _call(number: int, *arguments: int) -> int:
        """Minus 1 when it is refused."""
        call = ctypes.CDLL(None).syscall
        return int(call(ctypes.c_long(number), *map(ctypes.c_int, arguments)))

else:

    def _step_back_on_disk() -> str:
        return ""
