"""WebSocket frames of an agent, as they are on the wire (RFC 6455, section 5.2)."""

from agent.wire.codec import encode
from agent.wire.messages import Heartbeat
from transfers.unmasking import unmasked

MASK = b"\x01\x02\x03\x04"


def text_frame(text: bytes) -> bytes:
    """A short message, masked."""
    return bytes((0x81, 0x80 | len(text))) + MASK + unmasked(text, MASK)


HEARTBEAT = text_frame(str(encode(Heartbeat())).encode())
