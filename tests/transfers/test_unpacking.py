"""Compressed chunks on the server: unpacked to exactly what they said, or refused before they cost memory."""

import tracemalloc
import uuid

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent.wire.messages import CODEC_ZSTD, MAX_CHUNK, Chunk
from tests.zstd_frames import (
    bomb,
    lying,
    skippable,
    with_dictionary,
    with_wide_window,
    without_size,
    zstd,
)
from transfers.unpacking import BadFrame, unpacked

TEXT = b"a line of a till's journal\n" * 200


def chunk(payload: bytes, length: int) -> Chunk:
    return Chunk(uuid.UUID(int=1), 0, memoryview(payload), CODEC_ZSTD, length)


def raw(payload: bytes) -> Chunk:
    return Chunk(uuid.UUID(int=1), 0, payload)


def test_raw_and_compressed_chunks_come_out_in_their_order() -> None:
    batch = [raw(b"first"), chunk(zstd(TEXT), len(TEXT)), raw(b"last")]
    assert b"".join(unpacked(batch)) == b"first" + TEXT + b"last"


@given(st.binary(min_size=1, max_size=50), st.integers(50, 5000))
def test_what_was_compressed_comes_out_again(piece: bytes, times: int) -> None:
    data = piece * times
    assert b"".join(unpacked([chunk(zstd(data), len(data))])) == data


def test_a_chunk_of_the_greatest_length_comes_out_whole() -> None:
    assert unpacked([chunk(zstd(bytes(MAX_CHUNK)), MAX_CHUNK)]) == [bytes(MAX_CHUNK)]


BAD = {
    "its frame has more than it says": (zstd(TEXT), len(TEXT) - 1),
    "its frame has less than it says": (zstd(TEXT), len(TEXT) + 1),
    "frame and header lie alike, too low": (lying(TEXT, 4000), 4000),
    "frame and header lie alike, too high": (lying(TEXT, 6000), 6000),
    "the frame says no size": (without_size(TEXT), len(TEXT)),
    "bytes after the frame": (zstd(TEXT) + b"x", len(TEXT)),
    "a second frame": (zstd(TEXT) + zstd(TEXT), len(TEXT)),
    "a skippable frame after it": (zstd(TEXT) + skippable(b"x"), len(TEXT)),
    "a skippable frame before it": (skippable(b"x") + zstd(TEXT), len(TEXT)),
    "a skippable frame alone": (skippable(bytes(100))[:50], 100),
    "too large a window": (with_wide_window(TEXT), len(TEXT)),
    "a dictionary": (with_dictionary(TEXT), len(TEXT)),
    "cut short": (zstd(TEXT)[:-8], len(TEXT)),
    "cut in its header": (zstd(TEXT)[:5], len(TEXT)),
    "no frame at all": (b"hello, here I am", len(TEXT)),
    "a bomb": (bomb(1 << 30), MAX_CHUNK),
    "a flipped bit": (zstd(TEXT)[:20] + bytes([zstd(TEXT)[20] ^ 1]) + zstd(TEXT)[21:], len(TEXT)),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_is_no_such_frame_is_refused(bad: tuple[bytes, int]) -> None:
    with pytest.raises(BadFrame):
        unpacked([chunk(*bad)])


@pytest.mark.parametrize("says", [MAX_CHUNK, 1 << 30, 1 << 40, 2**63])
def test_a_bomb_costs_no_memory(says: int) -> None:
    """The library trusts a frame's own size; what is in the header of the chunk is all there may be."""
    payload = bomb(says)
    tracemalloc.start()
    try:
        with pytest.raises(BadFrame):
            unpacked([chunk(payload, MAX_CHUNK - 1)])
        assert tracemalloc.get_traced_memory()[1] < MAX_CHUNK // 2
    finally:
        tracemalloc.stop()


@given(st.binary(min_size=1, max_size=200), st.integers(201, MAX_CHUNK))
def test_no_payload_at_all_raises_anything_else(payload: bytes, length: int) -> None:
    for data in (payload, zstandard.FRAME_HEADER + payload, zstd(TEXT)[:8] + payload):
        try:
            (out,) = unpacked([chunk(data, length)])
        except BadFrame:
            continue
        assert len(out) == length
