"""One end of a conversation: what it accepts, what it refuses, and what it forgets."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from uuid import UUID

import pytest

from agent.wire.codec import decode, encode
from agent.wire.errors import CloseCode, LocalProtocolError
from agent.wire.messages import (
    LEAST_CHUNK,
    MAX_CHUNK,
    MIN_CHUNK,
    PROTOCOL,
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
from agent.wire.session import REMEMBERED, Session, Violation
from agent.wire.state import ENDED_BY, Link, Side, Stage

from .test_messages import DIGEST, EXAMPLES, TRANSFER
from .test_state import EVERY_MESSAGE, LINKS, STAGES, name, table

HELLO, WELCOME, HEARTBEAT = EXAMPLES[Hello], EXAMPLES[Welcome], Heartbeat()
REQUEST, START, END = Request(TRANSFER), Start(TRANSFER, ((0, 10),), 20), EXAMPLES[End]
OFFER, CANCEL, LANDED = EXAMPLES[Offer], Cancel(TRANSFER), Landed(TRANSFER, DIGEST)
CHUNK, ACK = Chunk(TRANSFER, 0, bytes(10)), Ack(TRANSFER, 0, 20, 0)
CONFIRM = Abort(TRANSFER, "cancelled")
REFUSAL = Abort(TRANSFER, "not_found")
GOODBYE = Abort(None, "internal")

AGENT_SAYS = (Hello, Offer, Chunk, End, Renewed)
PATHS: dict[Stage, list[Message]] = {
    Stage.IDLE: [],
    Stage.REQUESTED: [REQUEST],
    Stage.OFFERED: [REQUEST, OFFER],
    Stage.SENDING: [REQUEST, OFFER, START],
    Stage.ENDED: [REQUEST, OFFER, START, CHUNK, END],
    Stage.STOPPING: [REQUEST, CANCEL],
    Stage.LANDED: [REQUEST, OFFER, START, CHUNK, END, LANDED],
    Stage.CLOSED: [REQUEST, REFUSAL],
}
BEFORE = {Stage.STOPPING: "requested", Stage.LANDED: "ended", Stage.CLOSED: "requested"}
"""Where the paths that end a transfer come from: there its other side may believe it to be still."""
LINK_PATHS: dict[Link, list[Message]] = {
    Link.NEW: [],
    Link.GREETED: [HELLO],
    Link.OPEN: [HELLO, WELCOME],
    Link.CLOSED: [HELLO, WELCOME, GOODBYE],
}


def speaker_of(message: Message) -> Side:
    """Who says it in the paths above; there it is the server that says goodbye."""
    agent = isinstance(message, AGENT_SAYS) or message in (REFUSAL, CONFIRM)
    return Side.AGENT if agent else Side.SERVER


def say(session: Session, *messages: Message) -> None:
    """Let this session send or receive what must be allowed."""
    for message in messages:
        if speaker_of(message) is session.side:
            assert decode(session.send(message)) == message
        else:
            assert session.receive(encode(message)) == message


def opened(side: Side, stage: Stage = Stage.IDLE) -> Session:
    session = Session(side)
    say(session, HELLO, WELCOME, *PATHS[stage])
    return session


def violation(session: Session, message: Message | str | bytes) -> Violation:
    """What comes of receiving this, which must be a violation."""
    data = message if isinstance(message, str | bytes) else encode(message)
    found = session.receive(data)
    assert isinstance(found, Violation)
    assert session.link is Link.CLOSED
    return found


def refused(session: Session, message: Message) -> None:
    """This may not be sent, and trying has changed nothing."""
    before = state_of(session)
    with pytest.raises(LocalProtocolError):
        session.send(message)
    assert state_of(session) == before


def state_of(session: Session) -> tuple[object, ...]:
    flows = {
        each: repr(session.flow(each))
        for each in session.open_transfers
        if session.stage(each) in (Stage.SENDING, Stage.ENDED)
    }
    stages = {each: session.stage(each) for each in {*session.open_transfers, TRANSFER}}
    return session.link, session.max_chunk, stages, flows


SIDES = pytest.mark.parametrize("side", Side, ids=name)
TRANSFER_MESSAGES = [each for each in EVERY_MESSAGE if hasattr(each, "transfer")]


@pytest.mark.parametrize(("side", "stage"), list(product(Side, Stage)), ids=name)
def test_a_session_receives_what_the_table_allows_and_nothing_else(
    side: Side, stage: Stage
) -> None:
    for message in TRANSFER_MESSAGES:
        session = opened(side, stage)
        if stage is Stage.SENDING and isinstance(message, End):
            session = opened(side, Stage.SENDING)
            say(session, CHUNK)
        fitting = ACK if isinstance(message, Ack) else message
        key = (stage.value, side.peer.value, message.kind)
        overtaken = ENDED_BY.get(stage) is side and (BEFORE[stage], *key[1:]) in table(STAGES)
        if after := table(STAGES).get(key):
            assert session.receive(encode(fitting)) == fitting
            assert session.stage(TRANSFER).value == after
        elif overtaken:
            before = state_of(session)
            assert session.receive(encode(fitting)) is None
            assert state_of(session) == before
        else:
            detail = violation(session, fitting).detail
            assert stage.value in detail
            assert message.kind in detail


STOPPABLE = (Stage.REQUESTED, Stage.OFFERED, Stage.SENDING, Stage.ENDED)


@pytest.mark.parametrize("ending", [CANCEL, Abort(TRANSFER, "internal")], ids=name)
@pytest.mark.parametrize("before", STOPPABLE, ids=name)
def test_what_a_stop_overtakes_is_what_the_agent_could_say_before_it(
    before: Stage, ending: Message
) -> None:
    for message in (OFFER, CHUNK, END):
        session = opened(Side.SERVER, before)
        if before is Stage.SENDING and message is END:
            say(session, CHUNK)
        session.send(ending)
        if (before.value, "agent", message.kind) in table(STAGES):
            assert session.receive(encode(message)) is None
            assert session.stage(TRANSFER) is Stage.STOPPING
        else:
            violation(session, message)


def sending(limit: int) -> Session:
    """A server that has given so much credit for 1 MiB, and stopped."""
    session = opened(Side.SERVER)
    say(session, REQUEST, Offer(TRANSFER, "file.txt", 2 * MAX_CHUNK, 0, "1-2-3"))
    say(session, Start(TRANSFER, ((0, 2 * MAX_CHUNK),), limit))
    say(session, CANCEL)
    return session


def test_late_chunks_stay_within_the_credit() -> None:
    session = sending(limit=MAX_CHUNK)
    assert session.receive(encode(Chunk(TRANSFER, 0, bytes(MAX_CHUNK)))) is None
    found = violation(session, Chunk(TRANSFER, MAX_CHUNK, bytes(LEAST_CHUNK)))
    assert found.close_code is CloseCode.POLICY_VIOLATION


def test_late_chunks_are_no_shorter_than_others() -> None:
    violation(sending(limit=MAX_CHUNK), Chunk(TRANSFER, 0, b"x"))


def test_what_is_late_comes_once() -> None:
    session = opened(Side.SERVER, Stage.STOPPING)
    assert session.receive(encode(OFFER)) is None
    violation(session, OFFER)
    session = opened(Side.SERVER, Stage.SENDING)
    say(session, CHUNK, CANCEL)
    assert session.receive(encode(END)) is None
    violation(session, END)
    session = opened(Side.SERVER, Stage.LANDED)
    assert session.receive(encode(REFUSAL)) is None
    violation(session, REFUSAL)


def test_an_agent_that_aborted_hears_what_the_server_had_said_before_and_each_once() -> None:
    session = opened(Side.AGENT, Stage.ENDED)
    say(session, CONFIRM)
    assert session.receive(encode(Ack(TRANSFER, 10, 20, 0))) is None
    assert session.receive(encode(LANDED)) is None
    violation(session, LANDED)


@pytest.mark.parametrize(("side", "stage"), list(product(Side, Stage)), ids=name)
def test_a_session_sends_what_the_table_allows_and_nothing_else(side: Side, stage: Stage) -> None:
    """What would be late from the peer is a mistake of ours."""
    for message in TRANSFER_MESSAGES:
        session = opened(side, stage)
        if stage is Stage.SENDING and isinstance(message, End):
            say(session, CHUNK)
        fitting = ACK if isinstance(message, Ack) else message
        if after := table(STAGES).get((stage.value, side.value, message.kind)):
            assert session.send(fitting) == encode(fitting)
            assert session.stage(TRANSFER).value == after
        else:
            refused(session, fitting)


@pytest.mark.parametrize(("side", "link"), list(product(Side, Link)), ids=name)
def test_greetings_and_goodbyes_come_in_their_order(side: Side, link: Link) -> None:
    for speaker, message in product(Side, (HELLO, WELCOME, HEARTBEAT, GOODBYE)):
        session = Session(side)
        say(session, *LINK_PATHS[link])
        after = table(LINKS).get((link.value, speaker.value, message.kind))
        if after and speaker is side:
            assert session.send(message) == encode(message)
        elif after:
            assert session.receive(encode(message)) == message
        elif speaker is side:
            refused(session, message)
        else:
            violation(session, message)
        assert session.link.value == (after or ("closed" if speaker is not side else link.value))


@SIDES
def test_no_transfer_before_the_link_is_open_nor_after(side: Side) -> None:
    for link in (Link.NEW, Link.GREETED, Link.CLOSED):
        for message in TRANSFER_MESSAGES:
            session = Session(side)
            say(session, *LINK_PATHS[link])
            refused(session, message)
            violation(session, message)


@SIDES
def test_only_an_abort_may_speak_of_the_whole_conversation(side: Side) -> None:
    violation(opened(side), '{"type":"cancel","transfer":null}')
    assert opened(side).receive(encode(GOODBYE)) == GOODBYE


def test_another_version_of_the_protocol_is_refused() -> None:
    hello = Hello("silentmode.v2", "9.0", "linux", "host")
    found = violation(Session(Side.SERVER), hello)
    assert "silentmode.v2" in found.detail
    assert "silentmode.v1" in found.detail
    refused(Session(Side.AGENT), hello)


@SIDES
def test_the_smaller_max_chunk_is_agreed(side: Side) -> None:
    sizes = (MIN_CHUNK, MIN_CHUNK + 1, MAX_CHUNK)
    for agents, servers in product((*sizes, 2 * MAX_CHUNK), sizes):
        session = Session(side)
        say(session, Hello("silentmode.v1", "", "", "", max_chunk=agents))
        say(session, Welcome("client1", 15, servers, ""))
        assert session.max_chunk == min(agents, servers, MAX_CHUNK)


@pytest.mark.parametrize("understood", [None, "/var/log/pot.log"])
def test_an_offer_for_another_path_than_was_asked_for_is_refused(understood: str | None) -> None:
    """A link that flips bits may have made another request of ours; a digest would not tell."""
    session = Session(Side.SERVER)
    say(session, HELLO, WELCOME, Request(TRANSFER, "/var/log/pos.log"))
    violation(session, Offer(TRANSFER, "pos.log", 10, 0, "1", understood))


@pytest.mark.parametrize("understood", [None, "/var/log/pot.log"])
def test_a_refusal_of_another_path_than_was_asked_for_is_refused(understood: str | None) -> None:
    session = Session(Side.SERVER)
    say(session, HELLO, WELCOME, Request(TRANSFER, "/var/log/pos.log"))
    violation(session, Abort(TRANSFER, "not_found", path=understood))


def test_an_end_that_gives_another_name_than_the_offer_is_refused() -> None:
    session = Session(Side.SERVER)
    say(session, HELLO, WELCOME, REQUEST, OFFER, START, CHUNK)
    violation(session, End(TRANSFER, 10, DIGEST, "1-2-3", "fime.txt"))


def test_a_transfer_keeps_to_the_max_chunk_agreed() -> None:
    session = Session(Side.SERVER)
    say(session, HELLO, Welcome("client1", 15, MIN_CHUNK, ""), REQUEST)
    say(session, Offer(TRANSFER, "big", 2 * MAX_CHUNK, 0, "1"))
    say(session, Start(TRANSFER, ((0, 2 * MAX_CHUNK),), 2 * MAX_CHUNK))
    assert session.flow(TRANSFER).sendable == MIN_CHUNK
    violation(session, Chunk(TRANSFER, 0, bytes(MIN_CHUNK + 1)))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("", CloseCode.INVALID_DATA),
        ("{}", CloseCode.PROTOCOL_ERROR),
        (b"", CloseCode.PROTOCOL_ERROR),
        ("[" * 100_000, CloseCode.POLICY_VIOLATION),
        (encode(Start(TRANSFER, ((0, 1),), 1)), CloseCode.PROTOCOL_ERROR),
    ],
    ids=["no json", "no type", "no chunk", "too long", "out of turn"],
)
@SIDES
def test_bad_data_is_a_violation_and_never_raises(
    side: Side, data: str | bytes, code: CloseCode
) -> None:
    found = violation(opened(side), data)
    assert found.close_code is code
    assert found.code == "protocol_error"


@SIDES
def test_nothing_is_sent_or_received_after_a_violation(side: Side) -> None:
    session = opened(side, Stage.SENDING)
    violation(session, "")
    refused(session, HEARTBEAT)
    violation(session, HEARTBEAT)


def test_a_chunk_beyond_the_limit_closes_with_4008() -> None:
    session = opened(Side.SERVER, Stage.OFFERED)
    say(session, Start(TRANSFER, ((0, 10),), 9))
    assert violation(session, CHUNK).close_code == 4008


def test_our_own_wrong_accounts_are_refused_and_change_nothing() -> None:
    agent, server = opened(Side.AGENT, Stage.SENDING), opened(Side.SERVER, Stage.OFFERED)
    refused(agent, Chunk(TRANSFER, 5, b"x"))
    refused(agent, Chunk(TRANSFER, 0, bytes(11)))
    refused(agent, END)
    refused(server, Start(TRANSFER, ((5, 6),), 20))
    say(server, START)
    refused(server, Ack(TRANSFER, 1, 20, 0))
    refused(server, Ack(TRANSFER, 0, 19, 0))
    for session in (agent, server):
        say(session, CHUNK)
        assert session.flow(TRANSFER).finished


@SIDES
def test_a_long_farewell_is_cut_and_fits(side: Side) -> None:
    found = Violation("protocol_error", "x" * 5000, CloseCode.PROTOCOL_ERROR)
    assert found.farewell == Abort(None, "protocol_error", "x" * 200)
    assert isinstance(opened(side).receive(encode(found.farewell)), Abort)


@pytest.mark.parametrize(
    "data",
    [
        f'{{"type":"ack","transfer":"{TRANSFER}","received":1,"limit":0,"checkpoint":{"9" * 4300}}}',
        '{"type":"hello","protocol":"\U0001f600\\u0007","agent_version":"","platform":"",'
        '"hostname":"","codecs":["raw"],"max_chunk":65536}',
        '{"type":"\\ud800\\u0000"}',
        '{"type":"start","transfer":"\\ud800"}',
    ],
    ids=["a long number", "a strange protocol", "a strange type", "a strange transfer"],
)
@SIDES
def test_every_violation_has_a_farewell_that_can_be_sent(side: Side, data: str) -> None:
    """Whatever the peer said, repeating it in a sentence makes no bad message of ours."""
    session = Session(side)
    farewell = violation(session, data).farewell
    assert decode(session.end(farewell)) == farewell


@pytest.mark.parametrize(("side", "link"), list(product(Side, Link)), ids=name)
def test_a_conversation_can_be_ended_in_any_state(side: Side, link: Link) -> None:
    session = Session(side)
    say(session, *LINK_PATHS[link])
    assert session.end(GOODBYE) == encode(GOODBYE)
    assert session.link is Link.CLOSED
    refused(session, HEARTBEAT)


@SIDES
def test_open_transfers_are_those_begun_and_not_ended(side: Side) -> None:
    session = opened(side)
    other = UUID(int=1)
    assert session.open_transfers == frozenset()
    say(session, REQUEST, Request(other))
    assert session.open_transfers == {TRANSFER, other}
    say(session, CANCEL)
    assert session.open_transfers == {TRANSFER, other}
    say(session, CONFIRM)
    assert session.open_transfers == {other}


@SIDES
def test_transfers_do_not_touch_one_another(side: Side) -> None:
    session = opened(side, Stage.SENDING)
    other = UUID(int=1)
    say(session, Request(other), Offer(other, "b", 5, 0, "1"), Start(other, ((0, 5),), 5))
    say(session, Chunk(other, 0, bytes(5)))
    assert session.flow(other).finished
    assert session.flow(TRANSFER).moved == 0
    say(session, CHUNK, END, LANDED)
    assert session.stage(other) is Stage.SENDING


@SIDES
def test_a_landed_transfer_is_not_open_and_not_asked_for_again(side: Side) -> None:
    session = opened(side, Stage.LANDED)
    assert session.open_transfers == frozenset()
    if side is Side.SERVER:
        refused(session, REQUEST)
        assert session.receive(encode(REFUSAL)) is None
        assert session.stage(TRANSFER) is Stage.LANDED
    else:
        violation(session, REQUEST)


def test_an_agent_aborts_a_transfer_once() -> None:
    violation(opened(Side.SERVER, Stage.CLOSED), REFUSAL)


@SIDES
def test_a_stopped_transfer_may_be_asked_for_again_once_confirmed(side: Side) -> None:
    """Its accounts begin anew."""
    session = opened(side, Stage.SENDING)
    say(session, CHUNK, CANCEL, CONFIRM, REQUEST, Offer(TRANSFER, "file.txt", 20, 0, "1"))
    say(session, Start(TRANSFER, ((10, 10),), 5))
    flow = session.flow(TRANSFER)
    assert (flow.offset, flow.moved, flow.received, flow.limit) == (10, 0, 0, 5)


@pytest.mark.parametrize(
    "stage", [Stage.IDLE, Stage.REQUESTED, Stage.OFFERED, Stage.LANDED, Stage.CLOSED]
)
@SIDES
def test_there_are_no_accounts_before_start(side: Side, stage: Stage) -> None:
    with pytest.raises(LocalProtocolError):
        opened(side, stage).flow(TRANSFER)


def ended_one_by_one(session: Session, count: int, first: int = 0) -> Iterator[UUID]:
    for number in range(first, first + count):
        transfer = UUID(int=number)
        say(session, Request(transfer))
        farewell = Abort(transfer, "not_found")
        if session.side is Side.AGENT:
            session.send(farewell)
        else:
            session.receive(encode(farewell))
        yield transfer


def landed_one_by_one(session: Session, count: int) -> Iterator[UUID]:
    for number in range(count):
        transfer = UUID(int=number)
        say(session, Request(transfer), Offer(transfer, "empty", 0, 0, "1"))
        say(session, Start(transfer, ((0, 0),), 0), End(transfer, 0, DIGEST, "1", "empty"))
        say(session, Landed(transfer, DIGEST))
        yield transfer


@pytest.mark.parametrize(
    ("side", "end_all", "stage"),
    [
        (Side.AGENT, ended_one_by_one, Stage.CLOSED),
        (Side.SERVER, landed_one_by_one, Stage.LANDED),
    ],
    ids=["agent", "server"],
)
def test_ended_transfers_are_remembered_but_not_for_ever(
    side: Side, end_all: Callable[[Session, int], Iterator[UUID]], stage: Stage
) -> None:
    """The memory that a session needs is bounded, however many transfers it has seen."""
    session = opened(side)
    ended = list(end_all(session, REMEMBERED + 3))
    assert session.open_transfers == frozenset()
    assert [session.stage(each) for each in ended[:3]] == [Stage.IDLE] * 3
    assert {session.stage(each) for each in ended[3:]} == {stage}
    assert len(session._ended) == REMEMBERED
    late = Abort(ended[3], "cancelled")
    assert session.receive(encode(late)) is None
    violation(session, Abort(ended[2], "cancelled"))


@SIDES
def test_a_transfer_asked_for_again_is_remembered_from_its_last_end(side: Side) -> None:
    session = opened(side, Stage.CLOSED)
    for _ in ended_one_by_one(session, REMEMBERED - 1):
        pass
    say(session, REQUEST, REFUSAL)
    for _ in ended_one_by_one(session, REMEMBERED - 1, first=REMEMBERED):
        pass
    assert session.stage(TRANSFER) is Stage.CLOSED


# A new token ------------------------------------------------------------------------------------

RENEWABLE = Hello("silentmode.v1", "", "", "", renewable=True)
RENEW = Renew("t" * 43)
RENEWED = Renewed(hashlib.sha256(b"t" * 43).hexdigest())


@SIDES
def test_a_new_token_is_confirmed_by_its_digest(side: Side) -> None:
    session = Session(side)
    say(session, RENEWABLE, WELCOME)
    for _ in range(2):
        say(session, RENEW, RENEWED)


@SIDES
def test_an_agent_that_cannot_keep_a_token_is_sent_none(side: Side) -> None:
    """Nor is one of an older version, which would not know what it is."""
    session = Session(side)
    say(session, HELLO, WELCOME)
    if side is Side.SERVER:
        refused(session, RENEW)
    else:
        violation(session, RENEW)


@SIDES
def test_a_second_token_before_the_first_is_confirmed_is_refused(side: Side) -> None:
    session = Session(side)
    say(session, RENEWABLE, WELCOME, RENEW)
    if side is Side.SERVER:
        refused(session, RENEW)
    else:
        violation(session, RENEW)


@pytest.mark.parametrize("first", [[], [RENEW], [RENEW, RENEWED]], ids=["none", "other", "again"])
def test_a_token_that_was_not_sent_cannot_be_confirmed(first: list[Message]) -> None:
    session = Session(Side.SERVER)
    say(session, RENEWABLE, WELCOME, *first)
    violation(session, RENEWED if RENEWED in first or not first else Renewed(DIGEST))


def test_a_token_is_in_no_representation() -> None:
    assert "ttt" not in repr(RENEW)


# What chunks are sent in

ZSTD_HELLO = Hello(PROTOCOL, "0.1.0", "linux", "host", codecs=("zstd", "raw"))
ZSTD_START = replace(START, codec="zstd")
ZSTD_CHUNK = Chunk(TRANSFER, 0, b"x", "zstd", 10)


@SIDES
def test_a_chunk_may_be_compressed_or_raw_where_start_says_zstd(side: Side) -> None:
    """And all accounts count source bytes."""
    for chunk in (ZSTD_CHUNK, CHUNK):
        session = Session(side)
        say(session, ZSTD_HELLO, WELCOME, REQUEST, OFFER, ZSTD_START, chunk)
        assert session.flow(TRANSFER).moved == 10
        assert session.flow(TRANSFER).finished
        say(session, END)


def test_a_compressed_chunk_is_refused_where_start_says_raw() -> None:
    session = Session(Side.SERVER)
    say(session, ZSTD_HELLO, WELCOME, REQUEST, OFFER, START)
    assert "zstd" in violation(session, ZSTD_CHUNK).detail


def test_a_codec_that_the_agent_did_not_offer_is_refused() -> None:
    session = Session(Side.AGENT)
    say(session, HELLO, WELCOME, REQUEST, OFFER)
    assert "zstd" in violation(session, ZSTD_START).detail


def test_a_compressed_chunk_counts_its_source_bytes_against_the_limit() -> None:
    session = Session(Side.SERVER)
    say(session, ZSTD_HELLO, WELCOME, REQUEST, OFFER, replace(ZSTD_START, limit=9))
    found = violation(session, ZSTD_CHUNK)
    assert found.close_code == CloseCode.POLICY_VIOLATION
