"""Codes and keys: what each use gives, to whom, and what the call that uses them answers."""

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from rest_framework.test import APIClient

from tests.online import authenticate_agent, came_online
from transfers import enrolment, recovery
from transfers.auth import AgentRefused
from transfers.models import (
    AuditRecord,
    Client,
    ClientConflict,
    Enrolment,
    EnrolmentKey,
    EnrolmentRefused,
    Label,
    Transfer,
    all_seen,
    enrol,
    make_code,
    make_key,
)
from transfers.throttle import REMEMBERED, Allowances, Failures
from transfers.tokens import CODE_ALPHABET, code_digest, digest, new_code

HOUR = timedelta(hours=1)
T1, T2 = digest("one"), digest("two")


@pytest.fixture
def invited(db: None) -> Client:
    return Client.objects.create(id="till-1")


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(EnrolmentRefused) as refused:
        enrol(*args, **kwargs)
    assert refused.value.detail.endswith((".", "code."))
    return refused.value.code


def events(name: str) -> list[dict[str, Any]]:
    return [row.details for row in AuditRecord.objects.filter(event=name)]


# Codes -------------------------------------------------------------------------------------------


def test_a_code_has_125_bits_and_begins_like_no_option() -> None:
    codes = {new_code() for _ in range(200)}
    assert len(codes) == 200
    assert set("".join(codes)) == {*CODE_ALPHABET, "-"}
    assert {len(code.replace("-", "")) for code in codes} == {25}
    assert len(CODE_ALPHABET) == 32
    assert not any(code.startswith("-") for code in codes)


@pytest.mark.parametrize("typed", ["o1lab-00000", " O I l A B00000 ", "01-1ab00000"])
def test_a_code_is_the_same_however_it_was_typed(typed: str) -> None:
    assert code_digest(typed) == code_digest("011AB-00000")


def test_a_code_is_stored_as_its_digest_only(invited: Client) -> None:
    code = make_code(invited, HOUR)
    everything = [*EnrolmentKey.objects.values(), *AuditRecord.objects.values()]
    assert code not in str(everything)
    assert code.replace("-", "") not in str(everything)


def test_a_code_makes_its_client_active_with_the_machines_own_token(invited: Client) -> None:
    assert invited.status == "invited"
    client = enrol(make_code(invited, HOUR), T1, hostname="a\nb", platform="Linux")
    assert (client.pk, client.status, client.token_sha256) == ("till-1", "active", T1)
    assert (client.hostname, client.platform) == (r"a\nb", "Linux")
    (said,) = events("client_enrolled")
    assert said["hostname"] == r"a\nb"
    assert AuditRecord.objects.get(event="client_enrolled").actor == "client till-1"


def test_the_same_token_again_is_answered_the_same(invited: Client) -> None:
    code = make_code(invited, HOUR)
    assert enrol(code, T1) == enrol(code, T1)
    EnrolmentKey.objects.update(expires_at=timezone.now() - HOUR)
    assert enrol(code, T1).status == "active", "the answer was lost for longer"
    assert len(events("client_enrolled")) == 1
    assert Enrolment.objects.count() == 1


def test_another_token_with_a_used_code_is_refused_and_on_record(invited: Client) -> None:
    code = make_code(invited, HOUR)
    enrol(code, T1)
    assert refusal(code, T2) == "code_used"
    assert Client.objects.get().token_sha256 == T1
    assert events("refused")[0]["code"] == "code_used"


def test_what_was_given_and_taken_back_is_not_given_again(invited: Client) -> None:
    code = make_code(invited, HOUR)
    enrol(code, T1)
    enrol(make_code(invited, HOUR), T2)
    assert refusal(code, T1) == "code_used"
    Client.objects.get().revoke()
    assert refusal(code, T1) == "code_used"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"expires_at": timezone.now() - HOUR}, "code_expired"),
        ({"revoked_at": timezone.now()}, "code_revoked"),
        ({"uses_left": 0}, "code_used"),
    ],
)
def test_a_code_that_is_over(invited: Client, values: dict[str, Any], code: str) -> None:
    made = make_code(invited, HOUR)
    EnrolmentKey.objects.update(**values)
    assert refusal(made, T1) == code
    assert Client.objects.get().status == "invited"


@pytest.mark.django_db
def test_a_code_that_never_was_leaves_no_trace_in_the_database() -> None:
    """Or whoever guesses would fill the audit log."""
    assert refusal(new_code(), T1) == "code_unknown"
    assert not AuditRecord.objects.exists()


def test_a_code_is_for_its_own_client(invited: Client) -> None:
    code = make_code(invited, HOUR)
    assert refusal(code, T1, wanted="till-2") == "wrong_id"
    assert enrol(code, T1, wanted="till-1") == invited


def test_only_the_newest_code_of_a_client_is_good(invited: Client) -> None:
    old = make_code(invited, HOUR)
    make_code(invited, HOUR)
    assert refusal(old, T1) == "code_revoked"


def test_a_revocation_voids_open_codes_and_a_later_code_lifts_it(client1: Client) -> None:
    open_code = make_code(client1, HOUR)
    client1.revoke()
    assert refusal(open_code, T1) == "code_revoked"
    later = make_code(client1, HOUR)
    recovery.tend()  # which fails what was asked in the very moment of a revocation
    client = enrol(later, T1)
    assert client.status == "active"
    assert events("client_enrolled")[0]["revocation_lifted"] is True


def test_a_new_enrolment_ends_the_old_token_and_a_rotation_under_way(
    client1: Client, token: str
) -> None:
    Client.objects.update(renewable=True, epoch=7)
    client1.refresh_from_db()
    all_seen([("client1", 7, timezone.now())])
    client1.rotate()
    assert client1.offer_token(7, digest("next"))
    client = enrol(make_code(client1, HOUR), T1)
    assert (client.next_token_sha256, client.rotate_requested_at, client.epoch) == (None, None, 8)
    assert not client.online, "the connection with the old token counts no more"
    for old in (token, "next"):
        with pytest.raises(AgentRefused):
            authenticate_agent("client1", {"authorization": f"Bearer {old}"})
    assert authenticate_agent("client1", {"authorization": "Bearer one"}) == client


def test_no_two_clients_have_one_token(client1: Client, invited: Client, token: str) -> None:
    code = make_code(invited, HOUR)
    assert refusal(code, digest(token)) == "token_taken"
    assert enrol(code, T1).status == "active", "the code is not used up by that"


# Keys --------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_key_makes_pending_clients_with_its_labels_until_it_is_used_up() -> None:
    key = make_key(2, HOUR, [Label(name="west")])
    for number in (1, 2):
        client = enrol(key, digest(str(number)), wanted=f"till-{number}")
        assert client.status == "pending"
        assert [label.pk for label in client.labels.all()] == ["west"]
    assert refusal(key, T1, wanted="till-3") == "code_used"
    assert Client.objects.count() == 2
    assert events("key_made")[0]["uses"] == 2


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("hostname", "name"),
    [("till-7", "till-7"), ("Kasse 3.berlin", "Kasse-3.berlin"), ("-.a_", "a"), ("k" * 99, "k" * 64)],
)  # fmt: skip
def test_a_new_client_is_called_as_its_host(hostname: str, name: str) -> None:
    assert enrol(make_key(1, HOUR), T1, hostname=hostname).pk == name


@pytest.mark.django_db
@pytest.mark.parametrize("hostname", ["", "...", "лавка"])
def test_a_host_name_that_makes_no_id_is_asked_for_one(hostname: str) -> None:
    assert refusal(make_key(1, HOUR), T1, hostname=hostname) == "id_needed"


def test_a_key_takes_over_nobody(client1: Client) -> None:
    key = make_key(5, HOUR)
    assert refusal(key, T1, wanted="client1") == "client_exists"
    assert refusal(key, T1, hostname="client1") == "client_exists"
    assert EnrolmentKey.objects.get().uses_left == 5


def test_a_token_that_a_rotation_has_sent_is_taken(rotating: Client) -> None:
    """Else the client that it was sent to could never begin to use it."""
    assert rotating.offer_token(3, T1)
    assert refusal(make_key(1, HOUR), T1, wanted="till-1") == "token_taken"
    assert events("refused")[-1]["code"] == "token_taken"
    assert not Client.objects.filter(pk="till-1").exists()
    assert rotating.take_token(T1)
    assert enrol(make_code(rotating, HOUR), T1) == rotating, "its own it may enrol anew with"


def test_taking_a_token_that_another_client_has_ends_that_offer_and_nothing_else(
    rotating: Client, token: str
) -> None:
    """A row from before such an enrolment was refused."""
    assert rotating.offer_token(3, T1)
    Client.objects.create(id="till-1", token_sha256=T1)
    assert not rotating.take_token(T1)
    assert authenticate_agent("client1", {"authorization": f"Bearer {token}"}) == rotating
    assert authenticate_agent("till-1", {"authorization": "Bearer one"}).pk == "till-1"
    assert rotating.offer_token(3, T2), "the rotation goes on with a new one"


@pytest.mark.django_db
def test_a_pending_client_is_let_in_once_it_is_approved() -> None:
    client = enrol(make_key(1, HOUR), T1, wanted="till-1")
    headers = {"authorization": "Bearer one"}
    with pytest.raises(AgentRefused) as refused:
        authenticate_agent("till-1", headers)
    assert (refused.value.code, refused.value.status) == ("pending", 403)
    with pytest.raises(ClientConflict) as conflict:
        client.check_served()
    assert conflict.value.code == "pending"
    for _ in range(2):
        client.approve()
    assert authenticate_agent("till-1", headers) == client
    assert len(events("client_approved")) == 1


@pytest.mark.django_db
def test_who_was_revoked_while_pending_cannot_be_approved() -> None:
    client = enrol(make_key(1, HOUR), T1, wanted="till-1")
    client.revoke()
    with pytest.raises(ClientConflict, match="revoked"):
        client.approve()


@pytest.mark.django_db
def test_a_revoked_key_lets_nobody_in_and_leaves_who_came() -> None:
    made = make_key(5, HOUR)
    client = enrol(made, T1, wanted="till-1")
    key = EnrolmentKey.objects.get()
    for _ in range(2):
        key.revoke()
    assert refusal(made, T2, wanted="till-2") == "code_revoked"
    assert enrol(made, T1, wanted="till-1") == client
    assert len(events("key_revoked")) == 1


# The call ----------------------------------------------------------------------------------------


@pytest.fixture
def api() -> Iterator[APIClient]:
    """Nobody, with no failures yet."""
    rate = enrolment.FAILURES / enrolment.FAILURE_SECONDS
    enrolment.failures = Allowances(enrolment.FAILURES, rate)
    yield APIClient()
    enrolment.failures = Allowances(enrolment.FAILURES, rate)


def call(api: APIClient, body: Any, **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = api.post(
        "/api/v1/enrol/", data, content_type="application/json", headers=headers
    )  # fmt: skip
    return answer.status_code, answer.json()


def test_the_call_needs_no_login_and_answers_with_client_and_status(
    api: APIClient, invited: Client
) -> None:
    body = {"code": make_code(invited, HOUR), "token_sha256": T1}
    for _ in range(2):
        assert call(api, body) == (201, {"client": "till-1", "status": "active"})
    keyed = {"code": make_key(1, HOUR), "token_sha256": T2, "client": None, "hostname": "till-2"}
    assert call(api, keyed) == (201, {"client": "till-2", "status": "pending"})


@pytest.mark.django_db
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"\xff", b"NaN", b"[" * 5000, b'{"a":' * 1500,
        {}, {"code": "x"}, {"code": 1, "token_sha256": T1}, {"code": "x", "token_sha256": "x"},
        {"code": "x", "token_sha256": T1.upper()}, {"code": "x", "token_sha256": T1 + "\n"},
        {"code": "x" * 101, "token_sha256": T1}, {"code": "x", "token_sha256": T1, "more": 1},
        {"code": "x", "token_sha256": T1, "client": "../x"},
        {"code": "x", "token_sha256": T1, "hostname": "x" * 256},
        {"code": "a\0b", "token_sha256": T1}, {"code": "\ud800", "token_sha256": T1},
        {"code": "x", "token_sha256": T1, "hostname": ["x"]},
    ],
)  # fmt: skip
def test_a_body_that_makes_no_sense_is_told_so(api: APIClient, body: Any) -> None:
    status, answer = call(api, body)
    assert status == 400
    assert answer["code"] in ("invalid", "parse_error")
    assert not AuditRecord.objects.exists()


@pytest.mark.django_db
def test_a_large_body_is_not_read(api: APIClient) -> None:
    status, answer = call(api, b" " * (enrolment.MAX_BODY + 1))
    assert (status, answer["code"]) == (413, "body_too_large")


@pytest.mark.django_db
def test_who_fails_too_often_has_to_wait_and_others_do_not(api: APIClient) -> None:
    body = {"code": new_code(), "token_sha256": T1}
    for _ in range(enrolment.FAILURES):
        assert call(api, body) == (
            403,
            {"code": "code_unknown", "detail": "The enrolment code is not known to this server."},
        )
    answer = api.post("/api/v1/enrol/", body, format="json")
    assert (answer.status_code, answer.json()["code"]) == (429, "throttled")
    assert 0 < int(answer.headers["Retry-After"]) <= enrolment.FAILURE_SECONDS
    other = api.post("/api/v1/enrol/", body, format="json", REMOTE_ADDR="192.0.2.9")
    assert other.status_code == 403


def guess_until_paused(api: APIClient) -> None:
    body = {"code": new_code(), "token_sha256": T1}
    while call(api, body)[0] != 429:
        pass


def test_a_code_is_good_although_a_neighbour_guesses(api: APIClient, invited: Client) -> None:
    """A shop's tills share one address with whoever is in its network."""
    guess_until_paused(api)
    body = {"code": make_code(invited, HOUR), "token_sha256": T1}
    assert call(api, body) == (201, {"client": "till-1", "status": "active"})
    assert call(api, body)[0] == 201, "nor is the answer lost, when it is asked for again"
    assert call(api, body | {"code": new_code()})[0] == 429


def test_who_has_a_code_cannot_fill_the_audit_log_with_it(api: APIClient, invited: Client) -> None:
    code = make_code(invited, HOUR)
    enrol(code, T1)
    answers = [call(api, {"code": code, "token_sha256": T2})[0] for _ in range(30)]
    assert set(answers[: enrolment.FAILURES]) == {403}
    assert answers[-1] == 429
    assert len(events("refused")) == answers.count(403)
    fresh = {"code": make_code(invited, HOUR), "token_sha256": T2}
    assert call(api, fresh)[0] == 201, "another code from there is not held up"


def test_a_whole_roll_out_comes_from_one_address(api: APIClient, db: None) -> None:
    key = make_key(enrolment.FAILURES + 5, HOUR)
    for number in range(enrolment.FAILURES + 5):
        body = {"code": key, "token_sha256": digest(str(number)), "client": f"till-{number}"}
        assert call(api, body)[0] == 201


def test_failures_are_forgotten_after_a_while_and_beyond_so_many_addresses() -> None:
    now = 0.0
    failures = Failures(2, 10.0, clock=lambda: now)
    for address in ("192.0.2.1", "2001:db8::1", "2001:db8::2"):
        failures.add(address)
    assert failures.pause("192.0.2.1") == 0.0
    assert failures.pause("2001:db8:0:0:ffff::1") == 5.0, "a /64 is one party"
    assert failures.pause("2001:db8:0:1::1") == 0.0
    assert failures.pause("::ffff:192.0.2.1") == 0.0
    now = 10.0
    assert failures.pause("2001:db8::1") == 0.0
    for number in range(REMEMBERED + 5):
        failures.add(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(failures) == REMEMBERED


# What operators do with clients ------------------------------------------------------------------


@pytest.fixture
def boss(db: None, django_user_model: Any) -> APIClient:
    api = APIClient()
    api.force_authenticate(django_user_model.objects.create_superuser("root"))
    return api


def test_a_pending_client_is_not_asked_and_an_invited_one_waits(
    boss: APIClient, invited: Client
) -> None:
    assert boss.post("/download/till-1").status_code == 202
    enrol(make_key(1, HOUR), T1, wanted="till-2")
    answer = boss.post("/download/till-2")
    assert (answer.status_code, answer.json()["code"]) == (409, "pending")
    assert Transfer.objects.count() == 1


def test_approve_and_rotate_by_api(boss: APIClient) -> None:
    enrol(make_key(1, HOUR), T1, wanted="till-1")
    answer = boss.post("/api/v1/clients/till-1/rotate/")
    assert (answer.status_code, answer.json()["code"]) == (409, "pending")
    answer = boss.post("/api/v1/clients/till-1/approve/")
    assert (answer.status_code, answer.json()["status"]) == (200, "active")
    answer = boss.post("/api/v1/clients/till-1/rotate/")
    assert answer.status_code == 200
    assert answer.json()["rotate_requested_at"]
    Client.objects.get().revoke()
    for call_ in ("approve", "rotate"):
        answer = boss.post(f"/api/v1/clients/till-1/{call_}/")
        assert (answer.status_code, answer.json()["code"]) == (409, "revoked")


def test_what_cannot_be_rotated_says_why(boss: APIClient, client1: Client, invited: Client) -> None:
    for name, code in (("client1", "not_renewable"), ("till-1", "invited")):
        answer = boss.post(f"/api/v1/clients/{name}/rotate/")
        assert (answer.status_code, answer.json()["code"]) == (409, code)


@pytest.mark.parametrize("call_", ["approve", "rotate"])
def test_an_operator_without_the_right_may_not(operator: Any, client1: Client, call_: str) -> None:
    api = APIClient()
    api.force_authenticate(operator)
    assert api.post(f"/api/v1/clients/client1/{call_}/").status_code == 403


# Rotation, in the row -----------------------------------------------------------------------------


@pytest.fixture
def rotating(client1: Client) -> Client:
    Client.objects.update(renewable=True, epoch=3)
    client1.refresh_from_db()
    client1.rotate()
    return client1


def test_both_tokens_are_let_in_until_the_new_one_was_shown(rotating: Client, token: str) -> None:
    assert rotating.offer_token(3, T1)
    assert authenticate_agent("client1", {"authorization": f"Bearer {token}"}) == rotating
    assert authenticate_agent("client1", {"authorization": "Bearer one"}).token_sha256 == T1
    with pytest.raises(AgentRefused):
        authenticate_agent("client1", {"authorization": f"Bearer {token}"})
    assert len(events("client_rotated")) == 1


def test_only_the_newest_connection_offers_and_only_while_it_is_wanted(rotating: Client) -> None:
    assert not rotating.offer_token(2, T1)
    assert rotating.offer_token(3, T1)
    rotating.take_token(T1)
    assert not rotating.offer_token(3, T2)


def test_a_token_that_was_not_offered_last_is_not_taken(rotating: Client) -> None:
    before = rotating.token_sha256
    rotating.offer_token(3, T1)
    rotating.offer_token(3, T2)
    rotating.take_token(T1)
    assert rotating.token_sha256 == before
    assert rotating.rotate_requested_at is not None


def test_a_second_wish_while_a_rotation_is_under_way_changes_nothing(rotating: Client) -> None:
    since = rotating.rotate_requested_at
    rotating.rotate()
    assert rotating.rotate_requested_at == since
    assert len(events("client_rotating")) == 1


# Commands ----------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_command_for_a_key_prints_it_alone(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("new_enrolment_key", "--uses", "3", "--valid-for", "8h", "--label", "west")
    out, err = capsys.readouterr()
    key = out.strip()
    assert enrol(key, T1, wanted="till-1").status == "pending"
    assert key not in err
    assert "agent enrol" in err
    assert AuditRecord.objects.get(event="key_made").actor.startswith("command ")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "arguments",
    [["--uses", "0"], ["--uses", "100001"], ["--uses", "1", "--valid-for", "1y"],
     ["--uses", "1", "--label", "a b"]],
)  # fmt: skip
def test_a_key_that_makes_no_sense(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("new_enrolment_key", *arguments)
    assert not EnrolmentKey.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "arguments",
    [["a b"], ["till-1", "--valid-for", "x"], ["till-1", "--token", "--valid-for", "1h"],
     ["till-1", "--renew"], ["till-1", "--label", "a b"]],
)  # fmt: skip
def test_a_registration_that_makes_no_sense_leaves_nothing(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("add_client", *arguments)
    assert not Client.objects.exists()
    assert not EnrolmentKey.objects.exists()
    assert not AuditRecord.objects.exists()


@pytest.mark.django_db
def test_a_lasting_token_is_made_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("add_client", "till-1", "--token")
    out, err = capsys.readouterr()
    token = out.strip()
    assert token not in err
    assert Client.objects.get().token_sha256 == hashlib.sha256(token.encode()).hexdigest()
    assert not EnrolmentKey.objects.exists()


@pytest.mark.django_db
def test_a_command_for_several_clients_does_what_it_can(
    client1: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    enrol(make_key(1, HOUR), T1, wanted="till-1")
    with pytest.raises(CommandError, match="no client 'nobody'"):
        call_command("approve_client", "till-1", "nobody")
    assert Client.objects.get(pk="till-1").status == "pending", "a slip of the pen does nothing"
    call_command("approve_client", "till-1")
    with pytest.raises(CommandError, match="client1 was given its token by hand"):
        call_command("rotate_token", "client1", "till-1")
    assert Client.objects.get(pk="till-1").rotate_requested_at is not None
    call_command("revoke_client", "client1", "till-1")
    assert {client.status for client in Client.objects.all()} == {"revoked"}


def test_a_connection_that_was_let_in_with_a_replaced_token_does_not_come_online(
    client1: Client,
) -> None:
    """Between its handshake and its `hello` the machine enrolled anew."""
    code = make_code(client1, HOUR)
    waiting = Client.objects.get(pk="client1")
    enrol(code, digest("the new token"))
    with pytest.raises(ClientConflict, match="replaced"):
        came_online(waiting, platform="", hostname="", agent_version="", renewable=True)
    assert not Client.objects.get(pk="client1").online


def test_revoking_again_voids_a_code_that_was_made_since(client1: Client) -> None:
    client1.revoke()
    code = make_code(client1, HOUR)
    client1.revoke()
    with pytest.raises(EnrolmentRefused, match="revoked"):
        enrol(code, digest("another token"))
