"""What goes over the socket is what was said; what is no message is refused with one kind of error."""

import json
from dataclasses import MISSING, fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.wire.codec import LONGEST, MAX_DEPTH, TEXT_MESSAGES, decode, encode
from agent.wire.errors import CloseCode, RemoteProtocolError
from agent.wire.messages import (
    CODEC_ZSTD,
    MAX_CHUNK,
    MAX_DETAIL,
    MAX_FINGERPRINT,
    MAX_NAME,
    MAX_OFFSET,
    MAX_PATH,
    MAX_RANGES,
    MAX_TEXT,
    MAX_TOKEN,
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

from .test_messages import BAD_VALUES, EXAMPLES, TRANSFER, messages


def refusal(data: str | bytes) -> RemoteProtocolError:
    """The error with which `data` is refused; any other exception fails the test."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data)
    assert caught.value.detail
    return caught.value


def as_json(cls: type[Message]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(encode(EXAMPLES[cls]))
    return values


@pytest.mark.parametrize("cls", messages, ids=lambda cls: cls.kind)
def test_every_message_survives_the_wire(cls: type[Message]) -> None:
    @settings(max_examples=50)
    @given(messages[cls])
    def survives(message: Message) -> None:
        data = encode(message)
        assert isinstance(data, bytes) == (cls is Chunk)
        assert decode(data) == message

    survives()


@pytest.mark.parametrize("cls", TEXT_MESSAGES.values(), ids=TEXT_MESSAGES)
def test_a_text_message_is_json_with_its_type(cls: type[Message]) -> None:
    values = as_json(cls)
    assert values["type"] == cls.kind
    assert set(values) == {"type", *(each.name for each in fields(cls))}


@pytest.mark.parametrize("cls", TEXT_MESSAGES.values(), ids=TEXT_MESSAGES)
def test_fields_of_a_newer_peer_are_ignored(cls: type[Message]) -> None:
    newer = as_json(cls) | {"newer": [1, {"a": None}], "kind": "x", "payload": "x", "self": 1}
    assert decode(json.dumps(newer)) == EXAMPLES[cls]


@pytest.mark.parametrize(
    ("cls", "name"), BAD_VALUES, ids=[f"{cls.kind}.{name}" for cls, name in BAD_VALUES]
)
def test_a_bad_value_is_refused(cls: type[Message], name: str) -> None:
    for value in BAD_VALUES[cls, name]:
        refusal(json.dumps(as_json(cls) | {name: value}))


def test_a_bad_value_is_known_for_every_field() -> None:
    known = {(cls, each.name) for cls in TEXT_MESSAGES.values() for each in fields(cls)}
    assert set(BAD_VALUES) == known


@pytest.mark.parametrize("cls", TEXT_MESSAGES.values(), ids=TEXT_MESSAGES)
def test_a_field_without_a_default_must_be_there(cls: type[Message]) -> None:
    for each in fields(cls):
        values = as_json(cls)
        del values[each.name]
        if each.default is MISSING:
            assert refusal(json.dumps(values)).detail == f"{cls.kind} lacks {each.name}"
        else:
            decode(json.dumps(values))


def test_all_fields_that_lack_are_named() -> None:
    detail = refusal(json.dumps({"type": "ack", "transfer": str(TRANSFER)})).detail
    assert detail == "ack lacks checkpoint, limit, received"


BAD_TYPES = [None, "", "no_such", "chunk", "HELLO", "\0", 1, True, [], {}, ["hello"], {"hello": 1}]


@pytest.mark.parametrize("kind", BAD_TYPES, ids=repr)
def test_an_unknown_type_is_refused(kind: object) -> None:
    refusal(json.dumps({"type": kind}))


@pytest.mark.parametrize("value", ["null", "1", "1.5", "true", '"hello"', "[]", '["type"]', "{}"])
def test_what_is_not_an_object_with_a_type_is_refused(value: str) -> None:
    refusal(value)


NOT_JSON = {
    "empty": "",
    "cut": '{"type":"heartbeat"',
    "two": '{"type":"heartbeat"}{"type":"heartbeat"}',
    "byte order mark": '\ufeff{"type":"heartbeat"}',
    "NaN": '{"type":"heartbeat","x":NaN}',
    "infinity": '{"type":"heartbeat","x":Infinity}',
    "less than infinity": '{"type":"heartbeat","x":-Infinity}',
    "5,000 digits": '{"type":"heartbeat","x":%s}' % ("9" * 5000),
    "21 digits": '{"type":"heartbeat","x":%s}' % ("9" * 21),
    "a float beyond all": '{"type":"heartbeat","x":1e999}',
    "a key twice": '{"type":"heartbeat","type":"hello"}',
    "a key twice, deeper": '{"type":"heartbeat","x":{"a":1,"a":1}}',
    "a little too deep": '{"type":"heartbeat","x":%s}' % ("[" * MAX_DEPTH + "]" * MAX_DEPTH),
    "quotes and backslashes": '"' + '\\"' * 30_000,
    "deep lists": "[" * 60_000,
    "deep balanced lists": '{"type":"heartbeat","x":%s}' % ("[" * 30_000 + "]" * 30_000),
    "deep objects": '{"x":' * 12_000,
    "lone surrogate": "\ud800",
    "raw NUL": '{"type":"\0"}',
}


@pytest.mark.parametrize("data", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_not_json_is_refused_as_invalid_data(data: str) -> None:
    assert refusal(data).close_code is CloseCode.INVALID_DATA


def test_brackets_in_a_string_are_no_depth() -> None:
    assert decode(json.dumps({"type": "heartbeat", "x": '["{' * 50})) == Heartbeat()


def test_the_longest_number_that_python_reads_is_refused_with_a_short_farewell() -> None:
    start = encode(EXAMPLES[Start])
    assert isinstance(start, str)
    refusal(start.replace('"limit":10', '"limit":' + "9" * 4300))


TOO_LONG = {"brackets": "[" * 100_000, "a little": "x" * (MAX_TEXT + 1), "much": " " * 1_000_000}


@pytest.mark.parametrize("data", TOO_LONG.values(), ids=TOO_LONG)
def test_too_long_a_text_is_refused_before_it_is_parsed(data: str) -> None:
    assert refusal(data).close_code is CloseCode.POLICY_VIOLATION


@pytest.mark.parametrize("cls", TEXT_MESSAGES.values(), ids=TEXT_MESSAGES)
def test_each_type_has_a_longest_message_of_its_own(cls: type[Message]) -> None:
    most = LONGEST[cls]
    padding = most - len(json.dumps(as_json(cls) | {"newer": ""}))
    assert decode(json.dumps(as_json(cls) | {"newer": "x" * padding})) == EXAMPLES[cls]
    too_long = refusal(json.dumps(as_json(cls) | {"newer": "x" * (padding + 1)}))
    assert too_long.close_code is CloseCode.POLICY_VIOLATION
    assert str(most) in too_long.detail


def test_a_long_heartbeat_is_refused_at_once() -> None:
    assert LONGEST[Heartbeat] == 256
    refusal(json.dumps({"type": "heartbeat", "x": "x" * 300}))


@pytest.mark.parametrize("letter", ["x", "\x01", "\U0001f600", "\U0010ffff", '"'])
def test_the_longest_messages_fit(letter: str) -> None:
    """No message that can be made is too long to be received."""
    long = letter * 255
    longest: list[Message] = [
        Hello(long, long, long, long, codecs=(letter * 32,) * 16, max_chunk=MAX_OFFSET),
        Request(TRANSFER, letter * MAX_PATH, letter * MAX_FINGERPRINT),
        Start(TRANSFER, ((MAX_OFFSET, 0),) * MAX_RANGES, MAX_OFFSET),
        Offer(
            TRANSFER,
            letter * MAX_NAME,
            MAX_OFFSET,
            -MAX_OFFSET,
            letter * MAX_FINGERPRINT,
            letter * MAX_PATH,
        ),
        Welcome(letter * 64, 3600, MAX_CHUNK, letter * 64),
        Ack(TRANSFER, MAX_OFFSET, MAX_OFFSET, MAX_OFFSET),
        End(TRANSFER, MAX_OFFSET, "f" * 64, letter * MAX_FINGERPRINT, letter * MAX_NAME),
        Landed(TRANSFER, "f" * 64),
        Abort(TRANSFER, "internal", letter * MAX_DETAIL, letter * MAX_PATH),
        Cancel(TRANSFER),
        Heartbeat(),
        Renew("t" * MAX_TOKEN),
        Renewed("f" * 64),
    ]
    assert {type(message) for message in longest} == set(TEXT_MESSAGES.values())
    for message in longest:
        assert decode(encode(message)) == message


HEADER = bytes.fromhex(
    "0a1b2c3d4e5f60718293a4b5c6d7e8f9"  # transfer
    "0000000102030405"  # offset
    "00000003"  # length
    "00"  # codec
    "00"  # flags
    "0000"  # reserved
)


def test_a_chunk_is_a_header_of_32_bytes_in_network_order_and_the_payload() -> None:
    chunk = Chunk(TRANSFER, 0x0102030405, b"abc")
    assert len(HEADER) == Chunk.HEADER.size == 32
    assert encode(chunk) == HEADER + b"abc"
    assert decode(HEADER + b"abc") == chunk


def test_a_compressed_chunk_says_its_source_bytes_and_carries_fewer() -> None:
    chunk = Chunk(TRANSFER, 0x0102030405, b"abc", CODEC_ZSTD, 1000)
    assert chunk.length == 1000
    data = HEADER[:24] + (1000).to_bytes(4, "big") + b"\1\0\0\0" + b"abc"
    assert encode(chunk) == data
    assert decode(data) == chunk


def test_the_payload_of_a_received_chunk_is_not_copied() -> None:
    data = HEADER + b"abc"
    chunk = decode(data)
    assert isinstance(chunk, Chunk)
    assert isinstance(chunk.payload, memoryview)
    assert chunk.payload.obj is data


def test_a_chunk_may_be_sent_from_any_buffer() -> None:
    payload = memoryview(bytearray(b"xabcx"))[1:4]
    assert encode(Chunk(TRANSFER, 0x0102030405, payload)) == HEADER + b"abc"


def test_a_chunk_from_a_buffer_of_wide_items_is_refused() -> None:
    """Nothing goes out whose header is wrong."""
    with pytest.raises(BadMessage):
        Chunk(TRANSFER, 0, memoryview(bytes(16)).cast("Q"))


def patched(position: int, value: int) -> bytes:
    data = bytearray(HEADER + b"abc")
    data[position] = value
    return bytes(data)


BAD_CHUNKS = {
    "empty": b"",
    "half a header": HEADER[:16],
    "a header less a byte": HEADER[:31],
    "a header alone": HEADER,
    "a header alone that says 0 bytes": HEADER[:24] + bytes(8),
    "too few bytes": HEADER + b"ab",
    "too many bytes": HEADER + b"abcd",
    "length 0": patched(27, 0),
    "length in the wrong order": HEADER[:24] + b"\3\0\0\0" + bytes(4) + b"abc",
    "unknown codec": patched(28, 2),
    "compressed, and no shorter": patched(28, 1),
    "compressed to nothing": HEADER[:28] + b"\1\0\0\0",
    "compressed, and longer than any chunk": HEADER[:24] + b"\0\x08\0\1\1\0\0\0" + b"abc",
    "flags": patched(29, 1),
    "reserved, high": patched(30, 1),
    "reserved, low": patched(31, 1),
    "an offset beyond 63 bits": patched(16, 0x80),
    "an offset at the end of 63 bits": HEADER[:16] + b"\x7f" + b"\xff" * 7 + HEADER[24:] + b"abc",
    "longer than any chunk": HEADER[:24] + b"\0\x08\0\1" + bytes(4) + bytes(MAX_CHUNK + 1),
    "json": b'{"type":"heartbeat"}',
    "longer json": b'{"type":"heartbeat","a":"long enough to be a chunk"}',
}


@pytest.mark.parametrize("data", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_a_bad_chunk_is_refused(data: bytes) -> None:
    refusal(data)


def decodes_or_is_refused(data: str | bytes) -> None:
    try:
        message = decode(data)
    except RemoteProtocolError:
        return
    assert decode(encode(message)) == message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(st.text(st.characters()) | st.binary(max_size=100))
def test_no_data_at_all_raises_anything_else(data: str | bytes) -> None:
    decodes_or_is_refused(data)


@given(JSON)
def test_no_json_raises_anything_else(value: object) -> None:
    decodes_or_is_refused(json.dumps(value))


@settings(max_examples=300)
@given(st.data())
def test_no_message_with_any_values_exchanged_raises_anything_else(data: st.DataObject) -> None:
    values = as_json(data.draw(st.sampled_from(list(TEXT_MESSAGES.values()))))
    for name in data.draw(st.sets(st.sampled_from(sorted(values)))):
        values[name] = data.draw(JSON)
    decodes_or_is_refused(json.dumps(values))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=20))
def test_no_chunk_raises_anything_else(header: bytes, payload: bytes) -> None:
    length = len(payload).to_bytes(4, "big")
    decodes_or_is_refused(header + payload)
    decodes_or_is_refused(header[:24] + length + header[28:] + payload)
    decodes_or_is_refused(header[:24] + length + bytes(4) + payload)


@pytest.mark.parametrize("space", ["", " ", "\n"])
def test_white_space_around_a_message_is_json_too(space: str) -> None:
    assert decode(f'{space}{{"type":"heartbeat"}}{space}') == Heartbeat()


LENIENT = {
    "space": " a1b2c3d4e5f60718293a4b5c6d7e8f9",
    "prefix 0x": "0x1b2c3d4e5f60718293a4b5c6d7e8f9",
    "underscore": "0a1b_c3d4e5f60718293a4b5c6d7e8f9",
    "sign": "+a1b2c3d4e5f60718293a4b5c6d7e8f9",
    "full-width digits": "１２３４５６７８" * 4,
    "braces": "{0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9}",
    "no dashes": "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
    "urn": "urn:uuid:0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
    "a dash moved": "0a1b2c3-d4e5f-6071-8293-a4b5c6d7e8f9",
    "space around": " 0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9 ",
    "None": "None",
    "dashes anywhere": "0-a1b2c3d4e5f60718293a4b5c6d7e8f9",
}


@pytest.mark.parametrize("text", LENIENT.values(), ids=LENIENT)
def test_a_transfer_has_one_spelling(text: str) -> None:
    """A peer in another language has to accept the canonical form and no other."""
    refusal(json.dumps({"type": "cancel", "transfer": text}))
