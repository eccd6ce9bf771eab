"""Messages to and from what goes over the socket.

Text messages are JSON objects with `type`; binary messages are chunks: a 32-byte header and the
payload. Unknown fields of a known message are ignored, so that a newer peer can add one; unknown
types and bad values are refused with a sentence.
"""

import json
import math
import re
from dataclasses import MISSING, fields
from typing import Any
from uuid import UUID

from .errors import CloseCode, RemoteProtocolError
from .messages import (
    CODEC_NUMBERS,
    CODEC_ZSTD,
    MAX_TEXT,
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

TEXT_MESSAGES: dict[str, type[Message]] = {
    cls.kind: cls
    for cls in (
        Hello,
        Welcome,
        Request,
        Offer,
        Start,
        Ack,
        End,
        Landed,
        Abort,
        Cancel,
        Heartbeat,
        Renew,
        Renewed,
    )
}

LONGEST: dict[type[Message], int] = {
    Hello: 20 * 1024,
    Welcome: 4 * 1024,
    Request: 52 * 1024,
    Offer: 56 * 1024,
    Start: 46 * 1024,
    Ack: 1024,
    End: 8 * 1024,
    Landed: 1024,
    Abort: MAX_TEXT,
    Cancel: 1024,
    Heartbeat: 256,
    Renew: 1024,
    Renewed: 512,
}
"""Characters that a message of each type may have: its longest fields with each character escaped as
JSON (12 for an emoji: a path of 4,096 makes 49,152), and some room for a newer peer's fields."""

MAX_DEPTH = 8
"""Lists and objects in one another: ours have 3 (`start`), and a newer peer may have more to say."""

MAX_DIGITS = 20
"""Of a number: 2**63 has 19, and a sign."""

_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A JSON string, or what begins like one and never ends: so that no quote is looked at twice."""

_BRACKET = re.compile(r"[\[\]{}]")


def encode(message: Message) -> str | bytes:
    """The message as one WebSocket message: `bytes` for a chunk, `str` for all others."""
    if isinstance(message, Chunk):
        return _encode_chunk(message)
    values = {f.name: getattr(message, f.name) for f in fields(message)}
    return json.dumps({"type": message.kind, **values}, default=str, separators=(",", ":"))


def _encode_chunk(chunk: Chunk) -> bytes:
    header = Chunk.HEADER.pack(
        chunk.transfer.bytes, chunk.offset, chunk.length, CODEC_NUMBERS[chunk.codec], 0, 0
    )
    return b"".join((header, chunk.payload))


def decode(data: str | bytes) -> Message:
    """The message in one WebSocket message.

    Raises:
        RemoteProtocolError: it is none; the error has the sentence and the close code.
    """
    try:
        return _decode_chunk(data) if isinstance(data, bytes) else _decode_text(data)
    except BadMessage as bad:
        raise RemoteProtocolError(str(bad)) from None


def _decode_chunk(data: bytes) -> Chunk:
    if len(data) <= Chunk.HEADER.size:
        raise BadMessage(f"a binary message of {len(data)} bytes is too short for a chunk")
    transfer, offset, length, codec, flags, reserved = Chunk.HEADER.unpack_from(data)
    if codec > CODEC_NUMBERS[CODEC_ZSTD] or flags or reserved:
        raise BadMessage("a chunk has an unknown codec or a flag that must be zero")
    payload = memoryview(data)[Chunk.HEADER.size :]
    if codec == CODEC_NUMBERS[CODEC_ZSTD]:
        return Chunk(UUID(bytes=transfer), offset, payload, CODEC_ZSTD, length)
    if length != len(payload):
        raise BadMessage(f"a chunk says it carries {length} bytes and carries {len(payload)}")
    return Chunk(UUID(bytes=transfer), offset, payload)


def _decode_text(data: str) -> Message:
    _check_length("text", data, MAX_TEXT)
    values = _parse_json(data)
    if not isinstance(values, dict):
        raise BadMessage("a message is a JSON object")
    kind = values.get("type")
    cls = TEXT_MESSAGES.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise BadMessage("a message of an unknown type")
    _check_length(cls.kind, data, LONGEST[cls])
    return _build(cls, values)


def _check_length(kind: str, data: str, most: int) -> None:
    if len(data) > most:
        raise RemoteProtocolError(
            f"a {kind} message of {len(data)} characters; at most {most}",
            CloseCode.POLICY_VIOLATION,
        )


def _parse_json(data: str) -> object:
    """The value in a text whose depth was looked at before any parser trusts it."""
    try:
        if _depth(data) > MAX_DEPTH:
            raise ValueError("nested too deeply")
        return json.loads(
            data,
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_fraction,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError):  # RecursionError: should the parser count otherwise
        raise RemoteProtocolError("not a JSON message", CloseCode.INVALID_DATA) from None


def _depth(data: str) -> int:
    """How deep lists and objects are in one another at most, in linear time."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub("", data)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """RFC 8259 leaves open which of two equal keys counts: two readers could read two messages."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key twice")
    return values


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("too long a number")
    return int(digits)


def _fraction(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("too large a number")
    return number


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _build(cls: type[Message], values: dict[str, Any]) -> Message:
    """An instance of cls from a JSON object: lists become tuples, UUIDs are parsed."""
    known = {f.name: _parse(f.name, values[f.name]) for f in fields(cls) if f.name in values}
    required = {f.name for f in fields(cls) if f.default is MISSING}
    if lacking := sorted(required - known.keys()):
        raise BadMessage(f"{cls.kind} lacks {', '.join(lacking)}")
    return cls(**known)


def _parse(name: str, value: Any) -> Any:
    if name == "transfer" and isinstance(value, str):
        return _uuid(value)
    if name in ("ranges", "codecs"):
        if not isinstance(value, list):
            raise BadMessage(f"{name} must be a list")
        return tuple(_pair(item) if name == "ranges" else item for item in value)
    return value


def _uuid(text: str) -> UUID:
    try:
        parsed = UUID(text)
    except ValueError:
        parsed = None
    if str(parsed) != text.lower():  # Python also takes braces, `urn:uuid:` and dashes anywhere
        raise BadMessage("transfer must be a UUID")
    return UUID(text)


def _pair(item: object) -> tuple[object, object]:
    if not (isinstance(item, list) and len(item) == 2):
        raise BadMessage("ranges must be [offset, length] pairs")
    return item[0], item[1]
