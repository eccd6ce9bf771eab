"""What the connections of a process have to record at one moment, in one transaction."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, connection
from django.test.utils import CaptureQueriesContext

from transfers.claim import Claim, Step, take_steps
from transfers.models import AuditRecord, Client, StatusConflict, Transfer, Usage, verify

pytestmark = pytest.mark.django_db(transaction=True)

SHA = "ab" * 32

Make = Callable[..., Transfer]


@pytest.fixture
def make(client1: Client) -> Make:
    def make(status: str = "verifying", **values: Any) -> Transfer:
        known = {"client": client1, "status": status, "epoch": 5, "duplicate": True}
        return Transfer.objects.create(**known | values)

    return make


def landing(transfer: Transfer) -> Step:
    return Step(transfer, lambda: transfer.landed(5, written=3))


def statuses(*transfers: Transfer) -> list[str]:
    return [Transfer.objects.get(pk=transfer.pk).status for transfer in transfers]


def test_many_steps_are_one_transaction_and_each_is_recorded(make: Make) -> None:
    transfers = [make(size=3, source_sha256=SHA, file=f"{n}") for n in range(5)]
    with CaptureQueriesContext(connection) as queries:
        assert take_steps([landing(each) for each in transfers]) == [None] * 5
    said = [query["sql"].split()[0] for query in queries]
    assert (said.count("BEGIN"), said.count("COMMIT")) == (1, 1)
    assert said.count("SAVEPOINT") <= 2, (
        "for two rows that are there from now on, not for each step"
    )
    assert statuses(*transfers) == ["completed"] * 5
    landed = AuditRecord.objects.filter(event="landed")
    assert {row.transfer for row in landed} == {each.pk for each in transfers}
    assert len(landed) == 5
    assert verify().problems == ()
    assert Usage.objects.get().written == 15


def test_a_step_that_was_too_late_does_not_keep_the_others(make: Make) -> None:
    first, late, last = (make(size=3, source_sha256=SHA, file=f"{n}") for n in range(3))
    Transfer.objects.filter(pk=late.pk).update(status="cancelled")
    answers = take_steps([landing(each) for each in (first, late, last)])
    assert [type(answer) for answer in answers] == [type(None), StatusConflict, type(None)]
    assert statuses(first, late, last) == ["completed", "cancelled", "completed"]
    assert late.status == "cancelled", "it has looked"
    assert Usage.objects.get().written == 6, "what was too late is counted by its attempt"


def test_what_fails_leaves_all_as_it_was(make: Make) -> None:
    """Rows, and what each transfer takes its row to be: the steps are taken again, each alone."""
    first = make(size=3, source_sha256=SHA, file="1")
    before = dict(first.__dict__)

    def fails() -> None:
        raise IntegrityError("a name that is reserved")

    with pytest.raises(IntegrityError):
        take_steps([landing(first), Step(make(), fails)])
    assert statuses(first) == ["verifying"]
    assert first.__dict__ == before
    assert not AuditRecord.objects.exists()
    assert not Usage.objects.exists()
    assert take_steps([landing(first)]) == [None]
    assert statuses(first) == ["completed"]


async def test_names_that_are_wanted_at_one_moment_get_numbers(make: Make) -> None:
    """Two tills' worth of `a.db`, in one batch: the names are told apart when each is reserved alone."""
    transfers = [await sync_to_async(make)("receiving", name="a.db", size=9) for _ in range(3)]
    names = await asyncio.gather(
        *(Claim(each, 5).do(Transfer.verified, sha256=SHA) for each in transfers)
    )
    assert len(set(names)) == 3
    for name, transfer in zip(names, transfers, strict=True):
        assert (await Transfer.objects.aget(pk=transfer.pk)).file == name.name


async def test_a_claim_raises_what_its_own_step_came_to(make: Make) -> None:
    mine, others = [await sync_to_async(make)("receiving", name="a", size=9) for _ in range(2)]
    answers = await asyncio.gather(
        Claim(mine, 5).do(Transfer.verified, sha256=SHA),
        Claim(others, 4).do(Transfer.verified, sha256=SHA),
        return_exceptions=True,
    )
    assert isinstance(answers[1], StatusConflict)
    assert (await Transfer.objects.aget(pk=mine.pk)).status == "verifying"
    assert (await Transfer.objects.aget(pk=others.pk)).status == "receiving"
