"""The byte accounts of one transfer, and the digest of its source."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.wire.errors import CloseCode, LocalProtocolError, RemoteProtocolError
from agent.wire.messages import LEAST_CHUNK, MAX_CHUNK, Ack, Chunk, End
from agent.wire.session import Flow, SourceDigest

from .test_messages import DIGEST, TRANSFER


def accounts(
    ranges: tuple[tuple[int, int], ...], size: int, limit: int, max_chunk: int = MAX_CHUNK
) -> Flow:
    """Accounts in which a chunk of one byte is long enough, for short numbers."""
    return Flow(ranges, size, limit, max_chunk, least_chunk=1)


def chunk(offset: int, length: int) -> Chunk:
    return Chunk(TRANSFER, offset, bytes(length))


def ack(received: int, limit: int) -> Ack:
    return Ack(TRANSFER, received, limit, 0)


def end(size: int) -> End:
    return End(TRANSFER, size, DIGEST, "1-2-3", "file")


def refused(flow: Flow, message: Chunk | Ack | End) -> CloseCode:
    """The close code with which `message` is refused; the accounts must be as they were."""
    before = repr(flow)
    with pytest.raises(RemoteProtocolError) as caught:
        take(flow, message)
    assert repr(flow) == before
    return caught.value.close_code


def take(flow: Flow, message: Chunk | Ack | End) -> None:
    match message:
        case Chunk():
            flow.take_chunk(message)
        case Ack():
            flow.take_ack(message)
        case End():
            flow.take_end(message)


def test_chunks_follow_one_another_through_a_range() -> None:
    flow = accounts(((0, 10),), size=10, limit=10)
    assert (flow.offset, flow.sendable) == (0, 10)
    flow.take_chunk(chunk(0, 4))
    assert (flow.offset, flow.sendable, flow.moved) == (4, 6, 4)
    flow.take_chunk(chunk(4, 6))
    assert (flow.offset, flow.sendable, flow.finished) == (10, 0, True)
    flow.take_end(end(10))


def test_several_ranges_are_sent_one_after_another() -> None:
    flow = accounts(((0, 2), (5, 3), (9, 1)), size=20, limit=100)
    for offset, length in ((0, 2), (5, 1), (6, 2), (9, 1)):
        assert flow.offset == offset
        flow.take_chunk(chunk(offset, length))
    assert flow.finished
    assert (flow.moved, flow.offset) == (6, 10)
    flow.take_end(end(20))


def test_a_chunk_never_reaches_into_the_next_range() -> None:
    """Not even where the next begins just there."""
    flow = accounts(((0, 5), (5, 5)), size=10, limit=10)
    assert flow.sendable == 5
    assert refused(flow, chunk(0, 6)) is CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("ranges", "size", "offset"),
    [(((0, 0),), 0, 0), (((10, 0),), 10, 10), (((0, 0), (4, 0), (9, 0)), 10, 9)],
)
def test_empty_ranges_ask_for_nothing(
    ranges: tuple[tuple[int, int], ...], size: int, offset: int
) -> None:
    flow = accounts(ranges, size, limit=10)
    assert flow.finished
    assert (flow.sendable, flow.offset) == (0, offset)
    refused(flow, chunk(offset, 1))
    flow.take_end(end(size))


def test_empty_ranges_between_others_are_skipped() -> None:
    flow = accounts(((0, 0), (2, 1), (3, 0), (3, 0), (7, 1), (9, 0)), size=9, limit=2)
    flow.take_chunk(chunk(2, 1))
    flow.take_chunk(chunk(7, 1))
    assert flow.finished


def test_ranges_may_end_with_the_file_and_not_beyond_it() -> None:
    accounts(((0, 10),), size=10, limit=0)
    for ranges in (((0, 11),), ((10, 1),), ((0, 1), (5, 6)), ((11, 0),)):
        with pytest.raises(RemoteProtocolError):
            accounts(ranges, size=10, limit=0)


def test_nothing_is_sent_without_credit() -> None:
    flow = accounts(((0, 10),), size=10, limit=0)
    assert flow.sendable == 0
    assert refused(flow, chunk(0, 1)) is CloseCode.POLICY_VIOLATION


def test_a_chunk_beyond_the_limit_closes_with_4008() -> None:
    flow = accounts(((0, 10),), size=10, limit=5)
    flow.take_chunk(chunk(0, 3))
    assert flow.sendable == 2
    assert refused(flow, chunk(3, 3)) == 4008
    flow.take_chunk(chunk(3, 2))
    assert refused(flow, chunk(5, 1)) == 4008


def test_the_limit_counts_bytes_sent_since_start_and_is_no_offset() -> None:
    flow = accounts(((100, 10), (200, 10)), size=300, limit=12)
    flow.take_chunk(chunk(100, 10))
    assert (flow.offset, flow.sendable) == (200, 2)


def test_an_ack_gives_credit() -> None:
    flow = accounts(((0, 10),), size=10, limit=5)
    flow.take_chunk(chunk(0, 5))
    flow.take_ack(ack(5, 9))
    assert (flow.received, flow.sendable) == (5, 4)
    flow.take_ack(ack(5, 9))
    assert flow.sendable == 4


def test_credit_beyond_the_file_gives_no_more_to_send() -> None:
    flow = accounts(((0, 10),), size=10, limit=10**9)
    assert flow.sendable == 10


def test_no_chunk_is_longer_than_agreed() -> None:
    flow = accounts(((0, 100),), size=100, limit=100, max_chunk=10)
    assert flow.sendable == 10
    assert refused(flow, chunk(0, 11)) is CloseCode.PROTOCOL_ERROR
    flow.take_chunk(chunk(0, 10))


def test_a_chunk_that_does_not_end_its_range_has_4096_bytes_at_least() -> None:
    flow = Flow(((0, 2 * LEAST_CHUNK + 5),), size=10**6, limit=10**6)
    assert refused(flow, chunk(0, LEAST_CHUNK - 1)) is CloseCode.PROTOCOL_ERROR
    flow.take_chunk(chunk(0, LEAST_CHUNK))
    flow.take_chunk(chunk(LEAST_CHUNK, LEAST_CHUNK))
    assert refused(flow, chunk(2 * LEAST_CHUNK, 4)) is CloseCode.PROTOCOL_ERROR
    flow.take_chunk(chunk(2 * LEAST_CHUNK, 5))
    assert flow.finished


def test_credit_too_short_for_a_chunk_is_none_unless_it_ends_the_range() -> None:
    assert Flow(((0, 9000),), size=9000, limit=LEAST_CHUNK - 1).sendable == 0
    assert Flow(((0, 9000),), size=9000, limit=LEAST_CHUNK).sendable == LEAST_CHUNK
    assert Flow(((0, 5),), size=9000, limit=LEAST_CHUNK).sendable == 5
    assert Flow(((0, 5),), size=9000, limit=4).sendable == 0


@pytest.mark.parametrize("offset", [0, 3, 5, 9, 10])
def test_a_chunk_begins_where_the_one_before_ended(offset: int) -> None:
    flow = accounts(((0, 10),), size=20, limit=10)
    flow.take_chunk(chunk(0, 4))
    assert refused(flow, chunk(offset, 1)) is CloseCode.PROTOCOL_ERROR


def test_no_chunk_comes_after_the_last_one() -> None:
    flow = accounts(((0, 10),), size=20, limit=20)
    flow.take_chunk(chunk(0, 10))
    refused(flow, chunk(10, 1))


@pytest.mark.parametrize(
    "wrong",
    [ack(2, 10), ack(6, 10), ack(3, 9), ack(0, 10), ack(4, 9)],
    ids=["received goes back", "not sent", "limit goes back", "back to 0", "limit alone"],
)
def test_an_ack_never_goes_back_nor_ahead(wrong: Ack) -> None:
    flow = accounts(((0, 10),), size=10, limit=10)
    flow.take_chunk(chunk(0, 5))
    flow.take_ack(ack(3, 10))
    refused(flow, wrong)


def test_the_agent_ends_only_when_all_is_sent() -> None:
    flow = accounts(((0, 5), (7, 3)), size=10, limit=10)
    refused(flow, end(10))
    flow.take_chunk(chunk(0, 5))
    refused(flow, end(10))
    flow.take_chunk(chunk(7, 3))
    flow.take_end(end(10))


@pytest.mark.parametrize("size", [0, 9, 11])
def test_the_size_at_the_end_is_the_size_offered(size: int) -> None:
    flow = accounts(((0, 10),), size=10, limit=10)
    flow.take_chunk(chunk(0, 10))
    refused(flow, end(size))


@given(
    lengths=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), min_size=1, max_size=8),
    steps=st.lists(st.tuples(st.integers(1, 10), st.integers(0, 10)), max_size=60),
)
def test_both_ends_keep_the_same_books(
    lengths: list[tuple[int, int]], steps: list[tuple[int, int]]
) -> None:
    """Whatever is sendable is accepted, and exactly the bytes asked for move."""
    ranges: list[tuple[int, int]] = []
    for gap, length in lengths:
        ranges.append((sum(ranges[-1]) + gap if ranges else gap, length))
    size = sum(ranges[-1])
    sender, receiver = (accounts(tuple(ranges), size, limit=7, max_chunk=6) for _ in range(2))
    moved: list[int] = []
    for most, credit in [*steps, *[(10, 10)] * 200]:
        if length := min(sender.sendable, most):
            moved += range(sender.offset, sender.offset + length)
            message = chunk(sender.offset, length)
            sender.take_chunk(message)
            receiver.take_chunk(message)
        given_back = ack(receiver.moved, receiver.limit + credit)
        receiver.take_ack(given_back)
        sender.take_ack(given_back)
        assert repr(sender) == repr(receiver)
        assert sender.moved <= sender.limit
        assert 0 <= sender.sendable <= 6
    assert moved == [byte for first, count in ranges for byte in range(first, first + count)]
    sender.take_end(end(size))


def test_the_digest_is_sha256_of_the_whole_source() -> None:
    digest = SourceDigest()
    digest.update(b"ab")
    digest.update(bytearray(b"c"))
    digest.update(memoryview(b"xdefx")[1:4])
    assert digest.position == 6
    assert digest.hexdigest(6) == hashlib.sha256(b"abcdef").hexdigest()


def test_the_digest_of_an_empty_source_is_that_of_no_bytes() -> None:
    """NIST's value for the empty message."""
    assert SourceDigest().hexdigest(0) == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


@pytest.mark.parametrize("size", [0, 2, 4])
def test_there_is_no_digest_of_a_part(size: int) -> None:
    digest = SourceDigest()
    digest.update(b"abc")
    with pytest.raises(LocalProtocolError):
        digest.hexdigest(size)
