"""The check notices every broken promise: else a chaos run that ends well says nothing."""

from dataclasses import replace
from typing import Any

import pytest

from .check import Outcome, broken
from .plan import COMPLETED, MIB, Promise
from .source import Version

FILE = Version(10 * MIB, "a" * 64)
OTHER = Version(10 * MIB, "b" * 64)

PROMISE = Promise(COMPLETED | {"cancelled", "failed:not_found"}, again=8 * MIB)

ROW = {
    "status": "completed",
    "size": FILE.size,
    "received": FILE.size,
    "checkpoint": FILE.size,
    "sha256": FILE.sha256,
    "source_sha256": FILE.sha256,
    "error": None,
    "deadline": None,
    "finished_at": "2026-11-23T06:32:00Z",
}

TOLD = f"[client] SHA256: {FILE.sha256}\n[client] File sent successfully\n"

GOOD = Outcome(
    row=ROW,
    versions=(FILE,),
    landed=FILE,
    seconds=2.0,
    sent=FILE.size + 16 * MIB // 1024,
    agent_logs=(TOLD,),
    server_log="[server] Registered client till\n",
)

CANCELLED = replace(GOOD, row={**ROW, "status": "cancelled"}, landed=None, agent_logs=())


def with_row(**values: Any) -> Outcome:
    return replace(GOOD, row={**ROW, **values})


def test_a_promise_that_was_kept_is_left_in_peace() -> None:
    assert broken(PROMISE, GOOD) == []
    assert broken(PROMISE, CANCELLED) == []


def test_any_whole_version_of_a_source_may_land() -> None:
    assert broken(PROMISE, replace(GOOD, versions=(OTHER, FILE))) == []


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (replace(GOOD, versions=(OTHER,)), "wrong: what has landed"),
        (replace(GOOD, landed=OTHER), "wrong: what has landed"),
        (replace(GOOD, landed=None), "lost: completed, and there is no file"),
        (replace(GOOD, missing=frozenset({"till_1_a.bin"})), "landed files are lost"),
        (replace(GOOD, unclaimed=frozenset({"till_1_a.bin"})), "no completed row claims"),
        (replace(GOOD, seconds=None), "stuck"),
        (replace(GOOD, seconds=61.0), "late"),
        (replace(GOOD, sent=19 * MIB), "MiB were sent again"),
        (replace(GOOD, has_partial=True), "its partial file is still there"),
        (replace(GOOD, server_log="Traceback (most recent call last)"), "the server failed inside"),
        (replace(GOOD, agent_logs=("[client] failed inside: x",)), "the agent failed inside"),
        (
            replace(GOOD, agent_logs=(TOLD.replace("a" * 64, "b" * 64),)),
            "the agent was told that b",
        ),
        (replace(GOOD, complaints=("a broken promise",)), "a broken promise"),
        (with_row(sha256=OTHER.sha256), "the row says"),
        (with_row(source_sha256=OTHER.sha256), "the row says"),
        (with_row(received=1), "the row's sizes"),
        (with_row(error={"code": "storage_full", "detail": ""}), "completed, with an error"),
        (with_row(deadline="2026-11-23T06:31:00Z"), "after the deadline"),
        (with_row(status="expired"), "it ended as expired"),
        (
            with_row(status="failed", error={"code": "source_changed", "detail": ""}),
            "it ended as failed:source_changed",
        ),
        (replace(CANCELLED, landed=FILE), "cancelled, and there is a landed file"),
        (replace(CANCELLED, has_partial=True), "cancelled, and its partial file is still there"),
        (replace(CANCELLED, agent_logs=(TOLD,)), "the agent was told that its file has landed"),
        (replace(CANCELLED, row={}, seconds=None), "stuck"),
    ],
)
def test_a_broken_promise_is_noticed(outcome: Outcome, sentence: str) -> None:
    assert any(sentence in each for each in broken(PROMISE, outcome)), broken(PROMISE, outcome)


def test_what_django_says_of_a_request_in_a_stopping_server_is_no_failure() -> None:
    said = """2026-11-24 11:09:00,828 ERROR    Task exception was never retrieved
future: <Task finished coro=<ASGIHandler.listen_for_disconnect() done> exception=RequestAborted()>
Traceback (most recent call last):
  File "asgi.py", line 241, in listen_for_disconnect
    raise RequestAborted()
django.core.exceptions.RequestAborted
"""
    assert broken(PROMISE, replace(GOOD, server_log=said)) == []
    assert broken(PROMISE, replace(GOOD, server_log=f"{said}Traceback")) != []


def test_an_earlier_attempt_may_have_printed_another_digest() -> None:
    earlier = f"[client] SHA256: {OTHER.sha256}\n[client] Not sent\n"
    assert broken(PROMISE, replace(GOOD, agent_logs=(earlier + TOLD,))) == []


def test_what_is_sent_again_does_not_count_where_all_may_be() -> None:
    assert broken(Promise(COMPLETED, again=None), replace(GOOD, sent=100 * MIB)) == []


def test_a_failed_transfer_may_keep_its_partial_file_for_a_retry() -> None:
    row = {**ROW, "status": "failed", "error": {"code": "not_found", "detail": ""}}
    kept = replace(CANCELLED, row=row, has_partial=True)
    assert broken(PROMISE, kept) == []
