"""Messages that a server has no right to send, and more of them than anybody could want."""

import asyncio
import contextlib
import json
import re
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from agent.link import MAX_REQUESTS
from agent.wire.messages import (
    Abort,
    Ack,
    Cancel,
    Chunk,
    End,
    Landed,
    Offer,
    Request,
    Start,
    Welcome,
)

from .outcomes import OUTCOMES
from .scene import PUBLIC, Attacker, Scene

SIZE = len(PUBLIC)
MAX = 2**63 - 1

BAD_RANGES = {
    "negative offset": [[-1, 10]],
    "negative length": [[0, -10]],
    "both negative": [[-10, -10]],
    "beyond the end": [[0, SIZE + 1]],
    "behind the end": [[SIZE, 1]],
    "far beyond the end": [[2**40, 2**40]],
    "the largest": [[MAX, 0]],
    "larger than the largest": [[0, 2**63]],
    "as large as 2^64": [[0, 2**64 - 1]],
    "sum beyond 2^63": [[2**62, 2**62]],
    "overlapping": [[0, 20], [10, 20]],
    "the same twice": [[0, 20], [0, 20]],
    "backwards": [[20, 10], [0, 10]],
    "fractions": [[0.0, 10.5]],
    "booleans": [[False, True]],
    "strings": [["0", "10"]],
    "null": [[None, None]],
    "one number": [[0]],
    "three numbers": [[0, 1, 2]],
    "no list": {"0": 10},
    "none": [],
    "nested": [[[0, 10]]],
    "thousands": [[n, 1] for n in range(1025)],
}


@pytest.mark.parametrize("ranges", BAD_RANGES.values(), ids=BAD_RANGES)
async def test_ranges_that_make_no_sense_end_the_conversation(
    any_kernel: Scene, ranges: object
) -> None:
    async with any_kernel.attacked() as attacker:
        transfer, answer = await attacker.ask("data.bin")
        assert isinstance(answer, Offer)
        start = {"type": "start", "transfer": str(transfer), "ranges": ranges, "limit": MAX}
        await attacker.say(json.dumps(start))
        await closed(attacker, "bad ranges")
        assert not chunks(attacker)


async def closed(attacker: Attacker, attack: str, code: int = 4002) -> None:
    """The agent has ended the conversation, with a reason and this code."""
    assert await attacker.gone() == code
    assert isinstance(attacker.last_words, Abort)
    assert attacker.last_words.code == "protocol_error"
    OUTCOMES[attack, f"closed with {code}"] += 1


def chunks(attacker: Attacker) -> list[bytes]:
    return [raw for raw in attacker.heard if not raw.startswith(b"{")]


@pytest.mark.parametrize(
    "ranges",
    [((0, SIZE),), ((0, 0),), ((SIZE, 0),), ((5, 1), (6, 0), (10, 20)), ((SIZE - 1, 1),)],
    ids=str,
)
async def test_what_is_asked_for_in_ranges_is_sent_and_no_byte_more(
    any_kernel: Scene, ranges: tuple[tuple[int, int], ...]
) -> None:
    async with any_kernel.attacked() as attacker:
        transfer, answer = await attacker.ask("data.bin")
        assert isinstance(answer, Offer)
        await attacker.say(Start(transfer, ranges, SIZE))
        data = b""
        while isinstance(answer := await attacker.answer(transfer), Chunk):
            data += bytes(answer.payload)
        assert isinstance(answer, End)
        assert data == b"".join(PUBLIC[at : at + length] for at, length in ranges)


async def test_credit_is_needed_for_each_byte(any_kernel: Scene) -> None:
    async with any_kernel.attacked() as attacker:
        transfer, answer = await attacker.ask("data.bin")
        await attacker.say(Start(transfer, ((0, SIZE),), 7))
        await attacker.steal("data.bin")
        assert attacker.answers[transfer].empty(), "no chunk may be so short, but the last"
        await attacker.say(Ack(transfer, 0, SIZE, 0))
        answer = await attacker.answer(transfer)
        assert isinstance(answer, Chunk)
        assert bytes(answer.payload) == PUBLIC


A, B = UUID(int=1), UUID(int=2)

OUT_OF_TURN: dict[str, list[object]] = {
    "start before any request": [Start(A, ((0, 1),), 1)],
    "start for another transfer": [Request(A, "data.bin"), Start(B, ((0, 1),), 1)],
    "start twice": [Request(A, "data.bin"), None, Start(A, ((0, 0),), 0), Start(A, ((0, 9),), 9)],
    "request twice": [Request(A, "data.bin"), Request(A, "data.bin")],
    "ack before start": [Request(A, "data.bin"), None, Ack(A, 0, 1, 0)],
    "ack of what was not sent": [
        Request(A, "data.bin"), None, Start(A, ((0, SIZE),), 0), Ack(A, 5, 10, 0),
    ],
    "ack that takes back credit": [
        Request(A, "data.bin"), None, Start(A, ((0, SIZE),), 10), Ack(A, 0, 1, 0),
    ],
    "landed before the end": [Request(A, "data.bin"), None, Landed(A, "0" * 64)],
    "a second welcome": [Welcome("client2", 1, 65536, "")],
    "a chunk": [Chunk(A, 0, b"x")],
    "an offer": [Offer(A, "x", 1, 0, "f")],
    "no JSON": ["{"],
    "no object": ["[]"],
    "no type": ["{}"],
    "an unknown type": ['{"type":"run","command":"id"}'],
    "deep nesting": ["[" * 60_000],
    "a number of 5,000 digits": ['{"type":"start","limit":' + "9" * 5000 + "}"],
    "an infinite number": ['{"type":"heartbeat","x":Infinity}'],
    "half a chunk": [b"\0" * 31],
}  # fmt: skip


@pytest.mark.parametrize("messages", OUT_OF_TURN.values(), ids=OUT_OF_TURN)
async def test_what_is_out_of_turn_ends_the_conversation(
    any_kernel: Scene, messages: list[object]
) -> None:
    """And the agent comes back: nobody is near the machine to start it."""
    async with any_kernel.attacked() as attacker:
        for message in messages:
            if message is None:  # hear the offer
                assert isinstance(await attacker.answer(A), Offer)
            else:
                await attacker.say(message)  # type: ignore[arg-type]
        assert await attacker.gone() in (4002, 4007, 4008)
        assert isinstance(attacker.last_words, Abort)
        OUTCOMES["messages out of turn", "closed"] += 1


async def test_start_before_the_offer_is_out_of_turn(any_kernel: Scene) -> None:
    """Both in one packet, so that the agent reads them before it has opened anything."""
    async with any_kernel.attacked() as attacker:
        await attacker.say(Request(A, "data.bin"))
        await attacker.say(Start(A, ((0, SIZE),), SIZE))
        # The offer may have been quicker: then the start is in turn, and the file is sent.
        done = asyncio.create_task(attacker.gone())
        end = asyncio.create_task(ended(attacker, A))
        await asyncio.wait({done, end}, return_when=asyncio.FIRST_COMPLETED)
        for task in (done, end):
            task.cancel()


async def ended(attacker: Attacker, transfer: UUID) -> None:
    while not isinstance(await attacker.answer(transfer), End | Abort):
        pass


async def test_a_message_that_is_too_long_ends_the_conversation(any_kernel: Scene) -> None:
    async with any_kernel.attacked() as attacker:
        await attacker.say('{"type":"heartbeat","x":"' + "x" * 2**20 + '"}')
        assert await attacker.gone() == 1009
        OUTCOMES["messages out of turn", "closed"] += 1


def resident(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


async def test_a_flood_of_requests_is_cut_off_and_takes_no_memory(any_kernel: Scene) -> None:
    """10,000 at once, each with the longest path."""
    async with any_kernel.attacked() as attacker:
        await attacker.steal("data.bin")
        before = resident(any_kernel.pid)
        for number in range(10_000):
            await asyncio.sleep(
                0
            )  # hear what the agent says: `say` alone gives no turn to the listener
            if attacker.closed.is_set():
                break
            path = "data.bin" if number % 2 else f"{number}/" + "x/" * 2000
            with contextlib.suppress(ConnectionClosed):
                await attacker.say(Request(uuid4(), path))
        await closed(attacker, "10,000 requests at once", 4008)
        grown = resident(any_kernel.pid) - before
        assert grown < 48 * 2**20, f"{grown / 2**20:.0f} MiB more"
        assert len(attacker.answers) <= 10 * MAX_REQUESTS


async def test_a_flood_one_by_one_leaves_a_bounded_journal(any_kernel: Scene) -> None:
    async with any_kernel.attacked() as attacker:
        before = resident(any_kernel.pid)
        for _ in range(500):
            assert (await attacker.steal("/" + "\u202e" * 4095, "requests in a flood")).outcome == (
                "forbidden"
            )
        assert resident(any_kernel.pid) - before < 48 * 2**20
    size = sum(file.stat().st_size for file in any_kernel.state.iterdir())
    assert size < 500 * 1500, "of each path only the beginning is kept"


async def test_a_flood_does_not_wash_a_theft_out_of_the_journal(any_kernel: Scene) -> None:
    """In more than all the bytes that refusals are kept in; a theft repeated leaves its own lines."""
    any_kernel.state.mkdir(mode=0o700)
    for number in range(1, 5):  # as after so many
        Scene.write(any_kernel.state / f"refusals.jsonl.{number}", b"{}\n")
    Scene.write(any_kernel.state / "refusals.jsonl", b"{}\n" * (10 * 2**20 // 3 - 1))
    async with any_kernel.attacked() as attacker:
        assert (await attacker.steal("data.bin")).data == PUBLIC
        for path in ("\N{GRINNING FACE}" * 4096, "/etc/shadow", "../" * 1000):
            assert (await attacker.steal(path, "washing the journal")).outcome == "forbidden"
        await attacker.say(Request(A, "data.bin"))
        assert isinstance(await attacker.answer(A), Offer)
        await attacker.say(Cancel(A))
        assert isinstance(await attacker.answer(A), Abort)
        await any_kernel.journal_has("stopped")
    events = [line.get("event") for line in any_kernel.journal]
    assert events[:4] == ["allowed", "landed", "allowed", "stopped"]
    assert (any_kernel.state / "refusals.jsonl").stat().st_size < 10_000, "it was rotated"


async def test_not_more_is_sent_at_once_than_the_policy_says(any_kernel: Scene) -> None:
    any_kernel.head = "transfers_at_once = 2"
    async with any_kernel.attacked() as attacker:
        answers = await asyncio.gather(*(attacker.ask("data.bin") for _ in range(6)))
        kinds = sorted(getattr(answer, "code", "offered") for _, answer in answers)
        assert kinds == ["busy"] * 4 + ["offered"] * 2
        OUTCOMES["more at once than the policy says", "busy"] += 4
        first = next(transfer for transfer, answer in answers if isinstance(answer, Offer))
        await attacker.say(Start(first, ((0, 0),), 0))
        end = await attacker.answer(first)
        assert isinstance(end, End)
        await attacker.say(Landed(first, end.sha256))
        assert isinstance((await attacker.ask("data.bin"))[1], Offer), "a place is free again"
