"""What can be said on the wire: one frozen dataclass a message, valid once made.

Sizes and offsets are in bytes. `codec` turns messages into what goes over the socket, and back.
"""

import struct
from dataclasses import dataclass, field
from typing import ClassVar
from uuid import UUID

from .errors import ERRORS

PROTOCOL = "silentmode.v1"
"""The WebSocket subprotocol, and what `hello` must say."""

MAX_CHUNK = 512 * 1024
"""Largest payload of a chunk: with its header well under the 1 MiB at which daphne cuts."""

MIN_CHUNK = 64 * 1024
"""Where a sender starts, and what every peer must accept: short in time on a slow uplink."""

LEAST_CHUNK = 4096
"""Smallest payload of a chunk that does not end its range: what a message costs its receiver is bounded
by the bytes that it brings."""

MAX_TEXT = 64 * 1024
"""Longest text message of any type, in characters; `codec.LONGEST` has what each type may have."""

TRANSFERS_AT_ONCE = 8
"""Of one agent, at most: its operator or the server's may allow fewer."""

LEAST_RATE = 1024
"""Bytes a second, of any limit: what is slower would be taken for what hangs."""

MAX_NAME = 255
MAX_PATH = 4096
MAX_DETAIL = 1000
MAX_FINGERPRINT = 200
MAX_RANGES = 1024
MIN_TOKEN = 32
MAX_TOKEN = 255
MAX_OFFSET = 2**63 - 1
"""Sizes and offsets fit a signed 64-bit integer, as in file systems and databases."""

CODEC_RAW = "raw"
CODEC_ZSTD = "zstd"
"""One whole zstd frame (RFC 8878) in each chunk, independent of all others."""

CODEC_NUMBERS = {CODEC_RAW: 0, CODEC_ZSTD: 1}


class BadMessage(ValueError):
    """A field is missing or has a value that the protocol does not allow."""


def _text(name: str, value: object, most: int, least: int = 0) -> None:
    if not isinstance(value, str):
        raise BadMessage(f"{name} must be a string")
    if not least <= len(value) <= most:
        raise BadMessage(f"{name} must have {least} to {most} characters, not {len(value)}")
    # Neither survives the way to a database or a log: PostgreSQL refuses NUL, UTF-8 a lone surrogate.
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadMessage(f"{name} has a NUL or a lone surrogate in it")


def _path(value: object) -> None:
    if value is not None:
        _text("path", value, most=MAX_PATH, least=1)


def _whole(name: str, value: object, most: int = MAX_OFFSET, least: int = 0) -> None:
    if type(value) is not int:  # a bool is an int to isinstance, and not to the protocol
        raise BadMessage(f"{name} must be a whole number")
    if not least <= value <= most:
        raise BadMessage(f"{name} must be from {least} to {most}, not {value}")


def _rate(value: object) -> None:
    if value is not None:
        _whole("rate_limit", value, least=1)


def _uuid(name: str, value: object) -> None:
    if not isinstance(value, UUID):
        raise BadMessage(f"{name} must be a UUID")


def _digest(name: str, value: object) -> None:
    if not (isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")):
        raise BadMessage(f"{name} must be 64 lower-case hexadecimal digits")


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise BadMessage(f"{name} must be true or false")


def _codec(name: str, value: object) -> None:
    if not isinstance(value, str) or value not in CODEC_NUMBERS:
        raise BadMessage(f"{name} must be one of {sorted(CODEC_NUMBERS)}")


@dataclass(frozen=True)
class Hello:
    """The agent's first message: who it is and what it can do."""

    kind: ClassVar[str] = "hello"
    protocol: str
    agent_version: str
    platform: str
    hostname: str
    codecs: tuple[str, ...] = (CODEC_RAW,)
    max_chunk: int = MAX_CHUNK
    renewable: bool = False
    """Whether the agent can keep a new token, sent in `renew`."""

    def __post_init__(self) -> None:
        _flag("renewable", self.renewable)
        for name in ("protocol", "agent_version", "platform", "hostname"):
            _text(name, getattr(self, name), most=255)
        _whole("max_chunk", self.max_chunk, least=MIN_CHUNK)
        if not 1 <= len(self.codecs) <= 16:
            raise BadMessage("codecs must have 1 to 16 entries")
        for codec in self.codecs:
            _text("codecs", codec, most=32, least=1)


@dataclass(frozen=True)
class Welcome:
    """The server's answer to `hello`. Only after it may transfers begin."""

    kind: ClassVar[str] = "welcome"
    client: str
    heartbeat: int
    """Seconds between two heartbeats of the agent."""
    max_chunk: int
    server_time: str
    """ISO 8601, UTC; for the agent's log, so that two clocks can be compared."""

    def __post_init__(self) -> None:
        _text("client", self.client, most=64, least=1)
        _whole("heartbeat", self.heartbeat, most=3600, least=1)
        _whole("max_chunk", self.max_chunk, most=MAX_CHUNK, least=MIN_CHUNK)
        _text("server_time", self.server_time, most=64)


@dataclass(frozen=True)
class Request:
    """The server asks for a file. The path null stands for the agent's `--file`."""

    kind: ClassVar[str] = "request"
    transfer: UUID
    path: str | None = None
    fingerprint: str | None = None
    """Of the source in an earlier attempt, so that the agent can tell of a change at once."""

    def __post_init__(self) -> None:
        _uuid("transfer", self.transfer)
        _path(self.path)
        if self.fingerprint is not None:
            _text("fingerprint", self.fingerprint, most=MAX_FINGERPRINT)


@dataclass(frozen=True)
class Offer:
    """The agent has opened the file and says what it is. The name is a label, never a path."""

    kind: ClassVar[str] = "offer"
    transfer: UUID
    name: str
    size: int
    mtime_ns: int
    fingerprint: str
    path: str | None = None
    """The request's, again: on a link that flips bits, another file may have been understood."""

    def __post_init__(self) -> None:
        _uuid("transfer", self.transfer)
        _text("name", self.name, most=MAX_NAME)
        _whole("size", self.size)
        _whole("mtime_ns", self.mtime_ns, least=-MAX_OFFSET)
        _path(self.path)
        _text("fingerprint", self.fingerprint, most=MAX_FINGERPRINT, least=1)


@dataclass(frozen=True)
class Start:
    """The server says which ranges to send, and how much of them before it says more."""

    kind: ClassVar[str] = "start"
    transfer: UUID
    ranges: tuple[tuple[int, int], ...]
    """(offset, length) pairs, ascending, not overlapping."""
    limit: int
    """Source bytes, counted from this message, that the agent may send (QUIC's MAX_STREAM_DATA)."""
    codec: str = CODEC_RAW
    """What a chunk may have beside `raw`, which it always may."""
    rate_limit: int | None = None
    """Bytes a second that this transfer may have at most, until an `ack` says otherwise; null: no limit."""

    def __post_init__(self) -> None:
        _uuid("transfer", self.transfer)
        _rate(self.rate_limit)
        _whole("limit", self.limit)
        _codec("codec", self.codec)
        if not 1 <= len(self.ranges) <= MAX_RANGES:
            raise BadMessage(f"ranges must have 1 to {MAX_RANGES} entries")
        position = 0
        for offset, length in self.ranges:
            _whole("ranges", offset, least=position)
            _whole("ranges", length, most=MAX_OFFSET - offset)
            position = offset + length


@dataclass(frozen=True)
class Chunk:
    """A piece of the source. The only binary message.

    The payload of a received one is a view into the message that it came in.
    """

    kind: ClassVar[str] = "chunk"
    transfer: UUID
    offset: int
    payload: bytes | memoryview = field(repr=False)
    """As it is on the wire."""
    codec: str = CODEC_RAW
    unpacked: int | None = None
    """Source bytes in a compressed payload, which must be fewer on the wire; None: it is raw."""

    HEADER: ClassVar[struct.Struct] = struct.Struct("!16sQIBBH")

    def __post_init__(self) -> None:
        _uuid("transfer", self.transfer)
        _whole("offset", self.offset, most=MAX_OFFSET - MAX_CHUNK)
        _codec("codec", self.codec)
        try:
            view = memoryview(self.payload)
            bytewise = view.itemsize == view.ndim == 1
        except TypeError:
            bytewise = False
        if not bytewise:
            raise BadMessage("payload must be bytes, or a view of bytes")
        self._check_length()

    def _check_length(self) -> None:
        if not 1 <= len(self.payload) <= MAX_CHUNK:
            raise BadMessage(f"a chunk carries 1 to {MAX_CHUNK} bytes, not {len(self.payload)}")
        if (self.codec == CODEC_RAW) is not (self.unpacked is None):
            raise BadMessage("a chunk has a length of its own if, and only if, it is compressed")
        if self.unpacked is not None:
            _whole("length", self.unpacked, most=MAX_CHUNK)
            if len(self.payload) >= self.unpacked:
                raise BadMessage("a chunk that compression makes no shorter must be raw")

    @property
    def length(self) -> int:
        """Source bytes in this chunk: what all accounts count."""
        return len(self.payload) if self.unpacked is None else self.unpacked


@dataclass(frozen=True)
class Ack:
    """The server has written. Counts are source bytes since `start`; the checkpoint is an offset.

    One with the counts of the last one only tells another rate limit.
    """

    kind: ClassVar[str] = "ack"
    transfer: UUID
    received: int
    limit: int
    checkpoint: int
    rate_limit: int | None = None
    """In force from now on, as in `start`."""

    def __post_init__(self) -> None:
        _uuid("transfer", self.transfer)
        _rate(self.rate_limit)
        _whole("received", self.received)
        _whole("limit", self.limit, least=self.received)
        _whole("checkpoint", self.checkpoint)


@dataclass(frozen=True)
class End:
    """The agent has sent all it was asked for; size, digest and fingerprint are of the whole source.

    Name, size and fingerprint are the offer's, or what arrived is not what was sent.
    """

    kind: ClassVar[str] = "end"
    transfer: UUID
    size: int
    sha256: str
    fingerprint: str
    """Taken again after the last read."""
    name: str

    def __post_init__(self) -> None:
        _uuid("transfer", self.transfer)
        _text("name", self.name, most=MAX_NAME)
        _whole("size", self.size)
        _digest("sha256", self.sha256)
        _text("fingerprint", self.fingerprint, most=MAX_FINGERPRINT, least=1)


@dataclass(frozen=True)
class Landed:
    """The file is verified, synced and renamed, and the row says `completed`."""

    kind: ClassVar[str] = "landed"
    transfer: UUID
    sha256: str

    def __post_init__(self) -> None:
        _uuid("transfer", self.transfer)
        _digest("sha256", self.sha256)


@dataclass(frozen=True)
class Abort:
    """One transfer ends here, or, with `transfer` null, the whole conversation."""

    kind: ClassVar[str] = "abort"
    transfer: UUID | None
    code: str
    detail: str = ""
    path: str | None = None
    """The request's, again, where an agent refuses it: a garbled one may have been refused."""

    def __post_init__(self) -> None:
        if self.transfer is not None:
            _uuid("transfer", self.transfer)
        _path(self.path)
        if str(self.code) not in ERRORS:
            raise BadMessage("code is not in the table of error codes")
        _text("detail", self.detail, most=MAX_DETAIL)


@dataclass(frozen=True)
class Cancel:
    """The server wants no more of this transfer; the agent confirms with `abort`."""

    kind: ClassVar[str] = "cancel"
    transfer: UUID

    def __post_init__(self) -> None:
        _uuid("transfer", self.transfer)


@dataclass(frozen=True)
class Heartbeat:
    """I am here. Sent by the agent, answered in kind by the server."""

    kind: ClassVar[str] = "heartbeat"


@dataclass(frozen=True)
class Renew:
    """A new token for the agent, to be kept before anything is answered; the old one still works."""

    kind: ClassVar[str] = "renew"
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        _text("token", self.token, most=MAX_TOKEN, least=MIN_TOKEN)
        if not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise BadMessage("token must be printable ASCII without spaces")


@dataclass(frozen=True)
class Renewed:
    """The agent has the new token on its disk: from now on it is the only one."""

    kind: ClassVar[str] = "renewed"
    token_sha256: str

    def __post_init__(self) -> None:
        _digest("token_sha256", self.token_sha256)


Message = (
    Hello
    | Welcome
    | Request
    | Offer
    | Start
    | Chunk
    | Ack
    | End
    | Landed
    | Abort
    | Cancel
    | Heartbeat
    | Renew
    | Renewed
)
