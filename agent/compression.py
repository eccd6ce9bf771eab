"""Whether a chunk goes compressed, and how hard: where the link is what is slow, and the data gives way.

`Choice` decides and only counts; `Packer` compresses, in the thread that reads.
"""

import time
from collections.abc import Callable

from .wire.messages import CODEC_RAW, CODEC_ZSTD

try:
    import zstandard
except ImportError:  # no wheel for this machine: its files go as they are
    CODECS: tuple[str, ...] = (CODEC_RAW,)
else:
    CODECS = (CODEC_ZSTD, CODEC_RAW)

QUICK = 3
THOROUGH = 9
"""Levels of zstd. On a till's CSV export, in chunks of 512 KiB: 5.6 times smaller at 270 MB/s, and 7.3 times
at 54 MB/s of one core (measured; 6 is between the two, 12 no smaller and slower)."""

SPEEDS = {QUICK: 200e6, THOROUGH: 30e6}
"""Source bytes per CPU second, before they are measured."""

HEADROOM = 8.0
"""The compressor must be faster than the link by so much: it is to cost a fraction of a core, and on a fast
network nothing at all. The thorough one must be so much faster than what the link carries compressed."""

WORTH = 0.9
"""A chunk that stays longer than this share of itself goes raw."""

FIRST_PAUSE = 1024**2
LONGEST_PAUSE = 16 * 1024**2
"""Source bytes that go raw after data that does not give way, until some is tried again: an archive may
have a log behind its pictures. Each time in vain doubles it."""

SMOOTHING = 0.25
"""Weight of what the last chunk has shown."""


class Choice:
    """What the chunks of one transfer have shown so far."""

    def __init__(self) -> None:
        self.ratio = 1.0
        """Source bytes for each byte on the wire, of late."""
        self._speeds = dict(SPEEDS)
        self._pause = FIRST_PAUSE
        self._raw_to_come = 0

    def level(self, rate: float | None, *, full: bool) -> int | None:
        """For the next chunk, on a link that delivers `rate` bytes a second; None: raw.

        `full`: more was to be sent than it carries, and so this rate is the link's.
        """
        if rate is None or self._raw_to_come > 0 or rate * HEADROOM > self._speeds[QUICK]:
            return None
        slow = rate * self.ratio * HEADROOM <= self._speeds[THOROUGH]
        return THOROUGH if full and slow and self.ratio > 1.0 else QUICK

    def went_raw(self, length: int) -> None:
        """So many source bytes went without being tried."""
        self.ratio = 1.0
        self._raw_to_come -= length

    def tried(self, level: int, length: int, packed: int, seconds: float) -> bool:
        """A chunk was compressed to `packed` bytes in so many CPU seconds; whether to send it so."""
        self._speeds[level] += SMOOTHING * (length / max(seconds, 1e-6) - self._speeds[level])
        if packed > WORTH * length:
            self._raw_to_come, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
            self.ratio = 1.0
            return False
        self._pause = FIRST_PAUSE
        smooth = SMOOTHING if self.ratio > 1.0 else 1.0
        self.ratio += smooth * (length / packed - self.ratio)
        return True


def cpu_clock() -> Callable[[], float]:
    """Seconds of this thread's work; of anything's where the system counts them too roughly (Windows)."""
    rough = time.get_clock_info("thread_time").resolution > 0.001
    return time.perf_counter if rough else time.thread_time


class Packer:
    """Compresses the chunks of one transfer. Not for two threads at once."""

    def __init__(self) -> None:
        self.choice = Choice()
        self._clock = cpu_clock()
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}

    def pack(self, data: memoryview, level: int) -> bytes | None:
        """The data as one zstd frame; None: it does not pay."""
        if level not in self._compressors:
            # With a checksum, so that a bit that flips on the way costs a batch, and not the whole file.
            self._compressors[level] = zstandard.ZstdCompressor(level=level, write_checksum=True)
        since = self._clock()
        packed = self._compressors[level].compress(data)
        pays = self.choice.tried(level, len(data), len(packed), self._clock() - since)
        return packed if pays else None
