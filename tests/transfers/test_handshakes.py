"""Failed handshakes of one address: bounded, refused from memory, and no till locked out by a neighbour."""

import pytest
from pytest_django import DjangoAssertNumQueries

from transfers.auth import AgentRefused
from transfers.handshakes import FAILURES_AT_ONCE, SNAPSHOT_SECONDS, Handshake, Handshakes
from transfers.models import Client

pytestmark = pytest.mark.django_db

HERE, THERE = "192.0.2.1", "192.0.2.2"
WRONG = {"authorization": "Bearer wrong"}


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def door(time: Time) -> Handshakes:
    """A door at which an address has failed as often as it may."""
    door = Handshakes(time)
    for _ in range(FAILURES_AT_ONCE):
        assert refused(door).code == "unauthorized"
    return door


def refused(
    door: Handshakes, host: str = HERE, headers: dict[str, str] = WRONG, client: str = "client1"
) -> AgentRefused:
    with pytest.raises(AgentRefused) as caught:
        door.admit(host, client, headers)
    return caught.value


def test_an_address_that_failed_too_often_is_told_when_to_try_again(door: Handshakes) -> None:
    answer = refused(door)
    assert (answer.status, answer.code, answer.retry_after) == (429, "too_many_failures", 2)


def test_it_is_refused_from_memory(
    door: Handshakes, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    refused(door)
    with django_assert_num_queries(0):
        for number in range(100):
            assert refused(door, headers={"authorization": f"Bearer {number}"}).status == 429
    with pytest.raises(AgentRefused):
        door.check(HERE, WRONG)


def test_a_till_behind_the_same_address_is_let_in_with_a_token_that_is_known(
    door: Handshakes, client1: Client, token: str
) -> None:
    headers = {"authorization": f"Bearer {token}"}
    assert door.admit(HERE, "client1", headers) == client1
    door.check(HERE, headers)


def test_a_till_that_is_registered_meanwhile_is_let_in_soon(
    door: Handshakes, time: Time, request: pytest.FixtureRequest, token: str
) -> None:
    refused(door)
    headers = {"authorization": f"Bearer {token}"}
    client = request.getfixturevalue("client1")
    assert refused(door, headers=headers).status == 429
    time.now += SNAPSHOT_SECONDS
    for _ in range(FAILURES_AT_ONCE):
        refused(door)
    assert door.admit(HERE, "client1", headers) == client


def test_a_known_token_with_another_id_is_refused_for_what_it_is(
    door: Handshakes, client1: Client, token: str
) -> None:
    headers = {"authorization": f"Bearer {token}"}
    assert refused(door, headers=headers, client="client2").code == "wrong_id"


def test_other_addresses_are_not_concerned(door: Handshakes) -> None:
    assert refused(door, THERE).code == "unauthorized"


def test_success_costs_nothing(client1: Client, token: str, time: Time) -> None:
    door = Handshakes(time)
    for _ in range(2 * FAILURES_AT_ONCE):
        door.admit(HERE, "client1", {"authorization": f"Bearer {token}"})
    assert refused(door).code == "unauthorized"


def test_failures_are_forgiven_with_time(door: Handshakes, time: Time) -> None:
    time.now += 3
    assert [refused(door).status for _ in range(4)] == [401, 401, 401, 429]


def test_a_subscriber_with_a_whole_network_is_one_address(time: Time) -> None:
    door = Handshakes(time)
    for number in range(FAILURES_AT_ONCE):
        assert refused(door, f"2001:db8::{number:x}").status == 401
    assert refused(door, "2001:db8::ffff").status == 429
    assert refused(door, "2001:db8:0:1::1").status == 401


def test_many_that_come_together_are_judged_each_for_itself(
    door: Handshakes, client1: Client, token: str, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """One look-up for all, and none for who is refused from memory."""
    known = {"authorization": f"Bearer {token}"}
    refused(door)
    asked = [
        Handshake(THERE, "client1", known),
        Handshake(HERE, "client1", WRONG),
        Handshake(THERE, "client2", known),
        Handshake(HERE, "client1", known),
        Handshake(THERE, "client1", {}),
    ]
    with django_assert_num_queries(1):
        answers = door.admit_all(asked)
    codes = [getattr(answer, "code", None) for answer in answers]
    assert codes == [None, "too_many_failures", "wrong_id", None, "unauthorized"]
    assert answers[0] == answers[3] == client1
    assert answers[0] is not answers[3], "each connection has its own"
