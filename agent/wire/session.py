"""One conversation on one socket, for either end of it.

`Session` is pure: it takes WebSocket messages in and gives them out, and judges both directions by
the tables of `state` and the byte accounts of `Flow`. It does no I/O and never raises for what the
peer does: that comes back as a `Violation`, which the caller carries out.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from uuid import UUID

from .codec import decode, encode
from .errors import CloseCode, LocalProtocolError, RemoteProtocolError
from .messages import (
    CODEC_RAW,
    LEAST_CHUNK,
    MAX_CHUNK,
    PROTOCOL,
    Abort,
    Ack,
    Chunk,
    End,
    Hello,
    Message,
    Offer,
    Renew,
    Renewed,
    Request,
    Start,
    Welcome,
)
from .state import ENDED_BY, OVER, Link, Side, Stage, next_link, next_stage

REMEMBERED = 1024
"""Ended transfers that a session still knows, so that a late message is told from a wrong one."""


@dataclass(frozen=True)
class Violation:
    """The peer broke the rules. Send `farewell`, then close the socket with `close_code`."""

    code: str
    detail: str
    close_code: CloseCode

    @property
    def farewell(self) -> Abort:
        return Abort(None, self.code, self.detail[:200])


@dataclass
class Flow:
    """The byte accounts of one transfer since `start`; both ends keep the same books.

    `moved` counts the source bytes sent (sender) or arrived (receiver), `received` those that the
    receiver has acknowledged, and `limit` how many may be moved before more credit comes.
    """

    ranges: tuple[tuple[int, int], ...]
    size: int
    limit: int
    max_chunk: int = MAX_CHUNK
    least_chunk: int = LEAST_CHUNK
    codec: str = CODEC_RAW
    """What a chunk may have beside `raw`."""
    moved: int = 0
    received: int = 0
    _range: int = 0
    _done: int = 0
    """Bytes of the current range that have moved."""

    def __post_init__(self) -> None:
        last_offset, last_length = self.ranges[-1]
        if last_offset + last_length > self.size:
            raise RemoteProtocolError("start asks for bytes beyond the end of the file")
        self._skip_finished()

    def _skip_finished(self) -> None:
        while self._range < len(self.ranges) and self._done == self.ranges[self._range][1]:
            self._range += 1
            self._done = 0

    @property
    def finished(self) -> bool:
        """Whether every byte asked for has moved."""
        return self._range == len(self.ranges)

    @property
    def offset(self) -> int:
        """Where the next chunk begins; the end of the last range when finished."""
        if self.finished:
            return sum(self.ranges[-1])
        return self.ranges[self._range][0] + self._done

    @property
    def sendable(self) -> int:
        """Bytes of the next chunk at most: 0 when finished, or with too little credit for one."""
        if self.finished:
            return 0
        most = min(self._left_of_range, self.limit - self.moved, self.max_chunk)
        return most if most >= min(self.least_chunk, self._left_of_range) else 0

    @property
    def _left_of_range(self) -> int:
        return self.ranges[self._range][1] - self._done

    def take_chunk(self, chunk: Chunk) -> None:
        """Book a chunk. Raises RemoteProtocolError where it may not be sent."""
        if chunk.codec not in (CODEC_RAW, self.codec):
            raise RemoteProtocolError(f"a chunk in {chunk.codec}; start said {self.codec}")
        if self.finished or chunk.offset != self.offset:
            raise RemoteProtocolError(f"a chunk at {chunk.offset}; expected {self.offset}")
        if chunk.length > min(self.max_chunk, self._left_of_range):
            raise RemoteProtocolError(f"a chunk of {chunk.length} bytes is longer than allowed")
        if chunk.length < min(self.least_chunk, self._left_of_range):
            raise RemoteProtocolError(
                f"a chunk of {chunk.length} bytes that does not end its range is too short"
            )
        if self.moved + chunk.length > self.limit:
            raise RemoteProtocolError(
                f"a chunk goes beyond the limit of {self.limit} bytes", CloseCode.POLICY_VIOLATION
            )
        self.moved += chunk.length
        self._done += chunk.length
        self._skip_finished()

    def take_ack(self, ack: Ack) -> None:
        """Book an acknowledgement. Credit and counts never go back."""
        if not self.received <= ack.received <= self.moved or ack.limit < self.limit:
            raise RemoteProtocolError("an ack takes back credit, or counts what was not sent")
        self.received = ack.received
        self.limit = ack.limit

    def take_end(self, end: End) -> None:
        """Check that the sender ends when, and only when, all has moved."""
        if end.size != self.size:
            raise RemoteProtocolError(f"end says {end.size} bytes; the offer said {self.size}")
        if not self.finished:
            raise RemoteProtocolError(f"end after {self.moved} bytes; more were asked for")


class SourceDigest:
    """SHA-256 of a whole source, fed in order from byte 0 (RFC 6234).

    After a resume both ends first feed the part that they already have, so the digest always
    covers every byte; `position` says up to where.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.position = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._sha256.update(data)
        self.position += len(data)

    def hexdigest(self, size: int) -> str:
        """The digest, once all `size` bytes are in. Raises LocalProtocolError before."""
        if self.position != size:
            raise LocalProtocolError(f"the digest covers {self.position} of {size} bytes")
        return self._sha256.hexdigest()


@dataclass
class Conversation:
    """What a session knows of one transfer."""

    stage: Stage = Stage.IDLE
    before: Stage = Stage.IDLE
    """Of one that has ended: where it is for the side that may not have heard of that yet."""
    path: str | None = None
    name: str = ""
    size: int = 0
    flow: Flow | None = field(default=None, repr=False)

    def late(self, speaker: Side, message: Message) -> Stage | None:
        """Where a message leads that was overtaken by the end; None where it is none of these."""
        if ENDED_BY.get(self.stage) is not speaker.peer:
            return None
        return next_stage(self.before, speaker, message)


class Session:
    """One end of a conversation.

    Verbs: `send` turns a message of ours into what goes on the socket; `receive` turns what came from
    the socket into a message, a `Violation`, or None for a message that came too late to matter.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self.link = Link.NEW
        self.max_chunk = MAX_CHUNK
        self.least_chunk = LEAST_CHUNK
        self.codecs: frozenset[str] = frozenset()
        """What the agent can send in, once it has said hello."""
        self._renewable = False
        self._renewing: str | None = None
        """SHA-256 of the token in a `renew` that was not answered yet."""
        self._live: dict[UUID, Conversation] = {}
        self._ended: OrderedDict[UUID, Conversation] = OrderedDict()

    def end(self, farewell: Abort) -> str | bytes:
        """End the whole conversation, whatever state it is in; nothing is sent or received after."""
        self.link = Link.CLOSED
        return encode(farewell)

    @property
    def open_transfers(self) -> frozenset[UUID]:
        """Transfers whose conversation has begun and not ended."""
        return frozenset(self._live)

    def stage(self, transfer: UUID) -> Stage:
        return self._conversation(transfer).stage

    def flow(self, transfer: UUID) -> Flow:
        """The byte accounts of a transfer under way. Raises LocalProtocolError before `start`."""
        return self._flow(self._live.get(transfer, Conversation()))

    def _conversation(self, transfer: UUID) -> Conversation:
        return self._live.get(transfer) or self._ended.get(transfer) or Conversation()

    def send(self, message: Message) -> str | bytes:
        """Judge a message of ours and encode it; the caller puts it on the socket, in this order.

        Raises LocalProtocolError: the message is not allowed now; nothing has changed.
        """
        try:
            self._judge(self.side, message)
        except RemoteProtocolError as broken:
            raise LocalProtocolError(broken.detail) from None
        return encode(message)

    def receive(self, data: str | bytes) -> Message | Violation | None:
        """Decode and judge what the peer sent; the caller acts on what comes back.

        A `Violation` ends the conversation: nothing more is to be received.
        """
        try:
            message = decode(data)
            late = not self._judge(self.side.peer, message)
        except RemoteProtocolError as broken:
            self.link = Link.CLOSED
            return Violation("protocol_error", broken.detail, broken.close_code)
        return None if late else message

    def _judge(self, speaker: Side, message: Message) -> bool:
        """Move the state on. False: the peer's message came too late and is to be dropped."""
        transfer = getattr(message, "transfer", None)
        if transfer is None:
            self._judge_link(speaker, message)
            return True
        if self.link is not Link.OPEN:
            raise RemoteProtocolError(f"{message.kind} while the link is {self.link.value}")
        return self._judge_transfer(speaker, transfer, message)

    def _judge_link(self, speaker: Side, message: Message) -> None:
        link = next_link(self.link, speaker, message)
        if link is None:
            raise RemoteProtocolError(
                f"{message.kind} from the {speaker.value} while the link is {self.link.value}"
            )
        if isinstance(message, Hello) and message.protocol != PROTOCOL:
            raise RemoteProtocolError(
                f"the agent speaks {message.protocol[:40]!r}; this server speaks {PROTOCOL}"
            )
        if isinstance(message, Hello):
            self.codecs = frozenset(message.codecs)
        if isinstance(message, Hello | Welcome):
            self.max_chunk = min(self.max_chunk, message.max_chunk)
        self._judge_renewal(message)
        self.link = link

    def _judge_renewal(self, message: Message) -> None:
        """One new token at a time, for an agent that can keep one; confirmed as it was sent."""
        match message:
            case Hello():
                self._renewable = message.renewable
            case Renew():
                if not self._renewable or self._renewing:
                    raise RemoteProtocolError("renew, and the agent cannot keep another token now")
                self._renewing = hashlib.sha256(message.token.encode()).hexdigest()
            case Renewed():
                if message.token_sha256 != self._renewing:
                    raise RemoteProtocolError("renewed with a token that was not sent")
                self._renewing = None

    def _judge_transfer(self, speaker: Side, transfer: UUID, message: Message) -> bool:
        known = self._conversation(transfer)
        stage = next_stage(known.stage, speaker, message)
        if stage is None:
            return self._judge_late(known, speaker, message)
        self._book(known, known.stage, speaker, message)
        known.before, known.stage = known.stage, stage
        self._remember(transfer, known)
        return True

    def _judge_late(self, known: Conversation, speaker: Side, message: Message) -> bool:
        late = known.late(speaker, message) if speaker is not self.side else None
        if late is None:
            raise RemoteProtocolError(
                f"{message.kind} from the {speaker.value} for a transfer that is {known.stage.value}"
            )
        self._book(known, known.before, speaker, message)
        known.before = late
        return False

    def _book(self, known: Conversation, stage: Stage, speaker: Side, message: Message) -> None:
        """Keep the accounts; raises RemoteProtocolError, with nothing changed, where they disagree."""
        if speaker is Side.AGENT:
            self._compare(known, stage, message)
        if isinstance(message, Chunk):
            self._flow(known).take_chunk(message)
        elif isinstance(message, Ack):
            self._flow(known).take_ack(message)
        elif isinstance(message, End):
            self._flow(known).take_end(message)
        elif isinstance(message, Request):
            known.path, known.flow = message.path, None
        elif isinstance(message, Offer):
            known.name, known.size = message.name, message.size
        elif isinstance(message, Start):
            known.flow = self._started(known, message)

    def _started(self, known: Conversation, start: Start) -> Flow:
        if start.codec not in (CODEC_RAW, *self.codecs):
            raise RemoteProtocolError(f"start in {start.codec}, which the agent did not offer")
        return Flow(
            start.ranges, known.size, start.limit, self.max_chunk, self.least_chunk, start.codec
        )

    @staticmethod
    def _compare(known: Conversation, stage: Stage, message: Message) -> None:
        """What an agent repeats must be what was said, or it was garbled on the way.

        `stage` is where the agent takes the transfer to be.
        """
        answers = stage is Stage.REQUESTED
        if answers and isinstance(message, Offer | Abort) and message.path != known.path:
            raise RemoteProtocolError("an answer for another path than was asked for")
        if isinstance(message, End) and message.name != known.name:
            raise RemoteProtocolError("end gives another name than the offer")

    @staticmethod
    def _flow(known: Conversation) -> Flow:
        if known.flow is None:  # the table lets no chunk, ack or end pass before `start`
            raise LocalProtocolError("this transfer has not started")
        return known.flow

    def _remember(self, transfer: UUID, known: Conversation) -> None:
        if known.stage not in OVER:
            self._ended.pop(transfer, None)
            self._live[transfer] = known
            return
        self._live.pop(transfer, None)
        known.path = None  # no late message has it, and there are many to remember
        self._ended[transfer] = known
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
