"""zstd frames (RFC 8878) as they should be, and as they should not."""

import struct

import zstandard

MAGIC = zstandard.FRAME_HEADER
SINGLE_SEGMENT, SIZE_OF_8_BYTES = 1 << 5, 3 << 6


def zstd(data: bytes) -> bytes:
    """As it should be."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def without_size(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


def lying(data: bytes, size: int) -> bytes:
    """The blocks are right; the header says another size."""
    frame = zstandard.ZstdCompressor(write_checksum=False).compress(data)
    length = zstandard.frame_header_size(frame)
    descriptor = bytes([SINGLE_SEGMENT | SIZE_OF_8_BYTES])
    return MAGIC + descriptor + struct.pack("<Q", size) + frame[length:]


def bomb(size: int) -> bytes:
    """A few bytes that say they are so many: one block that repeats a zero, and the library's trust."""
    block = struct.pack("<I", 1 | 1 << 1 | (128 * 1024) << 3)[:3] + b"\0"  # last, RLE, 128 KiB
    return MAGIC + bytes([SINGLE_SEGMENT | SIZE_OF_8_BYTES]) + struct.pack("<Q", size) + block


def skippable(data: bytes) -> bytes:
    return struct.pack("<II", 0x184D2A50, len(data)) + data


def with_wide_window(data: bytes, log: int = 26) -> bytes:
    """Its header asks for a window of 64 MiB, for a few bytes."""
    frame = zstandard.ZstdCompressor(write_checksum=False).compress(data)
    blocks = frame[zstandard.frame_header_size(frame) :]
    window = bytes([(log - 10) << 3])
    return MAGIC + bytes([SIZE_OF_8_BYTES]) + window + struct.pack("<Q", len(data)) + blocks


def with_dictionary(data: bytes) -> bytes:
    dictionary = zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    frame = zstandard.ZstdCompressor(dict_data=dictionary, write_checksum=False).compress(data)
    blocks = frame[zstandard.frame_header_size(frame) :]
    descriptor = bytes([SINGLE_SEGMENT | SIZE_OF_8_BYTES | 1])  # an id of one byte
    return MAGIC + descriptor + b"\x07" + struct.pack("<Q", len(data)) + blocks
