"""Chunks as they came, unpacked: source bytes, and never more of them than each chunk said.

A zstd frame (RFC 8878) says itself how much it unpacks to, and the library believes it. So that is
compared with the chunk's header before anything is set aside for it: what a chunk costs in memory is
what its credit was given for. Blocks: call it from a thread.
"""

from collections.abc import Sequence

import zstandard

from agent.wire.messages import CODEC_RAW, MAX_CHUNK, Chunk

from .storage import Buffer

MAGIC = b"\x28\xb5\x2f\xfd"
"""Of a frame with data in it; a skippable one has another, and the library reads a size from it, too."""


class BadFrame(Exception):
    """A compressed chunk is not what the protocol says that it is: the sentence."""


def unpacked(chunks: Sequence[Chunk]) -> list[Buffer]:
    """The source bytes of each chunk. Raises BadFrame."""
    # One for each call: a decompressor may not be used by two threads at once.
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK)
    return [
        chunk.payload if chunk.codec == CODEC_RAW else _unpacked(chunk, decompressor)
        for chunk in chunks
    ]


def _unpacked(chunk: Chunk, decompressor: zstandard.ZstdDecompressor) -> bytes:
    try:
        _check_header(chunk)
        data = decompressor.decompress(chunk.payload, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadFrame(f"a chunk at {chunk.offset} is no zstd frame: {error}") from None
    if len(data) != chunk.length:
        raise BadFrame(f"a chunk at {chunk.offset} says {chunk.length} bytes and has {len(data)}")
    return data


def _check_header(chunk: Chunk) -> None:
    """Raises BadFrame, and ZstdError where there is no header."""
    frame = zstandard.get_frame_parameters(chunk.payload)
    if bytes(chunk.payload[: len(MAGIC)]) != MAGIC:
        raise BadFrame(f"a chunk at {chunk.offset} does not begin with a zstd frame")
    if frame.content_size != chunk.length:
        said = frame.content_size
        known = "no size" if said == zstandard.CONTENTSIZE_UNKNOWN else f"{said} bytes"
        raise BadFrame(
            f"a chunk at {chunk.offset} says {chunk.length} bytes; its frame says {known}"
        )
    if frame.window_size > MAX_CHUNK or frame.dict_id:
        raise BadFrame(f"a chunk at {chunk.offset} needs too large a window, or a dictionary")
