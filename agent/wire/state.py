"""When each message may be said, and by whom: every transition of the protocol, as data.

This file owns the transitions; nobody outside sets a state. One table judges both ends: what we
send is looked up exactly as what we receive is, so our own mistakes are caught as hard as theirs.
A look-up that fails names the state and the message.

A transfer's conversation::

    IDLE --request--> REQUESTED --offer--> OFFERED --start--> SENDING --end--> ENDED --landed--> LANDED
                                                              chunk, ack       ack

* The agent ends it with `abort`, which needs no answer: CLOSED.
* The server ends it with `cancel` or `abort`: STOPPING, until the agent confirms with `abort`. Only
  then may the server ask again, so that chunks still on their way can never be taken for new ones.
* Both ends speak at once, so a message may be overtaken by the end of its conversation. Until the side
  that did not end it has heard of that, what it says is judged by the table as before, byte accounts
  and all, and dropped without a word: so nothing comes more often late than it may in time.
* Of the texts of an agent, only a heartbeat may be said unasked and again and again (its receiver
  counts them, `transfers.allowance`); every other one moves a state on, and no circle of moves is
  without a message of the server. A test holds that.
* There is no repeating a `request`: the socket loses nothing. A server that gets no answer cancels,
  waits for the confirmation and asks anew.
"""

from collections.abc import Mapping
from enum import Enum

from .messages import (
    Abort,
    Ack,
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


class Side(Enum):
    """Who speaks."""

    AGENT = "agent"
    SERVER = "server"

    @property
    def peer(self) -> "Side":
        return Side.SERVER if self is Side.AGENT else Side.AGENT


class Link(Enum):
    """The conversation as a whole."""

    NEW = "new"
    GREETED = "greeted"
    OPEN = "open"
    CLOSED = "closed"


class Stage(Enum):
    """The conversation about one transfer."""

    IDLE = "idle"
    REQUESTED = "requested"
    OFFERED = "offered"
    SENDING = "sending"
    ENDED = "ended"
    STOPPING = "stopping"
    LANDED = "landed"
    CLOSED = "closed"
    """Ended without landing; the server may ask again."""


Moves = Mapping[Side, Mapping[type[Message], Stage]]

LINK_MOVES: Mapping[Link, Mapping[Side, Mapping[type[Message], Link]]] = {
    Link.NEW: {
        Side.AGENT: {Hello: Link.GREETED},
        Side.SERVER: {Abort: Link.CLOSED},
    },
    Link.GREETED: {
        Side.AGENT: {Abort: Link.CLOSED},
        Side.SERVER: {Welcome: Link.OPEN, Abort: Link.CLOSED},
    },
    Link.OPEN: {
        Side.AGENT: {Heartbeat: Link.OPEN, Renewed: Link.OPEN, Abort: Link.CLOSED},
        Side.SERVER: {Heartbeat: Link.OPEN, Renew: Link.OPEN, Abort: Link.CLOSED},
    },
    Link.CLOSED: {},
}

_SERVER_STOPS: Mapping[type[Message], Stage] = {Cancel: Stage.STOPPING, Abort: Stage.STOPPING}

STAGE_MOVES: Mapping[Stage, Moves] = {
    Stage.IDLE: {Side.SERVER: {Request: Stage.REQUESTED}},
    Stage.REQUESTED: {
        Side.SERVER: _SERVER_STOPS,
        Side.AGENT: {Offer: Stage.OFFERED, Abort: Stage.CLOSED},
    },
    Stage.OFFERED: {
        Side.SERVER: {Start: Stage.SENDING, **_SERVER_STOPS},
        Side.AGENT: {Abort: Stage.CLOSED},
    },
    Stage.SENDING: {
        Side.SERVER: {Ack: Stage.SENDING, **_SERVER_STOPS},
        Side.AGENT: {Chunk: Stage.SENDING, End: Stage.ENDED, Abort: Stage.CLOSED},
    },
    Stage.ENDED: {
        Side.SERVER: {Ack: Stage.ENDED, Landed: Stage.LANDED, **_SERVER_STOPS},
        Side.AGENT: {Abort: Stage.CLOSED},
    },
    Stage.STOPPING: {Side.AGENT: {Abort: Stage.CLOSED}},
    Stage.LANDED: {},
    Stage.CLOSED: {Side.SERVER: {Request: Stage.REQUESTED}},
}

OVER = frozenset({Stage.LANDED, Stage.CLOSED})

ENDED_BY: Mapping[Stage, Side] = {
    Stage.STOPPING: Side.SERVER,
    Stage.LANDED: Side.SERVER,
    Stage.CLOSED: Side.AGENT,
}
"""Whose message led there. The other side may not have heard of it yet, and speaks from the stage before."""


def next_link(link: Link, speaker: Side, message: Message) -> Link | None:
    """The link after this message, or None where the table does not allow it."""
    return LINK_MOVES[link].get(speaker, {}).get(type(message))


def next_stage(stage: Stage, speaker: Side, message: Message) -> Stage | None:
    """The transfer's stage after this message, or None where the table does not allow it."""
    return STAGE_MOVES[stage].get(speaker, {}).get(type(message))
