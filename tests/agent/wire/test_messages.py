"""A message is valid once made, and cannot be changed after; `EXAMPLES` and `messages` have one of each."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, get_args
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.wire.errors import ERRORS
from agent.wire.messages import (
    CODEC_ZSTD,
    MAX_CHUNK,
    MAX_DETAIL,
    MAX_FINGERPRINT,
    MAX_NAME,
    MAX_OFFSET,
    MAX_PATH,
    MAX_RANGES,
    MAX_TOKEN,
    MIN_CHUNK,
    MIN_TOKEN,
    PROTOCOL,
    Abort,
    Ack,
    BadMessage,
    Cancel,
    Chunk,
    End,
    Heartbeat,
    Hello,
    Landed,
    Message,
    Offer,
    Renew,
    Renewed,
    Request,
    Start,
    Welcome,
)

TRANSFER = UUID("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9")
DIGEST = "0123456789abcdef" * 4

EXAMPLES: dict[type[Message], Message] = {
    Hello: Hello(PROTOCOL, "0.1.0", "linux", "host"),
    Welcome: Welcome("client1", 15, MAX_CHUNK, "2026-01-01T00:00:00Z"),
    Request: Request(TRANSFER),
    Offer: Offer(TRANSFER, "file.txt", 10, 0, "1-2-3"),
    Start: Start(TRANSFER, ((0, 10),), 10),
    Chunk: Chunk(TRANSFER, 0, b"0123456789"),
    Ack: Ack(TRANSFER, 10, 20, 10),
    End: End(TRANSFER, 10, DIGEST, "1-2-3", "file.txt"),
    Landed: Landed(TRANSFER, DIGEST),
    Abort: Abort(TRANSFER, "internal"),
    Cancel: Cancel(TRANSFER),
    Heartbeat: Heartbeat(),
    Renew: Renew("t" * 43),
    Renewed: Renewed(DIGEST),
}


def texts(most: int, least: int = 0) -> st.SearchStrategy[str]:
    letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    return st.text(letters, min_size=least, max_size=most)


@st.composite
def many_ranges(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    ranges, position = [], 0
    for gap, length in draw(st.lists(st.tuples(offsets, offsets), min_size=1, max_size=20)):
        offset = min(position + gap, MAX_OFFSET)
        position = min(offset + length, MAX_OFFSET)
        ranges.append((offset, position - offset))
    return tuple(ranges)


@st.composite
def acks(draw: st.DrawFn) -> Ack:
    received, limit = sorted(draw(st.tuples(offsets, offsets)))
    return Ack(draw(st.uuids()), received, limit, draw(offsets), draw(rates))


offsets = st.integers(0, MAX_OFFSET) | st.integers(0, 1000)
rates = st.none() | st.integers(1, MAX_OFFSET)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
fingerprints = texts(MAX_FINGERPRINT, 1)
printable = "".join(map(chr, range(0x21, 0x7F)))
tokens = st.text(printable, min_size=MIN_TOKEN, max_size=MAX_TOKEN)
messages: dict[type[Message], st.SearchStrategy[Message]] = {
    Hello: st.builds(
        Hello,
        *[texts(255)] * 4,
        codecs=st.lists(texts(32, 1), min_size=1, max_size=16).map(tuple),
        max_chunk=st.integers(MIN_CHUNK, MAX_OFFSET),
        renewable=st.booleans(),
    ),
    Welcome: st.builds(
        Welcome, texts(64, 1), st.integers(1, 3600), st.integers(MIN_CHUNK, MAX_CHUNK), texts(64)
    ),
    Request: st.builds(
        Request, st.uuids(), st.none() | texts(MAX_PATH, 1), st.none() | texts(MAX_FINGERPRINT)
    ),
    Offer: st.builds(
        Offer,
        st.uuids(),
        texts(MAX_NAME),
        offsets,
        st.integers(-MAX_OFFSET, MAX_OFFSET),
        fingerprints,
        st.none() | texts(MAX_PATH, least=1),
    ),
    Start: st.builds(Start, st.uuids(), many_ranges(), offsets, rate_limit=rates),
    Chunk: st.builds(
        Chunk, st.uuids(), st.integers(0, MAX_OFFSET - MAX_CHUNK), st.binary(min_size=1)
    )
    | st.builds(
        Chunk,
        st.uuids(),
        st.integers(0, MAX_OFFSET - MAX_CHUNK),
        st.binary(min_size=1, max_size=100),
        st.just(CODEC_ZSTD),
        st.integers(101, MAX_CHUNK),
    ),
    Ack: acks(),
    End: st.builds(End, st.uuids(), offsets, digests, fingerprints, texts(MAX_NAME)),
    Landed: st.builds(Landed, st.uuids(), digests),
    Abort: st.builds(
        Abort, st.none() | st.uuids(), st.sampled_from(sorted(ERRORS)), texts(MAX_DETAIL)
    ),
    Cancel: st.builds(Cancel, st.uuids()),
    Heartbeat: st.builds(Heartbeat),
    Renew: st.builds(Renew, tokens),
    Renewed: st.builds(Renewed, digests),
}


def bad_text(most: int, least: int = 0) -> list[object]:
    strings = ["x" * (most + 1), "\0", "a\0b", "\ud800", "a\udfff", "\udc80\ud800"]
    return [*strings, 1, 1.5, True, [], {}, ["a"], *[""] * least]


def bad_whole(least: int = 0, most: int = MAX_OFFSET) -> list[object]:
    numbers = [least - 1, most + 1, 10**4000, -(10**4000), 1.0, 1.5]
    return [*numbers, True, False, "1", "", [], [1], {}]


BAD_UUID: list[object] = [1, 1.5, True, [], {}, "", "0a1b", "g" * 32, "0" * 33, "\0" * 32]
BAD_DIGEST: list[object] = ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, ["a"] * 64, 1, True, [], {}]
BAD_TOKEN: list[object] = ["", "t" * (MIN_TOKEN - 1), "t" * 40 + " ", "é" * 40, "t" * 40 + "\n"]
BAD_CODEC: list[object] = ["", "gzip", "RAW", 0, True, [], {}, ["raw"]]
BAD_CODE: list[object] = ["", "no_such_code", "INTERNAL", "\0", 0, True, [], {}, ["internal"]]
BAD_CODECS: list[object] = [{}, {"raw": 1}, "raw", 1, True, []]
BAD_CODECS += [[1], [None], [""], ["x" * 33], ["\0"], ["\ud800"], [["raw"]], ["raw"] * 17]
BAD_RANGES: list[object] = [{}, {"0": 1}, "ab", 1, True, [], [1], [[]], [[1]], [[0, 1, 2]], ["ab"]]
BAD_RANGES += [[{"0": 1}], [None], [[True, 1]], [[0, True]], [["0", 1]], [[0, "1"]], [[0, 1.0]]]
BAD_RANGES += [[[0, [1]]], [[{}, 1]], [[None, 1]], [[-1, 1]], [[0, -1]], [[2**63, 0]], [[0, 2**63]]]
BAD_RANGES += [[[1, MAX_OFFSET]], [[5, 5], [9, 1]], [[5, 5], [0, 1]], [[0, 0]] * (MAX_RANGES + 1)]

BAD_VALUES: dict[tuple[type[Message], str], list[object]] = {
    (Hello, "protocol"): [None, *bad_text(255)],
    (Hello, "agent_version"): [None, *bad_text(255)],
    (Hello, "platform"): [None, *bad_text(255)],
    (Hello, "hostname"): [None, *bad_text(255)],
    (Hello, "codecs"): [None, *BAD_CODECS],
    (Hello, "max_chunk"): [None, *bad_whole(MIN_CHUNK)],
    (Hello, "renewable"): [None, 0, 1, "", "true", [], [True], {}],
    (Welcome, "client"): [None, *bad_text(64, least=1)],
    (Welcome, "heartbeat"): [None, *bad_whole(1, 3600)],
    (Welcome, "max_chunk"): [None, *bad_whole(MIN_CHUNK, MAX_CHUNK)],
    (Welcome, "server_time"): [None, *bad_text(64)],
    (Request, "transfer"): [None, *BAD_UUID],
    (Request, "path"): bad_text(MAX_PATH, least=1),
    (Request, "fingerprint"): bad_text(MAX_FINGERPRINT),
    (Offer, "transfer"): [None, *BAD_UUID],
    (Offer, "name"): [None, *bad_text(MAX_NAME)],
    (Offer, "size"): [None, *bad_whole()],
    (Offer, "mtime_ns"): [None, *bad_whole(-MAX_OFFSET)],
    (Offer, "fingerprint"): [None, *bad_text(MAX_FINGERPRINT, least=1)],
    (Offer, "path"): bad_text(MAX_PATH, least=1),
    (Start, "transfer"): [None, *BAD_UUID],
    (Start, "ranges"): [None, *BAD_RANGES],
    (Start, "limit"): [None, *bad_whole()],
    (Start, "codec"): [None, *BAD_CODEC],
    (Start, "rate_limit"): bad_whole(least=1),
    (Ack, "transfer"): [None, *BAD_UUID],
    (Ack, "received"): [None, *bad_whole(most=20), 21],
    (Ack, "limit"): [None, *bad_whole(least=10), 9],
    (Ack, "checkpoint"): [None, *bad_whole()],
    (Ack, "rate_limit"): bad_whole(least=1),
    (End, "transfer"): [None, *BAD_UUID],
    (End, "size"): [None, *bad_whole()],
    (End, "sha256"): [None, *BAD_DIGEST],
    (End, "fingerprint"): [None, *bad_text(MAX_FINGERPRINT, least=1)],
    (End, "name"): [None, *bad_text(MAX_NAME)],
    (Landed, "transfer"): [None, *BAD_UUID],
    (Landed, "sha256"): [None, *BAD_DIGEST],
    (Abort, "transfer"): BAD_UUID,
    (Abort, "code"): [None, *BAD_CODE],
    (Abort, "detail"): [None, *bad_text(MAX_DETAIL)],
    (Abort, "path"): bad_text(MAX_PATH, least=1),
    (Cancel, "transfer"): [None, *BAD_UUID],
    (Renew, "token"): [None, *bad_text(MAX_TOKEN), *BAD_TOKEN],
    (Renewed, "token_sha256"): [None, *BAD_DIGEST],
}
"""For each field of each text message what is refused in it, as JSON has it."""

TYPED = [(cls, name) for cls, name in BAD_VALUES if name not in ("ranges", "codecs")]


def test_the_examples_have_one_of_each_message() -> None:
    assert set(EXAMPLES) == set(messages) == set(get_args(Message))


@pytest.mark.parametrize(("cls", "name"), TYPED, ids=lambda each: getattr(each, "kind", each))
def test_a_message_with_a_bad_value_cannot_be_made(cls: type[Message], name: str) -> None:
    for value in BAD_VALUES[cls, name]:
        bad: dict[str, Any] = {name: value}
        with pytest.raises(BadMessage):
            replace(EXAMPLES[cls], **bad)


BAD_CALLS: dict[str, Callable[[], Message]] = {
    "no ranges": lambda: Start(TRANSFER, (), 1),
    "too many ranges": lambda: Start(TRANSFER, ((0, 0),) * (MAX_RANGES + 1), 1),
    "overlapping ranges": lambda: Start(TRANSFER, ((0, 10), (9, 1)), 1),
    "descending ranges": lambda: Start(TRANSFER, ((10, 1), (0, 1)), 1),
    "a range beyond the largest offset": lambda: Start(TRANSFER, ((MAX_OFFSET, 1),), 1),
    "no codecs": lambda: Hello(PROTOCOL, "", "", "", codecs=()),
    "too many codecs": lambda: Hello(PROTOCOL, "", "", "", codecs=("raw",) * 17),
    "an empty chunk": lambda: Chunk(TRANSFER, 0, b""),
    "too long a chunk": lambda: Chunk(TRANSFER, 0, bytes(MAX_CHUNK + 1)),
    "a chunk before the start": lambda: Chunk(TRANSFER, -1, b"x"),
    "a chunk beyond the largest offset": lambda: Chunk(TRANSFER, MAX_OFFSET, b"x"),
    "a chunk of an unknown codec": lambda: Chunk(TRANSFER, 0, b"x", "gzip"),
    "a compressed chunk without a length": lambda: Chunk(TRANSFER, 0, b"x", CODEC_ZSTD),
    "a raw chunk with another length": lambda: Chunk(TRANSFER, 0, b"x", unpacked=2),
    "a compressed chunk that is no shorter": lambda: Chunk(TRANSFER, 0, b"xy", CODEC_ZSTD, 2),
    "a compressed chunk of nothing": lambda: Chunk(TRANSFER, 0, b"", CODEC_ZSTD, 2),
    "a compressed chunk of too much": lambda: Chunk(TRANSFER, 0, b"x", CODEC_ZSTD, MAX_CHUNK + 1),
}


@pytest.mark.parametrize("make", BAD_CALLS.values(), ids=BAD_CALLS)
def test_values_that_do_not_fit_together_cannot_be_made(make: Callable[[], Message]) -> None:
    with pytest.raises(BadMessage):
        make()


def test_the_largest_values_are_allowed() -> None:
    Start(TRANSFER, ((0, MAX_OFFSET),), MAX_OFFSET)
    Start(TRANSFER, ((MAX_OFFSET, 0),) * MAX_RANGES, 0)
    Chunk(TRANSFER, MAX_OFFSET - MAX_CHUNK, bytes(MAX_CHUNK))
    Offer(TRANSFER, "x" * MAX_NAME, MAX_OFFSET, -MAX_OFFSET, "x" * MAX_FINGERPRINT)
    Ack(TRANSFER, MAX_OFFSET, MAX_OFFSET, MAX_OFFSET)


@pytest.mark.parametrize("message", EXAMPLES.values(), ids=lambda message: message.kind)
def test_a_message_cannot_be_changed(message: Message) -> None:
    for name in (each.name for each in fields(message)):
        with pytest.raises(FrozenInstanceError):
            setattr(message, name, None)


def test_a_chunk_does_not_print_its_payload() -> None:
    """A log line with a chunk in it stays short, and keeps the file to itself."""
    assert "secret" not in repr(Chunk(TRANSFER, 0, b"secret"))


@pytest.mark.parametrize(
    "payload",
    [
        "text",
        5,
        None,
        [1, 2],
        (b"a",),
        memoryview(bytes(16)).cast("Q"),
        memoryview(bytes(4)).cast("I"),
    ],
    ids=["text", "number", "none", "list", "tuple", "view of 8", "view of 4"],
)
def test_a_chunk_carries_bytes_and_nothing_else(payload: Any) -> None:
    with pytest.raises(BadMessage, match="payload must be bytes"):
        Chunk(TRANSFER, 0, payload)


def test_a_chunk_from_a_view_of_rows_is_refused() -> None:
    """Else it goes out with a length of 2 and 4 bytes."""
    with pytest.raises(BadMessage):
        Chunk(TRANSFER, 0, memoryview(bytes(4)).cast("B", (2, 2)))


@given(st.one_of(*messages.values()))
def test_equal_messages_are_equal(message: Message) -> None:
    assert replace(message) == message
