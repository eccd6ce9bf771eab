"""Swaps two names as fast as it can, until it is ended: `python -m tests.hostile_server.racer ONE TWO COUNT`.

With renameat2(RENAME_EXCHANGE): at each moment there is one or the other, never neither.
"""

import ctypes
import os
import sys
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2


def exchange(one: bytes, two: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, one, AT_FDCWD, two, RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    one, two = map(os.fsencode, sys.argv[1:3])
    count = Path(sys.argv[3])
    fresh = count.with_suffix(".new")
    swaps = 0
    while True:
        exchange(one, two)
        swaps += 1
        if swaps % 1000 == 0:
            fresh.write_text(str(swaps))
            fresh.replace(count)  # whoever reads it never finds it empty
