"""Messages to and from what goes over the socket.

Text messages are JSON objects with `type`; binary messages are chunks: a 32-byte header and the
payload. Unknown fields of a known message are ignored, so that a newer peer can add one; unknown
types and bad values are refused with a sentence.
"""

import json
from dataclasses import MISSING, fields
from typing import Any
from uuid import UUID

from .errors import CloseCode, RemoteProtocolError
from .messages import (
    CODEC_NUMBERS,
    CODEC_RAW,
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
    )
}


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
    if codec != CODEC_NUMBERS[CODEC_RAW] or flags or reserved:
        raise BadMessage("a chunk has an unknown codec or a flag that must be zero")
    payload = memoryview(data)[Chunk.HEADER.size :]
    if length != len(payload):
        raise BadMessage(f"a chunk says it carries {length} bytes and carries {len(payload)}")
    return Chunk(UUID(bytes=transfer), offset, payload)


def _decode_text(data: str) -> Message:
    if len(data) > MAX_TEXT:
        raise RemoteProtocolError(
            f"a text message of {len(data)} characters; at most {MAX_TEXT}",
            CloseCode.POLICY_VIOLATION,
        )
    try:
        values = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # RecursionError: nested deeper than the parser goes
        raise RemoteProtocolError("not a JSON message", CloseCode.INVALID_DATA) from None
    if not isinstance(values, dict):
        raise BadMessage("a message is a JSON object")
    kind = values.get("type")
    cls = TEXT_MESSAGES.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise BadMessage("a message of an unknown type")
    return _build(cls, values)


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
