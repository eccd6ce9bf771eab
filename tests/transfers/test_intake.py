"""One transfer arriving, without a socket: real rows, real files, and both ends of the wire in memory.

Every message passes a real session of each end, so nothing happens here that the protocol forbids.
"""

import asyncio
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.utils import timezone
from pytest_django import Settings

from agent.wire.codec import encode
from agent.wire.messages import (
    MAX_CHUNK,
    PROTOCOL,
    Abort,
    Ack,
    Cancel,
    Chunk,
    End,
    Hello,
    Landed,
    Message,
    Offer,
    Request,
    Start,
    Welcome,
)
from agent.wire.session import Session, Violation
from agent.wire.state import OVER, Side, Stage
from transfers import arrival as arrival_module
from transfers import dialogue as dialogue_module
from transfers import storage, under_way
from transfers.arrival import Arrival
from transfers.claim import Claim
from transfers.dialogue import Outgoing, Pulse
from transfers.facts import Facts
from transfers.inbox import LinkLost, Withdrawn
from transfers.intake import Intake
from transfers.models import MAX_SOURCE_CHANGES, Client, Status, StatusConflict, Transfer
from transfers.models.usage import written_today
from transfers.turns import of_this_process

pytestmark = pytest.mark.django_db(transaction=True)

EPOCH = 3
PATIENCE = 20.0
DATA = bytes(range(256)) * 40

M = TypeVar("M", bound=Message)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Agent:
    """An agent that answers at once, in memory. A test may answer instead: `on[kind] = …`."""

    def __init__(self, data: bytes, step: int = 1000) -> None:
        self.data = data
        self.step = step
        self.fingerprint = self.fingerprint_at_end = "1"
        self.digest = sha256(data)
        self.heard: list[Message] = []
        self.on: dict[type[Message], Callable[[Any], None]] = {
            Request: self.offer,
            Start: self.send_on,
            Ack: self.send_on,
            Cancel: self.confirm,
            Abort: self.confirm,
        }
        self.intake: Intake
        self.pulse = Pulse()
        self.clock: Callable[[], float] = time.monotonic
        """Of its turn."""
        self.seat = of_this_process().seat("client1", lambda: None)
        self.hung_up: list[Abort] = []
        self._ours = Session(Side.AGENT)
        self._theirs = Session(Side.SERVER)
        self._ours.least_chunk = self._theirs.least_chunk = 1  # for many chunks of little files
        self._theirs.receive(self._ours.send(Hello(PROTOCOL, "1", "test", "test")))
        self._ours.receive(self._theirs.send(Welcome("client1", 15, MAX_CHUNK, "now")))
        self._news = asyncio.Event()

    async def reply(self, message: Outgoing) -> None:
        """What the intake is given to answer with: as the consumer does it."""
        over = message.transfer and self._theirs.stage(message.transfer) in OVER
        if over and not isinstance(message, Request):
            return
        heard = self._ours.receive(self._theirs.send(message))
        assert not isinstance(heard, Violation), heard
        if heard is not None:
            self.heard.append(heard)
            self._news.set()
            self.on.get(type(heard), lambda message: None)(heard)

    async def hang_up(self, farewell: Abort) -> None:
        self.hung_up.append(farewell)

    def attend(self, transfer: Transfer, epoch: int) -> Intake:
        """An intake that asks this agent."""
        self.seat.take(1)
        turn = self.seat.turn(self.clock)
        self.intake = Intake(
            Claim(transfer, epoch), self.reply, self.hang_up, self.pulse, turn=turn
        )
        return self.intake

    def say(self, message: Offer | Chunk | End | Abort) -> None:
        self.pulse.beat(chunk=isinstance(message, Chunk))
        heard = self._theirs.receive(self._ours.send(message))
        assert not isinstance(heard, Violation), heard
        if heard is not None:
            assert isinstance(heard, Offer | Chunk | End | Abort)
            self.intake.receive(heard)

    def overtaken(self, message: Chunk) -> bool:
        """Whether what the agent said before it heard of the end is dropped without a word."""
        return self._theirs.receive(encode(message)) is None

    def offer(self, request: Request) -> None:
        offer = Offer(
            request.transfer, "till.db", len(self.data), 0, self.fingerprint, request.path
        )
        self.say(offer)

    def chunks(self, pk: Any, most: int | None = None) -> None:
        """Send what the credit allows, or `most` chunks of it."""
        flow = self._ours.flow(pk)
        while flow.sendable and most != 0:
            size = min(self.step, flow.sendable)
            self.say(Chunk(pk, flow.offset, self.data[flow.offset : flow.offset + size]))
            most = None if most is None else most - 1

    def send_three(self, start: Start) -> None:
        self.chunks(start.transfer, 3)

    def end(self, pk: Any) -> None:
        self.say(End(pk, len(self.data), self.digest, self.fingerprint_at_end, "till.db"))

    def send_on(self, message: Start | Ack) -> None:
        if self._ours.stage(message.transfer) is Stage.SENDING:
            self.chunks(message.transfer)
            if self._ours.flow(message.transfer).finished:
                self.end(message.transfer)

    def confirm(self, message: Cancel | Abort) -> None:
        self.say(Abort(message.transfer, "cancelled"))

    async def hear(self, kind: type[M]) -> M:
        """The first message of this kind, as soon as there is one."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for message in self.heard:
                    if isinstance(message, kind):
                        return message
                self._news.clear()
                await self._news.wait()

    def told(self, kind: type[M]) -> list[M]:
        return [message for message in self.heard if isinstance(message, kind)]


class House:
    """A row, its agent and its intake."""

    def __init__(self, client: Client, data_dir: Path) -> None:
        self.client = client
        self.partials = data_dir / "partial"
        self.downloads = data_dir / "downloads"
        self.agent = Agent(DATA)

    async def row(self, status: str = "queued", **values: Any) -> Transfer:
        return await Transfer.objects.acreate(
            client=self.client, status=status, duplicate=True, **values
        )

    async def start(self, transfer: Transfer, epoch: int = EPOCH) -> "asyncio.Task[None]":
        """Claim it, as the attendant does, and begin."""
        await sync_to_async(transfer.claim)(epoch)
        self.intake = self.agent.attend(transfer, epoch)
        return asyncio.create_task(self.intake.run())

    async def begun(self) -> "tuple[Transfer, asyncio.Task[None]]":
        """A row of which 3,000 bytes have come; its agent sends no more by itself."""
        self.agent.on[Start] = self.agent.send_three
        self.agent.on[Ack] = silent
        transfer = await self.row()
        running = await self.start(transfer)
        await self.agent.hear(Ack)
        return transfer, running

    async def run(self, transfer: Transfer) -> Transfer:
        """To its end; the row as it is then."""
        return await self.ended(await self.start(transfer), transfer)

    async def ended(self, task: "asyncio.Task[None]", transfer: Transfer) -> Transfer:
        async with asyncio.timeout(PATIENCE):
            await task
        return await self.fresh(transfer)

    async def fresh(self, transfer: Transfer) -> Transfer:
        return await Transfer.objects.aget(pk=transfer.pk)

    async def cancel(self, transfer: Transfer) -> None:
        """An operator does, elsewhere."""
        other = await self.fresh(transfer)
        await sync_to_async(other.cancel)()

    def left_behind(self, transfer: Transfer, data: bytes) -> None:
        """What an earlier attempt left on disk."""
        (self.partials / f"{transfer.pk}.part").write_bytes(data)

    def partial(self, transfer: Transfer) -> bytes | None:
        path = self.partials / f"{transfer.pk}.part"
        return path.read_bytes() if path.exists() else None

    @property
    def landed(self) -> list[bytes]:
        return [path.read_bytes() for path in self.downloads.iterdir()]


@pytest.fixture(autouse=True)
def no_second_chance(settings: Settings) -> None:
    """Here each error is an end at once; `test_setbacks` is about the errors that may pass."""
    settings.RETRIES = 0


@pytest.fixture
async def house(client1: Client, data_dir: Path) -> House:
    return House(client1, data_dir)


def silent(message: Message) -> None:
    """The agent does not answer."""


# Landing -----------------------------------------------------------------------------------------


async def test_the_rate_limit_goes_with_start_and_every_ack(house: House) -> None:
    house.agent.on[Start] = house.agent.send_three
    transfer = await house.row(rate_limit=10**6)
    assert (await house.run(transfer)).status == "completed"
    assert (await house.agent.hear(Start)).rate_limit == 10**6
    assert (await house.agent.hear(Ack)).rate_limit == 10**6


async def test_a_change_of_the_rate_in_the_middle_has_the_counts_of_the_last_ack(
    house: House,
) -> None:
    house.agent.on[Start] = house.agent.send_three
    house.agent.on[Ack] = lambda ack: None
    transfer = await house.row()
    running = await house.start(transfer)
    while not (acks := house.agent.told(Ack)) or acks[-1].received < 3000:
        await house.agent.hear(Ack)
        await asyncio.sleep(0)
    await house.intake.limit_rate(2048)
    await house.intake.limit_rate(2048)  # told once
    *_, before, last = house.agent.told(Ack)
    assert last == replace(before, rate_limit=2048)
    house.agent.on[Ack] = house.agent.send_on
    await house.intake.limit_rate(None)
    assert (await house.ended(running, transfer)).status == "completed"


async def test_a_file_lands_whole_with_its_digest(house: House) -> None:
    transfer = await house.run(await house.row(path="/till.db"))
    assert house.landed == [DATA]
    assert (transfer.status, transfer.sha256, transfer.size) == ("completed", sha256(DATA), 10240)
    assert (transfer.received, transfer.checkpoint) == (len(DATA), len(DATA))
    assert house.partial(transfer) is None


async def test_what_was_written_counts_for_the_day_landed_or_not(house: House) -> None:
    await house.run(await house.row(path="/till.db"))
    assert await sync_to_async(written_today)("client1") == len(DATA)
    house.agent.digest = "0" * 64
    await house.run(await house.row(path="/again.db"))
    assert await sync_to_async(written_today)("client1") == 2 * len(DATA)


async def test_a_file_that_does_not_fit_into_the_day_waits_and_the_agent_is_told(
    house: House, settings: Settings
) -> None:
    settings.BYTES_PER_DAY_PER_CLIENT = len(DATA) + 1
    await house.run(await house.row(path="/till.db"))
    transfer = await house.run(await house.row(path="/again.db"))
    assert (transfer.status, transfer.error_code) == ("queued", "quota_exceeded")
    assert transfer.setbacks == 0
    assert house.landed == [DATA]


async def test_the_agent_hears_that_it_landed_only_after_the_row_says_so(house: House) -> None:
    seen: list[tuple[Any, list[bytes]]] = []
    landed = Transfer.landed

    def spy(transfer: Transfer, epoch: int, **counts: Any) -> None:
        seen.append((house.agent.told(Landed), house.landed))
        landed(transfer, epoch, **counts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transfer, "landed", spy)
        transfer = await house.run(await house.row())
    assert seen == [([], [DATA])], "on disk under its name first, then the row, then the agent"
    assert house.agent.told(Landed) == [Landed(transfer.pk, sha256(DATA))]


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was recorded of transfers, in order."""
    called: list[str] = []

    def spied(name: str) -> Callable[..., Any]:
        verb = getattr(Transfer, name)

        def call(transfer: Transfer, *args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return verb(transfer, *args, **kwargs)

        return call

    for name in ("offered", "progressed", "verified", "landed", "fail", "source_changed"):
        monkeypatch.setattr(Transfer, name, spied(name))
    return called


async def test_what_comes_whole_at_once_takes_two_steps_of_its_row(
    house: House, verbs: list[str]
) -> None:
    await house.run(await house.row())  # finds how much room there is
    verbs.clear()
    before = timezone.now()
    transfer = await house.run(await house.row())
    assert verbs == ["verified", "landed"]
    assert (transfer.name, transfer.size, transfer.fingerprint) == ("till.db", len(DATA), "1")
    assert transfer.started_at is not None
    assert before <= transfer.started_at <= timezone.now()


async def test_the_row_says_what_is_coming_once_some_of_it_has_come(
    house: House, verbs: list[str]
) -> None:
    row, running = await house.begun()
    assert verbs == ["offered"]
    transfer = await house.fresh(row)
    assert (transfer.status, transfer.name, transfer.size) == ("receiving", "till.db", len(DATA))
    house.agent.on[Ack] = house.agent.send_on
    await house.intake.limit_rate(2048)  # which is an `ack`
    assert (await house.ended(running, row)).status == "completed"


async def test_what_has_come_is_known_at_once_and_until_the_end(house: House) -> None:
    row, running = await house.begun()
    transfer = await house.fresh(row)
    facts = Facts(transfer, timezone.now())
    assert (transfer.received, facts.received, facts.percent) == (0, 3000, 3000 / len(DATA) * 100)
    house.intake.leave(LinkLost())
    transfer = await house.ended(running, row)
    assert Facts(transfer, timezone.now()).received == 3000
    assert under_way.received(row.pk) == 0


@pytest.mark.parametrize("first", ["older", "newer"])
def test_of_two_connections_that_are_at_it_the_newer_one_counts(first: str) -> None:
    pk = uuid4()
    ends = {"older": ExitStack(), "newer": ExitStack()}
    older, newer = (end.enter_context(under_way.here(pk)) for end in ends.values())
    newer.count, older.count = 2, 10
    assert under_way.received(pk) == 2
    ends.pop(first).close()
    assert under_way.received(pk) == (2 if first == "older" else 0)
    ends.popitem()[1].close()
    assert under_way.received(pk) == 0


@pytest.mark.parametrize("field", ["digest", "fingerprint_at_end"])
async def test_what_came_whole_and_is_not_the_file_is_on_record_with_its_name(
    house: House, verbs: list[str], field: str
) -> None:
    setattr(house.agent, field, "0" * 64)
    house.agent.on |= {Abort: silent, Cancel: silent}
    row = await house.row()
    running = await house.start(row)
    await house.agent.hear(Abort)
    transfer = await house.fresh(row)
    assert verbs[0] == "offered"
    assert "verified" not in verbs
    assert (transfer.name, transfer.size) == ("till.db", len(DATA))
    assert (house.landed, house.partial(row)) == ([], None)
    house.agent.confirm(Abort(row.pk, "cancelled"))
    await house.ended(running, row)


async def test_a_file_of_zero_bytes_lands(house: House) -> None:
    house.agent = Agent(b"")
    transfer = await house.run(await house.row())
    assert (transfer.status, transfer.sha256) == ("completed", sha256(b""))
    assert house.landed == [b""]


async def test_the_agent_is_asked_for_the_path_of_the_row(house: House) -> None:
    transfer = await house.run(await house.row(path="/var/log/till.log"))
    assert house.agent.told(Request) == [Request(transfer.pk, "/var/log/till.log", None)]


@pytest.mark.parametrize("checkpoint", [1, 5000, len(DATA)])
async def test_a_resumed_file_has_the_digest_of_all_of_it(house: House, checkpoint: int) -> None:
    row = await house.row("interrupted", checkpoint=checkpoint, fingerprint="1", size=len(DATA))
    house.left_behind(row, DATA[:checkpoint] + b"after the checkpoint")
    transfer = await house.run(row)
    (request,), (start,) = house.agent.told(Request), house.agent.told(Start)
    assert request.fingerprint == "1"
    assert start.ranges == ((checkpoint, len(DATA) - checkpoint),)
    assert (transfer.status, transfer.sha256, house.landed) == ("completed", sha256(DATA), [DATA])


async def test_a_partial_file_that_is_lost_is_asked_for_from_the_start(house: House) -> None:
    row = await house.row("interrupted", checkpoint=5000, fingerprint="1", size=len(DATA))
    transfer = await house.run(row)
    assert house.agent.told(Start)[0].ranges == ((0, len(DATA)),)
    assert (transfer.status, transfer.source_changes) == ("completed", 0)


async def test_a_source_that_is_another_by_now_begins_from_the_start(house: House) -> None:
    row = await house.row("interrupted", checkpoint=4, fingerprint="0", size=len(DATA))
    house.left_behind(row, b"old!")
    transfer = await house.run(row)
    assert (transfer.status, transfer.source_changes, house.landed) == ("completed", 1, [DATA])


@pytest.mark.parametrize("checkpoint", [4, 0], ids=["of another source", "before a checkpoint"])
async def test_what_is_of_no_use_makes_room_before_room_is_looked_for(
    house: House, monkeypatch: pytest.MonkeyPatch, settings: Settings, checkpoint: int
) -> None:
    """On a disk that it fills itself, no retry would ever begin."""
    settings.MIN_FREE_SPACE = 0
    row = await house.row("interrupted", checkpoint=checkpoint, fingerprint="0", size=len(DATA))
    house.left_behind(row, b"old!")
    monkeypatch.setattr(
        storage, "free_space", lambda directory: 0 if house.partial(row) else 100 * len(DATA)
    )
    transfer = await house.run(row)
    assert (transfer.status, house.landed) == ("completed", [DATA])


async def test_a_file_that_was_resumed_in_vain_is_let_go(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await house.row("interrupted", checkpoint=5000, fingerprint="1", size=len(DATA))
    house.left_behind(row, DATA[:5000])

    def offered(transfer: Transfer, *args: Any) -> None:
        raise StatusConflict(transfer.pk, "cancelled", "receiving")

    monkeypatch.setattr(Transfer, "offered", offered)
    await house.run(row)
    assert not storage.is_busy(row.partial_path)


async def test_an_empty_file_is_held_from_before_it_is_verified(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a sweep may set its row back just then, and its name in the downloads be nobody's."""
    house.agent = Agent(b"")
    held: list[bool] = []
    verified = Transfer.verified

    def spy(transfer: Transfer, *args: Any, **kwargs: Any) -> Path:
        held.append(transfer.is_being_written)
        return verified(transfer, *args, **kwargs)

    monkeypatch.setattr(Transfer, "verified", spy)
    assert (await house.run(await house.row())).status == "completed"
    assert (held, house.landed) == ([True], [b""])


async def test_more_bytes_are_never_on_their_way_than_one_window(
    house: House, settings: Settings
) -> None:
    settings.WINDOW = 3000
    house.agent.step = 700
    written: list[int] = []

    def check(message: Start | Ack) -> None:
        written.append(sum(path.stat().st_size for path in house.partials.iterdir()))
        assert message.limit <= written[-1] + settings.WINDOW
        assert not isinstance(message, Ack) or message.received <= written[-1]
        house.agent.send_on(message)

    house.agent.on |= {Start: check, Ack: check}
    assert (await house.run(await house.row())).status == "completed"
    assert len(written) > len(DATA) // settings.WINDOW


# What the server refuses -------------------------------------------------------------------------


async def test_a_file_that_is_too_large_is_refused_before_a_byte(
    house: House, settings: Settings
) -> None:
    settings.MAX_FILE_SIZE = len(DATA) - 1
    transfer = await house.run(await house.row())
    assert (transfer.status, transfer.error_code) == ("failed", "too_large")
    assert "SILENTMODE_MAX_FILE_SIZE" in transfer.error_detail
    assert [abort.code for abort in house.agent.told(Abort)] == ["too_large"]
    assert house.agent.told(Start) == []


async def test_a_file_of_just_the_largest_size_lands(house: House, settings: Settings) -> None:
    settings.MAX_FILE_SIZE = len(DATA)
    assert (await house.run(await house.row())).status == "completed"


async def test_bytes_that_are_not_those_the_agent_read_never_land(house: House) -> None:
    house.agent.digest = sha256(b"something else")
    transfer = await house.run(await house.row())
    assert (transfer.status, transfer.error_code) == ("failed", "checksum_mismatch")
    assert (house.landed, house.partial(transfer), transfer.checkpoint) == ([], None, 0)
    assert [abort.code for abort in house.agent.told(Abort)] == ["checksum_mismatch"]


async def test_a_corrupt_partial_file_is_not_resumed_again(house: House) -> None:
    row = await house.row("interrupted", checkpoint=4, fingerprint="1", size=len(DATA))
    house.left_behind(row, b"rot!")
    transfer = await house.run(row)
    assert (transfer.error_code, transfer.checkpoint) == ("checksum_mismatch", 0)
    await sync_to_async(transfer.retry)()
    house.agent = Agent(DATA)
    assert (await house.run(transfer)).status == "completed"


async def test_a_source_that_changes_is_read_again_and_the_fourth_time_given_up(
    house: House,
) -> None:
    transfer = await house.row()
    for changes in range(1, MAX_SOURCE_CHANGES + 1):
        house.agent = Agent(DATA)
        house.agent.fingerprint_at_end = "2"
        transfer = await house.run(transfer)
        assert (transfer.status, transfer.source_changes) == ("queued", changes)
        assert (transfer.checkpoint, transfer.received) == (0, 0)
        assert [abort.code for abort in house.agent.told(Abort)] == ["source_changed"]
    house.agent = Agent(DATA)
    house.agent.fingerprint_at_end = "2"
    transfer = await house.run(transfer)
    assert (transfer.status, transfer.error_code) == ("failed", "source_changed")
    assert (MAX_SOURCE_CHANGES, house.landed) == (3, [])


async def test_a_source_that_changes_between_attempts_is_given_up_the_fourth_time(
    house: House,
) -> None:
    row = await house.row(
        "interrupted", checkpoint=4, fingerprint="0", size=len(DATA), source_changes=3
    )
    house.left_behind(row, b"old!")
    transfer = await house.run(row)
    assert (transfer.status, transfer.error_code) == ("failed", "source_changed")


async def test_an_agent_that_does_not_answer_is_not_waited_for_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialogue_module, "ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(dialogue_module, "CONFIRM_SECONDS", 0.01)
    house.agent.on = {}  # not even a confirmation
    transfer = await house.run(await house.row())
    assert (transfer.status, transfer.error_code) == ("failed", "timed_out")
    assert [abort.code for abort in house.agent.told(Abort)] == ["timed_out"]
    assert [abort.code for abort in house.agent.hung_up] == ["timed_out"]  # nor is its confirmation


# What the agent refuses --------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["not_found", "forbidden", "not_a_file", "unreadable"])
async def test_why_the_agent_cannot_send_a_file_is_on_the_row(house: House, code: str) -> None:
    house.agent.on[Request] = lambda request: house.agent.say(
        Abort(request.transfer, code, "Sorry.")
    )
    transfer = await house.run(await house.row())
    assert (transfer.status, transfer.error_code, transfer.error_detail) == (
        "failed", code, "Sorry.",
    )  # fmt: skip
    assert house.agent.told(Abort) == [], "it has ended it, and need not be told"


async def test_a_source_that_the_agent_says_has_changed_is_asked_for_again(house: House) -> None:
    house.agent.on[Start] = lambda start: house.agent.say(Abort(start.transfer, "source_changed"))
    transfer = await house.run(await house.row())
    assert (transfer.status, transfer.source_changes) == ("queued", 1)


async def test_what_arrived_before_the_agent_gave_up_is_not_landed(house: House) -> None:
    def some(start: Start) -> None:
        house.agent.chunks(start.transfer, 3)
        house.agent.say(Abort(start.transfer, "unreadable"))

    house.agent.on[Start] = some
    transfer = await house.run(await house.row())
    assert (transfer.status, transfer.error_code, house.landed) == ("failed", "unreadable", [])


async def test_an_agent_that_gives_up_what_was_cancelled_leaves_it_cancelled(house: House) -> None:
    house.agent.on[Start] = silent
    task = await house.start(row := await house.row())
    await house.agent.hear(Start)
    await house.cancel(row)
    house.agent.say(Abort(row.pk, "unreadable"))
    transfer = await house.ended(task, row)
    assert (transfer.status, house.partial(transfer)) == ("cancelled", None)


# The link is lost --------------------------------------------------------------------------------


async def test_a_link_lost_before_the_offer_leaves_it_queued(house: House) -> None:
    house.agent.on[Request] = lambda request: house.intake.leave(LinkLost())
    transfer = await house.run(await house.row())
    assert (transfer.status, transfer.error_code) == ("queued", "")


async def test_a_link_lost_before_the_offer_keeps_what_an_earlier_attempt_has(house: House) -> None:
    row = await house.row("interrupted", checkpoint=5000, fingerprint="1", size=len(DATA))
    house.left_behind(row, DATA[:5000])
    house.agent.on[Request] = lambda request: house.intake.leave(LinkLost())
    transfer = await house.run(row)
    assert (transfer.status, transfer.checkpoint) == ("interrupted", 5000)
    assert house.partial(transfer) == DATA[:5000]


async def test_a_link_lost_before_the_first_byte_leaves_it_queued(house: House) -> None:
    house.agent.on[Start] = lambda start: house.intake.leave(LinkLost())
    assert (await house.run(await house.row())).status == "queued"


async def test_a_lost_link_loses_no_byte_that_arrived(house: House) -> None:
    def some(start: Start) -> None:
        house.agent.chunks(start.transfer, 3)
        house.intake.leave(LinkLost())

    house.agent.on[Start] = some
    transfer = await house.run(await house.row())
    assert (transfer.status, transfer.checkpoint, transfer.received) == ("interrupted", 3000, 3000)
    assert house.partial(transfer) == DATA[:3000]

    house.agent = Agent(DATA)
    transfer = await house.run(transfer)
    assert house.agent.told(Start)[0].ranges == ((3000, len(DATA) - 3000),)
    assert (transfer.status, house.landed) == ("completed", [DATA])


async def test_a_link_lost_while_old_bytes_are_hashed_keeps_them(house: House) -> None:
    row = await house.row("interrupted", checkpoint=5000, fingerprint="1", size=len(DATA))
    house.left_behind(row, DATA[:5000])
    house.agent.on[Start] = lambda start: house.intake.leave(LinkLost())
    transfer = await house.run(row)
    assert (transfer.status, transfer.checkpoint) == ("interrupted", 5000)
    assert house.partial(transfer) == DATA[:5000]


async def test_a_link_lost_while_an_older_writer_holds_the_file_leaves_it_waiting(
    house: House,
) -> None:
    row = await house.row("interrupted", checkpoint=5000, fingerprint="1", size=len(DATA))
    house.left_behind(row, DATA[:5000])
    holder = storage.PartialFile.resume(row.partial_path, 5000)

    def offer(request: Request) -> None:
        house.agent.offer(request)
        house.intake.leave(LinkLost())

    house.agent.on[Request] = offer
    transfer = await house.run(row)
    assert (transfer.status, transfer.checkpoint) == ("interrupted", 5000)
    holder.close()


async def test_a_link_lost_after_the_last_byte_is_no_loss(house: House) -> None:
    def all_of_it(start: Start) -> None:
        house.agent.send_on(start)
        house.intake.leave(LinkLost())

    house.agent.on[Start] = all_of_it
    transfer = await house.run(await house.row())
    assert (transfer.status, house.landed) == ("completed", [DATA])


async def test_bytes_that_come_slowly_are_on_disk_and_on_record_all_the_same(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more comes, and the checkpoint is made when its time is there."""
    monkeypatch.setattr(arrival_module, "CHECKPOINT_SECONDS", 0.05)
    recorded = asyncio.Event()
    record = Intake._record

    async def recording(self: Intake, received: int, checkpoint: int, written: int) -> None:
        await record(self, received, checkpoint, written)
        recorded.set()

    monkeypatch.setattr(Intake, "_record", recording)
    house.agent.on |= {Start: lambda start: house.agent.chunks(start.transfer, 1), Ack: silent}
    task = await house.start(row := await house.row())
    async with asyncio.timeout(PATIENCE):
        await recorded.wait()
    assert (await house.fresh(row)).checkpoint == 1000
    house.intake.leave(LinkLost())
    assert (await house.ended(task, row)).status == "interrupted"


# Somebody else decides ---------------------------------------------------------------------------


async def test_a_cancelled_transfer_is_cancelled_at_the_agent_and_its_bytes_are_gone(
    house: House,
) -> None:
    house.agent.on |= {
        Start: house.agent.send_three,
        Ack: silent,
        Cancel: silent,
    }
    task = await house.start(row := await house.row())
    await house.agent.hear(Ack)
    await house.cancel(row)
    house.intake.leave(Withdrawn())
    await house.agent.hear(Cancel)
    assert house.partial(row) is None
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done(), "it may begin anew only once the agent has confirmed"
    assert house.agent.overtaken(Chunk(row.pk, 3000, DATA[3000:4000]))
    house.agent.say(Abort(row.pk, "cancelled"))
    transfer = await house.ended(task, row)
    assert (transfer.status, house.landed, house.partial(row)) == ("cancelled", [], None)


async def test_a_cancelled_transfer_waits_no_longer_than_its_link_lives(house: House) -> None:
    house.agent.on |= {Start: silent, Cancel: lambda cancel: house.intake.leave(LinkLost())}
    task = await house.start(row := await house.row())
    await house.agent.hear(Start)
    await house.cancel(row)
    house.intake.leave(Withdrawn())
    assert (await house.ended(task, row)).status == "cancelled"


async def test_a_cancel_between_the_rename_and_the_row_leaves_nothing_in_the_downloads(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    landed = Transfer.landed

    def too_late(transfer: Transfer, epoch: int, **counts: Any) -> None:
        assert house.landed == [DATA]
        Transfer.objects.get(pk=transfer.pk).cancel()
        landed(transfer, epoch, **counts)

    monkeypatch.setattr(Transfer, "landed", too_late)
    transfer = await house.run(await house.row())
    assert (transfer.status, house.landed, house.partial(transfer)) == ("cancelled", [], None)
    assert len(house.agent.told(Cancel)) == 1
    assert house.agent.told(Landed) == []


async def test_what_somebody_else_completed_is_landed_for_the_agent_too(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    landed = Transfer.landed

    def twice(transfer: Transfer, epoch: int, **counts: Any) -> None:
        landed(Transfer.objects.get(pk=transfer.pk), epoch)
        landed(transfer, epoch, **counts)

    monkeypatch.setattr(Transfer, "landed", twice)
    transfer = await house.run(await house.row())
    assert (transfer.status, house.landed) == ("completed", [DATA])
    assert house.agent.told(Landed) == [Landed(transfer.pk, sha256(DATA))]
    assert house.agent.told(Cancel) == []


async def test_what_is_wrong_with_a_cancelled_transfer_does_not_matter(house: House) -> None:
    house.agent.digest = sha256(b"something else")
    house.agent.on[Start] = silent
    task = await house.start(row := await house.row())
    await house.agent.hear(Start)
    await house.cancel(row)
    house.agent.chunks(row.pk)
    house.agent.end(row.pk)
    transfer = await house.ended(task, row)
    assert (transfer.status, transfer.error_code) == ("cancelled", "cancelled")
    assert (house.landed, house.partial(row), len(house.agent.told(Cancel))) == ([], None, 1)


async def test_a_writer_of_an_older_epoch_writes_no_more_and_leaves_the_row_alone(
    house: House,
) -> None:
    house.agent.on |= {Start: house.agent.send_three, Ack: silent}
    task = await house.start(row := await house.row())
    await house.agent.hear(Ack)
    newer = await house.fresh(row)
    await sync_to_async(newer.claim)(EPOCH + 1)
    before = await Transfer.objects.filter(pk=row.pk).values().aget()
    house.intake.leave(Withdrawn())
    house.agent.chunks(row.pk)
    async with asyncio.timeout(PATIENCE):
        await task
    assert await Transfer.objects.filter(pk=row.pk).values().aget() == before
    assert house.partial(row) == DATA[:3000]
    assert house.landed == []
    assert not storage.is_busy(row.partial_path), "the newer connection may go on with it"


async def test_a_writer_of_an_older_epoch_can_land_nothing(house: House) -> None:
    house.agent.on |= {Start: lambda start: house.agent.chunks(start.transfer), Ack: silent}
    task = await house.start(row := await house.row())
    await house.agent.hear(Ack)
    newer = await house.fresh(row)
    await sync_to_async(newer.claim)(EPOCH + 1)
    before = await Transfer.objects.filter(pk=row.pk).values().aget()
    house.agent.end(row.pk)
    async with asyncio.timeout(PATIENCE):
        await task
    assert await Transfer.objects.filter(pk=row.pk).values().aget() == before
    assert (house.landed, len(house.agent.told(Cancel))) == ([], 1)


async def test_progress_that_meets_a_cancelled_row_ends_the_transfer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival_module, "PROGRESS_SECONDS", 0)
    house.agent.on |= {Start: silent}
    task = await house.start(row := await house.row())
    await house.agent.hear(Start)
    await house.cancel(row)
    house.agent.chunks(row.pk, 1)
    transfer = await house.ended(task, row)
    assert (transfer.status, house.partial(row)) == ("cancelled", None)
    assert len(house.agent.told(Cancel)) == 1


# The disk fails ----------------------------------------------------------------------------------

CODES = {errno.ENOSPC: "storage_full", errno.EIO: "storage_error"}


def fail(
    monkeypatch: pytest.MonkeyPatch, name: str, number: int, when: Callable[..., bool]
) -> None:
    """Have a call to the disk fail with this error."""
    call = getattr(os, name)

    def failing(*args: Any, **kwargs: Any) -> Any:
        if when(*args):
            raise OSError(number, os.strerror(number))
        return call(*args, **kwargs)

    monkeypatch.setattr(os, name, failing)  # the module that `storage` calls
    if name == "fdatasync":
        monkeypatch.setattr(storage, "_fdatasync", failing)


def always(*args: Any) -> bool:
    return True


def of_the_file(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def of_the_downloads(descriptor: int) -> bool:
    return os.path.samestat(os.fstat(descriptor), os.stat(settings.DOWNLOADS_DIR))


@pytest.mark.parametrize("number", CODES, ids=["full", "failing"])
@pytest.mark.parametrize(
    ("call", "when"),
    [
        pytest.param("pwritev", always, id="write"),
        pytest.param("fdatasync", always, id="checkpoint"),
        pytest.param("fsync", of_the_file, id="sync before the rename"),
        pytest.param("rename", always, id="rename"),
        pytest.param("fsync", of_the_downloads, id="sync after the rename"),
    ],
)
async def test_a_disk_that_fails_fails_the_transfer_and_lands_nothing(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    call: str,
    when: Callable[..., bool],
) -> None:
    monkeypatch.setattr(arrival_module, "CHECKPOINT_BYTES", 1)
    row = await house.row()
    with monkeypatch.context() as patch:
        fail(patch, call, number, when)
        transfer = await house.run(row)
    assert (transfer.status, transfer.error_code) == ("failed", CODES[number])
    assert transfer.error_detail == f"{os.strerror(number)} ({errno.errorcode[number]})"
    assert house.landed == []
    assert [abort.code for abort in house.agent.told(Abort)] == [CODES[number]]

    await sync_to_async(transfer.retry)()  # room was made, or the disk replaced
    house.agent = Agent(DATA)
    transfer = await house.run(transfer)
    assert (transfer.status, house.landed) == ("completed", [DATA])


async def test_a_disk_that_cannot_even_begin_the_file_fails_the_transfer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail(patch, "open", errno.ENOSPC, lambda path, *flags: str(path).endswith(".part"))
        transfer = await house.run(await house.row())
    assert (transfer.status, transfer.error_code) == ("failed", "storage_full")
    assert transfer.name == "till.db"


async def test_a_full_disk_keeps_what_was_on_disk_and_a_failing_one_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, tuple[int, bytes | None]] = {}
    for number, code in CODES.items():
        house.agent = Agent(DATA)
        row = await house.row("interrupted", checkpoint=5000, fingerprint="1", size=len(DATA))
        house.left_behind(row, DATA[:5000])
        with monkeypatch.context() as patch:
            fail(patch, "pwritev", number, always)
            transfer = await house.run(row)
        kept[code] = (transfer.checkpoint, house.partial(row))
    assert kept == {"storage_full": (5000, DATA[:5000]), "storage_error": (0, None)}


async def test_a_sync_that_failed_is_never_tried_again_on_the_same_file(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def count(descriptor: int) -> bool:
        calls.append(descriptor)
        return True

    def some(start: Start) -> None:
        house.agent.chunks(start.transfer, 3)
        house.intake.leave(LinkLost())

    house.agent.on[Start] = some
    with monkeypatch.context() as patch:
        fail(patch, "fdatasync", errno.EIO, count)
        transfer = await house.run(await house.row())
    assert (transfer.status, transfer.error_code) == ("failed", "storage_error")
    assert len(calls) == 1


async def test_a_disk_that_fails_just_when_the_agent_gives_up_holds_nobody_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's abort is the confirmation too: there is no other to wait for."""

    def some(start: Start) -> None:
        house.agent.chunks(start.transfer, 1)
        house.agent.say(Abort(start.transfer, "unreadable"))

    house.agent.on[Start] = some
    with monkeypatch.context() as patch:
        fail(patch, "pwritev", errno.EIO, always)
        task = await house.start(await house.row())
        done, _ = await asyncio.wait({task}, timeout=1)
    house.intake.leave(LinkLost())
    await task
    assert done


# Failures inside ---------------------------------------------------------------------------------


async def test_what_nobody_expected_fails_the_transfer_and_the_agent_is_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Arrival, buffers: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Arrival, "write", broken)
    transfer = await house.run(await house.row())
    assert (transfer.status, transfer.error_code) == ("failed", "internal")
    assert "bug" not in transfer.error_detail
    assert [abort.code for abort in house.agent.told(Abort)] == ["internal"]
    assert not storage.is_busy(transfer.partial_path)


async def test_a_failure_that_cannot_be_recorded_still_ends_it_and_tells_the_agent(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*args: object, **kwargs: object) -> None:
        raise OSError("the database is away")

    monkeypatch.setattr(Transfer, "offered", down)
    monkeypatch.setattr(Transfer, "fail", down)
    transfer = await house.run(await house.row())
    assert transfer.status == Status.REQUESTED, "asked for again at a later heartbeat"
    assert [abort.code for abort in house.agent.told(Abort)] == ["internal"]
    assert not storage.is_busy(transfer.partial_path)


async def test_a_request_that_cannot_be_made_fails_its_transfer_and_no_more(house: House) -> None:
    transfer = await house.run(await house.row(path="x" * 5000))
    assert (transfer.status, transfer.error_code) == ("failed", "internal")
