"""When the agent compresses: where the link is what is slow and the data gives way, and not otherwise."""

import os

import pytest
import zstandard

from agent.compression import (
    FIRST_PAUSE,
    HEADROOM,
    LONGEST_PAUSE,
    QUICK,
    SPEEDS,
    THOROUGH,
    Choice,
    Packer,
)
from agent.wire.messages import MAX_CHUNK

CHUNK = 512 * 1024
SLOW, FAST = 1e6, 1e9
"""Bytes a second."""

CSV = b"".join(b"2026-11-24,store-214,till-%d,%d,CARD\n" % (n % 4, n * 7) for n in range(20_000))


def level(choice: Choice, rate: float | None = SLOW, *, full: bool = True) -> int | None:
    return choice.level(rate, full=full)


def shows(choice: Choice, ratio: float, *, speed: float = 200e6, level: int = QUICK) -> bool:
    """A chunk that is compressed so well, and so fast."""
    return choice.tried(level, CHUNK, int(CHUNK / ratio), CHUNK / speed)


def test_nothing_is_compressed_before_the_link_is_known() -> None:
    assert level(Choice(), None) is None


def test_a_slow_link_is_spared() -> None:
    assert level(Choice(), SLOW) == QUICK


def test_a_link_that_is_not_clearly_slower_than_the_compressor_gets_all_raw() -> None:
    assert level(Choice(), FAST) is None
    assert level(Choice(), SPEEDS[QUICK] / HEADROOM * 1.01) is None
    assert level(Choice(), SPEEDS[QUICK] / HEADROOM * 0.99) == QUICK


def test_the_compressor_is_measured_and_not_guessed() -> None:
    """A till with a slow processor stops where a faster one goes on."""
    choice = Choice()
    for _ in range(50):
        shows(choice, 5.0, speed=4e6)
    assert level(choice, 1e6) is None
    assert level(choice, 0.1e6) is not None


def test_data_that_does_not_give_way_is_sent_raw_for_a_while_and_then_tried_again() -> None:
    choice = Choice()
    assert not shows(choice, 1.05)
    assert level(choice) is None
    choice.went_raw(FIRST_PAUSE)
    assert level(choice) == QUICK


def test_each_try_in_vain_makes_the_pause_longer_up_to_a_longest() -> None:
    choice = Choice()
    pauses = []
    for _ in range(8):
        assert not shows(choice, 1.0)
        pause = 0
        while level(choice) is None:
            choice.went_raw(FIRST_PAUSE)
            pause += FIRST_PAUSE
        pauses.append(pause)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (FIRST_PAUSE, LONGEST_PAUSE)


def test_data_that_gives_way_again_makes_the_pause_short_again() -> None:
    choice = Choice()
    for ratio in (1.0, 1.0, 1.0, 3.0):
        choice.went_raw(LONGEST_PAUSE)
        shows(choice, ratio)
    assert not shows(choice, 1.0)
    choice.went_raw(FIRST_PAUSE)
    assert level(choice) == QUICK


def test_a_very_slow_link_is_worth_a_more_thorough_compressor() -> None:
    choice = Choice()
    shows(choice, 5.0)
    assert level(choice, 0.1e6) == THOROUGH
    assert level(choice, SLOW * 5) == QUICK, "it would take too much of a core"


def test_a_rate_that_is_not_known_to_be_the_links_is_not_worth_it() -> None:
    choice = Choice()
    shows(choice, 5.0)
    assert level(choice, 0.1e6, full=False) == QUICK


def test_the_ratio_follows_the_data() -> None:
    choice = Choice()
    shows(choice, 8.0)
    assert choice.ratio == pytest.approx(8.0, rel=0.01)
    for _ in range(50):
        shows(choice, 2.0)
    assert choice.ratio == pytest.approx(2.0, rel=0.01)
    choice.went_raw(CHUNK)
    assert choice.ratio == 1.0


@pytest.mark.parametrize("wanted", [QUICK, THOROUGH])
def test_a_packed_chunk_is_one_frame_with_its_size_and_a_checksum(wanted: int) -> None:
    data = CSV[:MAX_CHUNK]
    packed = Packer().pack(memoryview(data), wanted)
    assert packed is not None
    assert len(packed) < len(data) / 3
    frame = zstandard.get_frame_parameters(packed)
    assert frame.content_size == len(data)
    assert frame.window_size <= MAX_CHUNK
    assert frame.has_checksum
    out = zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
    assert out == data


def test_random_bytes_are_not_packed() -> None:
    packer = Packer()
    assert packer.pack(memoryview(os.urandom(CHUNK)), QUICK) is None
    assert packer.choice.level(SLOW, full=True) is None
