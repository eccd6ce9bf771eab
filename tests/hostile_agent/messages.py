"""Messages that are wrong: in form, out of turn, about what is not theirs, or too many."""

import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator

from agent.wire.messages import (
    MAX_OFFSET,
    PROTOCOL,
    Abort,
    Cancel,
    Chunk,
    End,
    Hello,
    Message,
    Offer,
    Request,
    Start,
)
from tests.hostile_agent.misbehaviour import misbehaviour
from tests.hostile_agent.scene import MIB, Outcome, Scene
from tests.hostile_agent.villain import Gone, Villain

ANYTHING = Message | str | bytes
NOBODY = uuid.UUID(int=0)


def ended(villain: Villain, transfer: str = "") -> Outcome:
    said, code = villain.last_words()
    return Outcome(str(code), said, transfer)


def says(scene: Scene, *messages: ANYTHING) -> Outcome:
    """An agent that is welcome, and says this."""
    with scene.villain() as villain:
        villain.greet(*scene.client())
        pour_messages(villain, messages)
        return ended(villain)


def pour_messages(villain: Villain, messages: Iterable[ANYTHING]) -> None:
    with contextlib.suppress(Gone):  # closed on the way; what it was told can still be read
        villain.say(*messages)


def sends(
    scene: Scene, evil: Callable[[Start], Iterable[ANYTHING]], size: int = 10 * MIB, chunks: int = 4
) -> Outcome:
    """An agent that offers a file, sends a few chunks as it should, and then this."""
    client, token = scene.client()
    with scene.villain() as villain:
        villain.greet(client, token)
        asked = scene.server.ask(client)
        start = villain.offer(size)
        villain.chunks(start, chunks)
        pour_messages(villain, evil(start))
        outcome = ended(villain)
    outcome.transfer = scene.state(asked)
    return outcome


BROKEN = "failed: protocol_error"

# Greetings --------------------------------------------------------------------------------------


@misbehaviour("4002", said="hello")
def says_hello_twice(scene: Scene) -> Outcome:
    return says(scene, Hello(PROTOCOL, "0", "test", "test"))


@misbehaviour("4002", said="new")
def sends_a_chunk_before_hello(scene: Scene) -> Outcome:
    with scene.villain() as villain:
        villain.handshake(*scene.client())
        villain.say(Chunk(NOBODY, 0, bytes(5000)))
        return ended(villain)


@misbehaviour("4008", said="no hello", slow=True)
def never_says_hello(scene: Scene) -> Outcome:
    with scene.villain() as villain:
        return ended(villain.handshake(*scene.client()))


@misbehaviour("4002", said="silentmode.v9")
def speaks_another_version(scene: Scene) -> Outcome:
    with scene.villain() as villain:
        villain.handshake(*scene.client())
        villain.say(Hello("silentmode.v9", "0", "test", "test"))
        return ended(villain)


@misbehaviour("open", said="no control character")
def calls_itself_by_html_and_control_characters(scene: Scene) -> Outcome:
    client, token = scene.client()
    hostname = "<script>alert(1)</script>\x1b[2J\r\n[server] Registered\u202e"
    with scene.villain() as villain:
        villain.greet(client, token, hostname)
        _, row = scene.server.call("GET", f"/api/v1/clients/{client}/")
    assert row["hostname"].isprintable(), row
    assert hostname not in scene.server.program.output
    return Outcome("open", "no control character on record, none in the log")


# Somebody else's --------------------------------------------------------------------------------


def _meddles(scene: Scene, message: Callable[[uuid.UUID], Message]) -> Outcome:
    transfer = scene.server.ask("honest", duplicate=True)
    outcome = says(scene, message(uuid.UUID(transfer)))
    row = scene.server.wait_status(transfer, "completed")
    outcome.transfer = f"the other's {row['status']}"
    return outcome


@misbehaviour("4002", said="idle", transfer="the other's completed")
def offers_a_file_for_anothers_transfer(scene: Scene) -> Outcome:
    return _meddles(scene, lambda transfer: Offer(transfer, "evil.bin", 5, 0, "1"))


@misbehaviour("4002", said="idle", transfer="the other's completed")
def sends_a_chunk_for_anothers_transfer(scene: Scene) -> Outcome:
    return _meddles(scene, lambda transfer: Chunk(transfer, 0, bytes(5000)))


@misbehaviour("4002", said="idle", transfer="the other's completed")
def ends_anothers_transfer(scene: Scene) -> Outcome:
    return _meddles(scene, lambda transfer: End(transfer, 0, "0" * 64, "1", "evil.bin"))


@misbehaviour("4002", said="idle", transfer="the other's completed")
def aborts_anothers_transfer(scene: Scene) -> Outcome:
    return _meddles(scene, lambda transfer: Abort(transfer, "not_found"))


@misbehaviour("4002", said="cancel from the agent")
def says_what_only_a_server_says(scene: Scene) -> Outcome:
    return says(scene, Cancel(NOBODY))


@misbehaviour("4001", said="another agent", transfer="receiving")
def writes_on_from_an_older_connection(scene: Scene) -> Outcome:
    client, token = scene.client()
    with scene.villain() as older, scene.villain() as newer:
        older.greet(client, token)
        asked = scene.server.ask(client)
        old = older.offer(10 * MIB)
        older.chunks(old, 4)
        newer.greet(client, token)
        pour_messages(
            older, (Chunk(old.transfer, at * 4096, b"\xff" * 4096) for at in range(4, 100))
        )
        outcome = ended(older)
        new = newer.offer(10 * MIB)
        assert new.ranges[0][0] <= 100 * 4096
        outcome.transfer = scene.server.transfer(asked)["status"]
        newer.say(Abort(new.transfer, "unreadable"))
        scene.state(asked)
    return outcome


# A transfer's bytes -----------------------------------------------------------------------------


@misbehaviour("4008", said="beyond the limit", transfer=BROKEN)
def floods_beyond_the_limit(scene: Scene) -> Outcome:
    def flood(start: Start) -> Iterator[Chunk]:
        for offset in range(4 * 4096, 128 * MIB, MIB // 2):
            yield Chunk(start.transfer, offset, bytes(MIB // 2))

    return sends(scene, flood, size=1 << 28)


@misbehaviour("4002", said="expected 16384", transfer=BROKEN)
def sends_an_offset_again(scene: Scene) -> Outcome:
    return sends(scene, lambda start: [Chunk(start.transfer, 0, bytes(4096))])


@misbehaviour("4002", said="expected 16384", transfer=BROKEN)
def sends_overlapping_chunks(scene: Scene) -> Outcome:
    return sends(scene, lambda start: [Chunk(start.transfer, 4 * 4096 - 1, bytes(4096))])


@misbehaviour("4002", said="expected 16384", transfer=BROKEN)
def leaves_a_gap(scene: Scene) -> Outcome:
    return sends(scene, lambda start: [Chunk(start.transfer, MIB, bytes(4096))])


@misbehaviour("4002", said="expected 16384", transfer=BROKEN)
def writes_at_the_end_of_the_world(scene: Scene) -> Outcome:
    return sends(scene, lambda start: [Chunk(start.transfer, MAX_OFFSET - MIB, bytes(4096))])


@misbehaviour("4002", said="too short", transfer=BROKEN)
def sends_chunks_of_one_byte(scene: Scene) -> Outcome:
    return sends(
        scene, lambda start: (Chunk(start.transfer, 4 * 4096 + at, b"x") for at in range(10_000))
    )


@misbehaviour("4002", said="a chunk", transfer=BROKEN)
def sends_more_than_it_offered(scene: Scene) -> Outcome:
    return sends(scene, lambda start: [Chunk(start.transfer, 4 * 4096, b"more")], size=4 * 4096)


@misbehaviour("4002", said="end after", transfer=BROKEN)
def ends_before_all_is_sent(scene: Scene) -> Outcome:
    return sends(scene, lambda start: [End(start.transfer, 10 * MIB, "0" * 64, "1", "evil.bin")])


@misbehaviour("4002", said="the offer said", transfer=BROKEN)
def says_a_smaller_size_at_the_end(scene: Scene) -> Outcome:
    return sends(scene, lambda start: [End(start.transfer, 4 * 4096, "0" * 64, "1", "evil.bin")])


@misbehaviour("4002", said="the offer said", transfer=BROKEN)
def says_a_larger_size_at_the_end(scene: Scene) -> Outcome:
    return sends(
        scene,
        lambda start: [End(start.transfer, 1 << 40, "0" * 64, "1", "evil.bin")],
        size=4 * 4096,
    )


@misbehaviour("4002", said="another name", transfer=BROKEN)
def gives_another_name_at_the_end(scene: Scene) -> Outcome:
    return sends(
        scene, lambda start: [End(start.transfer, 4 * 4096, "0" * 64, "1", "../x")], size=4 * 4096
    )


@misbehaviour("4002", said="another path")
def answers_for_another_path(scene: Scene) -> Outcome:
    client, token = scene.client()
    with scene.villain() as villain:
        villain.greet(client, token)
        scene.server.ask(client, "/var/log/pos.log")
        request = villain.hear(Request)
        villain.say(Offer(request.transfer, "shadow", 5, 0, "1", "/etc/shadow"))
        return ended(villain)


@misbehaviour("4002", said="requested")
def sends_a_chunk_before_an_offer(scene: Scene) -> Outcome:
    client, token = scene.client()
    with scene.villain() as villain:
        villain.greet(client, token)
        scene.server.ask(client)
        request = villain.hear(Request)
        villain.say(Chunk(request.transfer, 0, bytes(4096)))
        return ended(villain)


@misbehaviour("4002", said="chunk from the agent", transfer="failed")
def sends_a_chunk_after_the_end(scene: Scene) -> Outcome:
    def evil(start: Start) -> list[Message]:
        return [
            End(start.transfer, 4 * 4096, "0" * 64, "1", "evil.bin"),
            Chunk(start.transfer, 4 * 4096, bytes(4096)),
        ]

    return sends(scene, evil, size=4 * 4096)


@misbehaviour("4002", said="offer from the agent", transfer=BROKEN)
def offers_a_second_file(scene: Scene) -> Outcome:
    return sends(scene, lambda start: [Offer(start.transfer, "again", 5, 0, "2")])


@misbehaviour("open", said="checksum_mismatch", transfer="failed: checksum_mismatch")
def gives_a_wrong_digest(scene: Scene) -> Outcome:
    client, token = scene.client()
    with scene.villain() as villain:
        villain.greet(client, token)
        asked = scene.server.ask(client)
        start = villain.offer(5)
        villain.say(Chunk(start.transfer, 0, b"hello"))
        villain.say(End(start.transfer, 5, "0" * 64, "1", "evil.bin"))
        said = next(each for each in villain.messages() if isinstance(each, Abort))
        villain.say(Abort(start.transfer, said.code))
        return Outcome("open", f"{said.code}: {said.detail}", scene.state(asked))


@misbehaviour("open", said="too_large", transfer="failed: too_large")
def offers_more_than_a_day_may_bring(scene: Scene) -> Outcome:
    client, token = scene.client()
    with scene.villain() as villain:
        villain.greet(client, token)
        asked = scene.server.ask(client)
        request = villain.hear(Request)
        villain.say(Offer(request.transfer, "huge", 1 << 40, 0, "1"))
        said = next(each for each in villain.messages() if isinstance(each, Abort))
        villain.say(Abort(request.transfer, said.code))
        return Outcome("open", f"{said.code}: {said.detail}", scene.state(asked))


@misbehaviour("open", said="quota_exceeded", transfer="queued: quota_exceeded")
def offers_two_files_that_a_day_may_not_bring_together(scene: Scene) -> Outcome:
    client, token = scene.client()
    with scene.villain() as villain:
        villain.greet(client, token)
        scene.server.ask(client, "/first")
        first = villain.offer(300 * MIB)
        asked = scene.server.ask(client, "/second")
        request = villain.hear(Request)
        villain.say(Offer(request.transfer, "second", 300 * MIB, 0, "1", request.path))
        said = next(each for each in villain.messages() if isinstance(each, Abort))
        villain.say(Abort(request.transfer, said.code), Abort(first.transfer, "not_found"))
        return Outcome("open", f"{said.code}: {said.detail}", scene.state(asked))


@misbehaviour("4008", said="beyond the limit", transfer="cancelled: cancelled")
def sends_on_and_on_after_a_cancel(scene: Scene) -> Outcome:
    client, token = scene.client()
    with scene.villain() as villain:
        villain.greet(client, token)
        asked = scene.server.ask(client)
        start = villain.offer(1 << 28)
        scene.server.call("POST", f"/api/v1/transfers/{asked}/cancel/")
        villain.hear(Cancel)
        pour_messages(
            villain,
            (
                Chunk(start.transfer, offset, bytes(MIB // 4))
                for offset in range(0, 1 << 28, MIB // 4)
            ),
        )
        return ended(villain, scene.state(asked))


@misbehaviour("4008", said="bytes/s", transfer="failed: timed_out", slow=True)
def trickles_chunk_by_chunk(scene: Scene) -> Outcome:
    client, token = scene.client()
    with scene.villain() as villain:
        villain.greet(client, token)
        asked = scene.server.ask(client)
        start = villain.offer(1 << 28)
        villain.socket.settimeout(2.0)
        said = ""
        for number in range(60):
            villain.say(Chunk(start.transfer, number * 4096, bytes(4096)))
            if said := _abort_within(villain, 2.0):
                break
        villain.socket.settimeout(60.0)
        _, code = villain.last_words()  # it never confirms
        return Outcome(str(code), said, scene.state(asked))


def _abort_within(villain: Villain, seconds: float) -> str:
    """What an abort says that comes in so long; it hears acks meanwhile."""
    try:
        for message in villain.messages():
            if isinstance(message, Abort):
                return message.detail
    except TimeoutError:
        pass
    return ""
