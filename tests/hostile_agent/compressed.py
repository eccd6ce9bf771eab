"""Compressed chunks that are not what they say: bombs, lies about sizes, frames within frames."""

from collections.abc import Callable

from agent.wire.messages import CODEC_ZSTD, MAX_CHUNK, PROTOCOL, Chunk, Hello, Start, Welcome
from tests.hostile_agent.messages import ANYTHING, BROKEN, ended, pour_messages, sends
from tests.hostile_agent.misbehaviour import misbehaviour
from tests.hostile_agent.scene import MIB, Outcome, Scene
from tests.zstd_frames import (
    bomb,
    lying,
    skippable,
    with_dictionary,
    with_wide_window,
    without_size,
    zstd,
)

TEXT = b"a line of a till's journal\n" * 2000
AT = 4 * 4096
"""Where the chunk begins: after four that are as they should be."""


def packs(scene: Scene, payload: bytes, length: int = len(TEXT)) -> Outcome:
    """An agent that can send in zstd, and sends a chunk of this after some good ones."""
    return can_zstd(scene, lambda start: Chunk(start.transfer, AT, payload, CODEC_ZSTD, length))


def can_zstd(scene: Scene, evil: Callable[[Start], ANYTHING]) -> Outcome:
    client, token = scene.client()
    with scene.villain() as villain:
        villain.handshake(client, token)
        villain.say(Hello(PROTOCOL, "0", "test", "till-66", ("zstd", "raw")))
        villain.hear(Welcome)
        asked = scene.server.ask(client)
        start = villain.offer(10 * MIB)
        assert start.codec == CODEC_ZSTD
        villain.chunks(start, 4)
        pour_messages(villain, [evil(start)])
        outcome = ended(villain)
    outcome.transfer = scene.state(asked)
    # Nothing of it is written: not a byte beyond the good ones.
    assert all(part.stat().st_size <= AT for part in scene.server.partials if asked in part.name)
    return outcome


@misbehaviour("4002", said="start said raw", transfer=BROKEN)
def compresses_without_being_told_to(scene: Scene) -> Outcome:
    return sends(
        scene, lambda start: [Chunk(start.transfer, AT, zstd(TEXT), CODEC_ZSTD, len(TEXT))]
    )


@misbehaviour("4002", said="its frame says 1099511627776 bytes", transfer=BROKEN)
def sends_a_bomb_of_a_terabyte(scene: Scene) -> Outcome:
    return packs(scene, bomb(1 << 40), MAX_CHUNK)


@misbehaviour("4002", said="no zstd frame", transfer=BROKEN)
def sends_a_bomb_whose_size_is_in_its_header(scene: Scene) -> Outcome:
    return packs(scene, bomb(MAX_CHUNK), MAX_CHUNK)


@misbehaviour("4002", said="its frame says", transfer=BROKEN)
def packs_more_than_it_says(scene: Scene) -> Outcome:
    return packs(scene, zstd(TEXT), len(TEXT) - 4096)


@misbehaviour("4002", said="its frame says", transfer=BROKEN)
def packs_less_than_it_says(scene: Scene) -> Outcome:
    return packs(scene, zstd(TEXT), len(TEXT) + 1)


@misbehaviour("4002", said="no zstd frame", transfer=BROKEN)
def lies_about_the_size_in_the_frame_too_downwards(scene: Scene) -> Outcome:
    return packs(scene, lying(TEXT, len(TEXT) // 2), len(TEXT) // 2)


@misbehaviour("4002", said="no zstd frame", transfer=BROKEN)
def lies_about_the_size_in_the_frame_too_upwards(scene: Scene) -> Outcome:
    return packs(scene, lying(TEXT, MAX_CHUNK), MAX_CHUNK)


@misbehaviour("4002", said="no size", transfer=BROKEN)
def says_no_size_in_the_frame(scene: Scene) -> Outcome:
    return packs(scene, without_size(TEXT))


@misbehaviour("4002", said="unused data", transfer=BROKEN)
def leaves_bytes_after_the_frame(scene: Scene) -> Outcome:
    return packs(scene, zstd(TEXT) + b"and more")


@misbehaviour("4002", said="unused data", transfer=BROKEN)
def puts_a_second_frame_after_the_first(scene: Scene) -> Outcome:
    return packs(scene, zstd(TEXT) + zstd(TEXT))


@misbehaviour("4002", said="does not begin", transfer=BROKEN)
def hides_behind_a_skippable_frame(scene: Scene) -> Outcome:
    return packs(scene, skippable(b"skip me") + zstd(TEXT))


@misbehaviour("4002", said="too large a window", transfer=BROKEN)
def wants_a_window_of_64_megabytes(scene: Scene) -> Outcome:
    return packs(scene, with_wide_window(TEXT))


@misbehaviour("4002", said="dictionary", transfer=BROKEN)
def uses_a_dictionary_that_nobody_has(scene: Scene) -> Outcome:
    return packs(scene, with_dictionary(TEXT))


@misbehaviour("4002", said="no zstd frame", transfer=BROKEN)
def cuts_a_frame_short(scene: Scene) -> Outcome:
    return packs(scene, zstd(TEXT)[:-6])


@misbehaviour("4002", said="no zstd frame", transfer=BROKEN)
def calls_anything_a_frame(scene: Scene) -> Outcome:
    return packs(scene, b"hello, here I am")


@misbehaviour("4002", said="too short", transfer=BROKEN)
def packs_a_chunk_into_nothing(scene: Scene) -> Outcome:
    def nothing(start: Start) -> bytes:
        return Chunk.HEADER.pack(start.transfer.bytes, AT, 4096, 1, 0, 0)

    return can_zstd(scene, nothing)


@misbehaviour("4002", said="no shorter", transfer=BROKEN)
def packs_what_it_makes_no_shorter(scene: Scene) -> Outcome:
    def longer(start: Start) -> bytes:
        header = Chunk.HEADER.pack(start.transfer.bytes, AT, 4096, 1, 0, 0)
        return header + bytes(4096)

    return can_zstd(scene, longer)


@misbehaviour("4002", said="length must be", transfer=BROKEN)
def says_more_than_a_chunk_may_have(scene: Scene) -> Outcome:
    def longer(start: Start) -> bytes:
        header = Chunk.HEADER.pack(start.transfer.bytes, AT, 1 << 31, 1, 0, 0)
        return header + zstd(bytes(MAX_CHUNK))

    return can_zstd(scene, longer)
