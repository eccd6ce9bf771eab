"""Frames that are wrong, or too many, whatever they carry."""

import contextlib
import time
import uuid
from collections.abc import Iterable

from agent.wire.codec import encode
from agent.wire.messages import Chunk, Heartbeat, Request
from tests.hostile_agent.messages import ended
from tests.hostile_agent.misbehaviour import misbehaviour
from tests.hostile_agent.scene import MIB, Outcome, Scene
from tests.hostile_agent.villain import BINARY, CONTINUATION, PING, PONG, TEXT, Gone, Villain, frame

HEARTBEAT = str(encode(Heartbeat())).encode()


def throws(scene: Scene, *frames: bytes) -> Outcome:
    """An agent that is welcome, and sends these bytes."""
    with scene.villain() as villain:
        villain.greet(*scene.client())
        pour(villain, frames)
        return ended(villain)


def pour(villain: Villain, pieces: Iterable[bytes], seconds: float = 20.0) -> float:
    """Send, until the server closes or takes no more for a second; how many MiB."""
    end, sent = time.monotonic() + seconds, 0
    with contextlib.suppress(Gone):
        for piece in pieces:
            villain.send(piece)
            sent += len(piece)
            if time.monotonic() > end:
                break
    return sent / MIB


@misbehaviour("1002")
def does_not_mask_its_frames(scene: Scene) -> Outcome:
    return throws(scene, frame(TEXT, HEARTBEAT, masked=False))


@misbehaviour("1002")
def sets_reserved_bits(scene: Scene) -> Outcome:
    return throws(scene, frame(TEXT, HEARTBEAT, reserved=4))


@misbehaviour("1002")
def uses_a_reserved_opcode(scene: Scene) -> Outcome:
    return throws(scene, frame(5, HEARTBEAT))


@misbehaviour("1002")
def sends_a_long_control_frame(scene: Scene) -> Outcome:
    return throws(scene, frame(PING, bytes(126)))


@misbehaviour("1002")
def sends_a_fragmented_message(scene: Scene) -> Outcome:
    return throws(scene, frame(TEXT, HEARTBEAT[:5], fin=False), frame(CONTINUATION, HEARTBEAT[5:]))


@misbehaviour("1002", "1006")
def sends_empty_fragments_without_end(scene: Scene) -> Outcome:
    first = frame(BINARY, b"", fin=False)
    return throws(scene, first, *[frame(CONTINUATION, b"", fin=False) * 10_000] * 200)


@misbehaviour("1002", "1006")
def sends_fragments_of_one_byte_without_end(scene: Scene) -> Outcome:
    first = frame(BINARY, b"x", fin=False)
    return throws(scene, first, *[frame(CONTINUATION, b"x", fin=False) * 10_000] * 200)


@misbehaviour("1002")
def continues_what_it_has_not_begun(scene: Scene) -> Outcome:
    return throws(scene, frame(CONTINUATION, b"x"))


@misbehaviour("1009")
def announces_a_frame_of_exabytes(scene: Scene) -> Outcome:
    return throws(scene, frame(BINARY, b"x" * 1000, length=2**62))


@misbehaviour("1009", "1006")
def sends_a_message_of_two_megabytes(scene: Scene) -> Outcome:
    return throws(scene, frame(BINARY, bytes(2 * MIB)))


@misbehaviour("1007")
def sends_a_text_that_is_not_utf_8(scene: Scene) -> Outcome:
    return throws(scene, frame(TEXT, b'{"type":"\xff\xfe"}'))


@misbehaviour("4007", said="JSON")
def sends_an_empty_text(scene: Scene) -> Outcome:
    return throws(scene, frame(TEXT))


@misbehaviour("4002", said="too short")
def sends_an_empty_chunk(scene: Scene) -> Outcome:
    return throws(scene, frame(BINARY))


@misbehaviour("4002", "1006")
def floods_with_frames_of_one_byte(scene: Scene) -> Outcome:
    return throws(scene, *[frame(BINARY, b"x") * 10_000] * 200)


@misbehaviour("1008", "1006")
def floods_with_pings(scene: Scene) -> Outcome:
    return throws(scene, *[frame(PING, bytes(125)) * 1000] * 100)


@misbehaviour("1008", "1006")
def floods_with_pongs_that_nobody_asked_for(scene: Scene) -> Outcome:
    return throws(scene, *[frame(PONG, bytes(125)) * 1000] * 100)


@misbehaviour("4008", "1006")
def floods_with_what_is_answered_and_reads_no_answer(scene: Scene) -> Outcome:
    """4 million heartbeats would be answered by 88 MB."""
    with scene.villain() as villain:
        villain.greet(*scene.client())
        pour(villain, [frame(TEXT, HEARTBEAT) * 10_000] * 400)
        return ended(villain)


@misbehaviour("1006")
def reads_no_acknowledgement(scene: Scene) -> Outcome:
    """It uses its credit up, chunk by shortest chunk, and leaves: what it brought is kept."""
    client, token = scene.client()
    with scene.villain() as villain:
        villain.greet(client, token)
        asked = scene.server.ask(client)
        start = villain.offer(1 << 28)
        villain.chunks(start, MIB // 4096)
        transfer = scene.server.wait_status(asked, "receiving")
        assert transfer["size"] == 1 << 28
    scene.server.wait_status(asked, "interrupted")
    return Outcome("1006", "it left", scene.state(asked))


@misbehaviour("4008", said="nothing heard", slow=True)
def sends_half_a_frame_byte_by_byte(scene: Scene) -> Outcome:
    with scene.villain() as villain:
        villain.greet(*scene.client())
        pour(villain, slowly(frame(BINARY, bytes(60)), every=1.0), seconds=120.0)
        return ended(villain)


def slowly(data: bytes, every: float) -> Iterable[bytes]:
    """The data byte by byte, and for ever the last byte of it."""
    for at in range(1000):
        time.sleep(every)
        yield data[at : at + 1] or data[-1:]


@misbehaviour("4002", "1006")
def is_asked_and_answers_with_chunks_of_nobodys(scene: Scene) -> Outcome:
    client, token = scene.client()
    with scene.villain() as villain:
        villain.greet(client, token)
        scene.server.ask(client)
        villain.hear(Request)
        chunk = encode(Chunk(uuid.uuid4(), 0, bytes(5000)))
        assert isinstance(chunk, bytes)
        pour(villain, [frame(BINARY, chunk)] * 2000)
        return ended(villain)
