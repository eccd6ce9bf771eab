"""An UPDATE of a row that is as it is expected to be, or of none."""

import uuid
from datetime import UTC, datetime

import pytest
from django.core.exceptions import FieldDoesNotExist

from transfers.models import Client, Status, Transfer
from transfers.models.compare_and_set import Plus, SameAs, compare_and_set

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 23, 6, 32, tzinfo=UTC)


@pytest.fixture
def transfer(client1: Client) -> Transfer:
    return Transfer.objects.create(client=client1, epoch=5, checkpoint=7, attempts=2, size=9)


def test_a_row_that_is_as_expected_is_changed_and_no_other(transfer: Transfer) -> None:
    other = Transfer.objects.create(client=transfer.client, duplicate=True)
    expected = {"id": transfer.pk, "status": Status.QUEUED, "epoch": 5}
    values = {
        "status": Status.RECEIVING,
        "received": SameAs("checkpoint"),
        "attempts": Plus(3),
        "started_at": NOW,
        "size": None,
        "name": "%s \"'; DROP TABLE transfers_transfer; --",
    }
    assert compare_and_set(Transfer, expected, values)
    transfer.refresh_from_db()
    assert (transfer.status, transfer.received, transfer.attempts) == ("receiving", 7, 5)
    assert (transfer.started_at, transfer.size, transfer.name) == (NOW, None, values["name"])
    other.refresh_from_db()
    assert (other.status, other.attempts) == ("queued", 0)


@pytest.mark.parametrize("other", [{"epoch": 4}, {"status": "failed"}, {"id": uuid.uuid4()}])
def test_a_row_that_is_not_as_expected_stays(transfer: Transfer, other: dict[str, object]) -> None:
    expected = {"id": transfer.pk, "status": "queued", "epoch": 5} | other
    assert not compare_and_set(Transfer, expected, {"status": "receiving"})
    transfer.refresh_from_db()
    assert transfer.status == "queued"


@pytest.mark.parametrize("name", ["nonsense", 'status" = 1 --'])
def test_what_is_no_field_is_an_error(transfer: Transfer, name: str) -> None:
    with pytest.raises(FieldDoesNotExist):
        compare_and_set(Transfer, {"id": transfer.pk}, {name: 1})


def test_what_has_no_column_is_an_error(client1: Client) -> None:
    with pytest.raises(TypeError, match="no column"):
        compare_and_set(Client, {"id": "client1"}, {"transfers": 1})
