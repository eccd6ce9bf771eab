"""Reading a file so that what the machine keeps in memory stays as it was.

A till works from the page cache, and a file of gigabytes that is read once would push out what it needs.
What others had in memory before is read from there and stays; what is read for us alone goes again.

Linux can do that by itself since 6.14 (`RWF_DONTCACHE`, on ext4, XFS and Btrfs). On an older one a piece
that was not in memory is dropped again after it was read. Elsewhere (macOS, Windows, and file systems
that have neither) a file is just read.
"""

import errno
import mmap
import os
import sys

PIECE = 128 * 1024
"""What is dropped or left as one, on an older Linux. Short: all of it is looked at before the disk has
brought any of it, or what we asked for would look like what others had."""

RWF_DONTCACHE = 0x80
"""linux/fs.h; Python has no name for it."""


Block = bytes | bytearray

NO_SUCH_WAY = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""What a kernel or a file system says of a flag that it does not know."""


def read_at(descriptor: int, offset: int, length: int) -> Block:
    """So many bytes, or fewer at the end of the file. Raises OSError."""
    if sys.platform == "win32":
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)
    if sys.platform == "linux":
        for way in (_uncached, _drop_behind):
            try:
                return way(descriptor, offset, length)
            except NotImplementedError:  # a libc without preadv2
                break
            except OSError as error:
                if error.errno not in NO_SUCH_WAY:
                    raise
    return os.pread(descriptor, length, offset)


if sys.platform == "linux":

    def _uncached(descriptor: int, offset: int, length: int) -> bytearray:
        """By one system call. Raises OSError, NotImplementedError."""
        block = bytearray(length)
        del block[os.preadv(descriptor, [block], offset, RWF_DONTCACHE) :]
        return block

    def _drop_behind(descriptor: int, offset: int, length: int) -> bytearray:
        """Piece by piece. Raises OSError, NotImplementedError."""
        # Or what the kernel reads ahead for us would be in memory before we look.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        block = bytearray(length)
        view = memoryview(block)
        done = 0
        while done < length:
            count = _piece(descriptor, offset + done, view[done : done + PIECE])
            if not count:
                break
            done += count
        view.release()
        del block[done:]
        return block

    def _piece(descriptor: int, offset: int, piece: memoryview) -> int:
        """Fill a piece; how many bytes of it there are."""
        count = _from_memory(descriptor, offset, piece)
        if count:
            return count
        ours = not any(
            _from_memory(descriptor, page, piece[:1])
            for page in range(offset + mmap.PAGESIZE, offset + len(piece), mmap.PAGESIZE)
        )
        count = os.preadv(descriptor, [piece], offset)
        if ours:
            os.posix_fadvise(descriptor, offset, count, os.POSIX_FADV_DONTNEED)
        return count

    def _from_memory(descriptor: int, offset: int, room: memoryview) -> int:
        """How many bytes come without the disk being asked."""
        try:
            return os.preadv(descriptor, [room], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
