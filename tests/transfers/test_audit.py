"""The audit log: complete, append-only, and a chain that shows what was done to it."""

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from knox.models import AuthToken
from rest_framework.test import APIClient

from transfers.access import join_group
from transfers.acting import Actor, acting
from transfers.models import (
    AppendOnly,
    AuditHead,
    AuditRecord,
    Client,
    Event,
    Scope,
    Transfer,
    record,
    request_file,
    verify,
)

pytestmark = pytest.mark.django_db


def sql(statement: str, *values: Any) -> None:
    """What somebody does who has got at the database."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


def some_rows(count: int = 5) -> list[AuditRecord]:
    return [record(Event.REQUESTED, client=f"till{n}", reason="why not") for n in range(count)]


def events() -> list[str]:
    return list(AuditRecord.objects.order_by("number").values_list("event", flat=True))


def last(event: Event) -> AuditRecord:
    return AuditRecord.objects.filter(event=event).latest("number")


# The chain ---------------------------------------------------------------------------------------


def test_an_empty_log_is_whole() -> None:
    assert verify().problems == ()
    assert verify().rows == 0


def test_rows_are_numbered_without_a_gap_and_each_carries_the_hash_of_the_one_before() -> None:
    rows = some_rows()
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert [row.previous for row in rows[1:]] == [row.digest for row in rows[:-1]]
    verdict = verify()
    assert (verdict.rows, verdict.digest, verdict.problems) == (5, rows[-1].digest, ())


TAMPERING: dict[str, tuple[str, str]] = {
    "change who": ("UPDATE transfers_auditrecord SET actor='user eve' WHERE number=3", "row 3"),
    "change when": (
        "UPDATE transfers_auditrecord SET at='2001-01-01 00:00:00' WHERE number=3", "row 3",
    ),
    "change why": ("""UPDATE transfers_auditrecord SET details='{"a": 1}' WHERE number=3""", "row 3"),
    "change the first": ("UPDATE transfers_auditrecord SET client='x' WHERE number=1", "row 1"),
    "change the last": ("UPDATE transfers_auditrecord SET client='x' WHERE number=5", "row 5"),
    "change a hash": ("UPDATE transfers_auditrecord SET digest=previous WHERE number=3", "row 3"),
    "remove one": ("DELETE FROM transfers_auditrecord WHERE number=3", "rows 3 to 3: removed"),
    "remove the first": ("DELETE FROM transfers_auditrecord WHERE number=1", "rows 1 to 1"),
    "remove the last": ("DELETE FROM transfers_auditrecord WHERE number=5", "ends with row 4"),
    "remove all": ("DELETE FROM transfers_auditrecord", "ends with row 0"),
    "insert one": (
        "INSERT INTO transfers_auditrecord SELECT 6, at, actor, address, event, client, transfer, "
        "details, digest, previous FROM transfers_auditrecord WHERE number=5", "1 rows follow",
    ),
    "number anew": ("UPDATE transfers_auditrecord SET number=7 WHERE number=5", "ends with row 4"),
    "set the head back": ("UPDATE transfers_audithead SET number=4", "1 rows follow"),
    "remove the head": ("DELETE FROM transfers_audithead", "5 rows follow"),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERING)
def test_whatever_is_done_to_the_log_is_found(how: str) -> None:
    some_rows()
    statement, said = TAMPERING[how]
    sql(statement)
    assert said in "; ".join(verify().problems)
    err = StringIO()
    with pytest.raises(CommandError, match="tampered"):
        call_command("verify_audit", stdout=StringIO(), stderr=err)
    assert said in err.getvalue()


def test_a_log_that_was_written_anew_is_found_by_an_end_that_was_noted() -> None:
    some_rows()
    noted = StringIO()
    call_command("verify_audit", stdout=noted, stderr=StringIO())
    call_command("verify_audit", "--expect", noted.getvalue().strip(), stderr=StringIO())
    record(Event.CANCELLED, client="till1")
    call_command("verify_audit", "--expect", noted.getvalue().strip(), stderr=StringIO())
    sql("DELETE FROM transfers_auditrecord")
    sql("DELETE FROM transfers_audithead")
    some_rows()
    assert verify().problems == ()  # a chain as good as any
    err = StringIO()
    with pytest.raises(CommandError):
        call_command("verify_audit", "--expect", noted.getvalue().strip(), stderr=err)
    assert "written anew" in err.getvalue()


def test_what_was_noted_must_look_like_it() -> None:
    with pytest.raises(CommandError, match="17:3a7bd3"):
        call_command("verify_audit", "--expect", "5")


def test_the_program_itself_cannot_change_or_remove_a_row() -> None:
    (row,) = some_rows(1)
    row.actor = "user eve"
    deeds: list[Callable[[], Any]] = [
        row.save,
        row.delete,
        AuditRecord.objects.get(pk=1).save,
        AuditRecord.objects.all().delete,
        lambda: AuditRecord.objects.update(actor="user eve"),
    ]
    for deed in deeds:
        with pytest.raises(AppendOnly):
            deed()
    assert verify().problems == ()


def test_a_deed_that_is_rolled_back_leaves_no_row_and_no_gap(client1: Client) -> None:
    transfer = Transfer.objects.create(client=client1, status="completed")
    some_rows(1)
    with pytest.raises(Exception, match="is completed"):
        transfer.cancel()
    assert events() == ["requested"]
    assert AuditHead.objects.get().number == 1


class TestAnyText(TestCase):
    """A database gives details back as they were, whatever an agent or an operator has written."""

    @given(st.text(max_size=50), st.dictionaries(st.sampled_from("abc"), st.text() | st.integers()))
    def test_any_text_verifies(self, actor: str, details: dict[str, Any]) -> None:
        with acting(lambda: Actor(actor, actor)):
            record(Event.REQUESTED, client="till", **details)
        assert verify().problems == ()


def test_the_export_is_json_lines_that_anyone_can_verify() -> None:
    some_rows()
    out = StringIO()
    call_command("export_audit", stdout=out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["number"] for line in lines] == [1, 2, 3, 4, 5]
    assert out.getvalue().isascii()
    assert [line["previous"] for line in lines[1:]] == [line["digest"] for line in lines[:-1]]
    out = StringIO()
    call_command("export_audit", "--after", "4", stdout=out)
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == [
        "requested",
        "audit_exported",
    ]


# What is in it -----------------------------------------------------------------------------------


@pytest.fixture
def api(operator: User) -> APIClient:
    """An operator's program."""
    _, token = AuthToken.objects.create(operator)
    return APIClient(headers={"Authorization": f"Token {token}"}, REMOTE_ADDR="198.51.100.7")


def test_who_asked_for_what_why_and_from_where(api: APIClient, client1: Client) -> None:
    answer = api.post("/download/client1", {"path": "/a", "reason": "ticket 7"}, format="json")
    row = last(Event.REQUESTED)
    assert (row.actor, row.address, row.client) == ("user olga", "198.51.100.7", client1.pk)
    assert str(row.transfer) == answer.json()["id"]
    assert row.details == {"path": "/a", "reason": "ticket 7"}


@pytest.mark.usefixtures("client1")
def test_who_asks_for_what_is_under_way_is_on_record_too(api: APIClient) -> None:
    for _ in range(2):
        api.post("/download/client1", {"path": "/a"}, format="json")
    assert Transfer.objects.count() == 1
    assert [row.details.get("under_way", False) for row in AuditRecord.objects.filter(
        event="requested").order_by("number")] == [False, True]  # fmt: skip


def test_what_landed_with_which_hash(client1: Client) -> None:
    transfer = Transfer.objects.create(
        client=client1, status="verifying", source_sha256="ab" * 32, size=7, file="f"
    )
    transfer.landed(transfer.epoch)
    row = last(Event.LANDED)
    assert (row.actor, row.transfer) == ("server", transfer.pk)
    assert row.details == {"file": "f", "size": 7, "sha256": "ab" * 32}


def test_what_failed_and_why_once_it_is_final(client1: Client) -> None:
    transfer = Transfer.objects.create(client=client1, status="requested")
    transfer.fail(0, "unreadable", "busy\u202e")
    assert "failed" not in events()  # it is tried again
    transfer = Transfer.objects.create(client=client1, status="requested", duplicate=True)
    transfer.fail(0, "forbidden", "no\u202e")
    assert last(Event.FAILED).details == {"code": "forbidden", "detail": "no\\u202e"}


def test_who_cancelled_and_who_retried(api: APIClient, client1: Client) -> None:
    transfer = request_file(client1)
    api.post(f"/api/v1/transfers/{transfer.pk}/cancel/")
    assert last(Event.CANCELLED).actor == "user olga"
    failed = Transfer.objects.create(client=client1, status="failed")
    api.post(f"/api/v1/transfers/{failed.pk}/retry/")
    assert last(Event.RETRIED).actor == "user olga"


def test_who_made_it_slower_and_faster(api: APIClient, client1: Client) -> None:
    transfer = request_file(client1, rate_limit=4096)
    assert last(Event.REQUESTED).details["rate_limit"] == 4096
    for before, rate_limit in ((4096, 2048), (2048, None), (None, 4096)):
        api.patch(f"/api/v1/transfers/{transfer.pk}/", {"rate_limit": rate_limit}, format="json")
        row = last(Event.RATE_LIMITED)
        assert (row.actor, row.transfer) == ("user olga", transfer.pk)
        assert row.details == {"rate_limit": rate_limit or "none", "before": before or "none"}


def test_what_expired(client1: Client) -> None:
    transfer = request_file(client1, deadline=timezone.now())
    Transfer.objects.expire_due()
    assert last(Event.EXPIRED).transfer == transfer.pk


def test_what_was_refused(api: APIClient, client1: Client) -> None:
    assert api.post("/api/v1/clients/client1/revoke/").status_code == 403
    row = last(Event.REFUSED)
    assert (row.actor, row.details["action"]) == ("user olga", "revoke")
    assert client1.pk in row.details["path"]


def test_changes_of_clients(client1: Client) -> None:
    client1.label(["rome", "berlin", "rome"])
    assert last(Event.CLIENT_LABELLED).details == {"labels": ["berlin", "rome"]}
    client1.revoke()
    client1.revoke()
    assert events().count("client_revoked") == 1


def test_changes_of_users_and_rights_and_never_a_password() -> None:
    user = User.objects.create_user("otto", password="correct horse")
    assert last(Event.USER_CHANGED).details["user"] == "otto"
    assert last(Event.USER_CHANGED).details["created"] is True
    join_group(user, "viewer")
    assert last(Event.RIGHTS_CHANGED).details == {
        "of": "otto", "what": "groups", "change": "add", "which": ["viewer"],
    }  # fmt: skip
    user.is_staff = True
    user.set_password("battery staple")
    user.save()
    assert last(Event.USER_CHANGED).details == {
        "user": "otto", "changed": ["is_staff", "password"], "values": ["is_staff=True"],
    }  # fmt: skip
    Scope.objects.create(user=user)
    assert last(Event.RIGHTS_CHANGED).details == {"of": "otto", "what": "limited to labels"}
    user.scope.delete()
    assert "not limited" in last(Event.RIGHTS_CHANGED).details["what"]
    user.delete()
    assert last(Event.USER_REMOVED).details == {"user": "otto"}
    said = str(list(AuditRecord.objects.values()))
    assert "horse" not in said
    assert "staple" not in said
    assert "pbkdf2" not in said


def test_api_tokens_made_and_revoked_and_never_a_token(operator: User) -> None:
    made, token = AuthToken.objects.create(operator)
    assert last(Event.TOKEN_MADE).details["token"] == made.token_key
    made.delete()
    assert last(Event.TOKEN_REVOKED).details == {"user": "olga", "token": token[:15]}
    assert token not in str(list(AuditRecord.objects.values()))
