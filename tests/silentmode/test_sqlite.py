"""SQLite's connections, used again: by one after the other, and never by two."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.sqlite3.base import DatabaseWrapper as DjangosWrapper

from silentmode.sqlite.base import MOST_IDLE, DatabaseWrapper

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Callable[[], DatabaseWrapper]]:
    """Makes what another thread would have, of the same empty database."""
    settings = {
        **connections.settings["default"],
        "NAME": tmp_path / "db.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 0},
    }
    made: list[DatabaseWrapper] = []

    def make() -> DatabaseWrapper:
        made.append(DatabaseWrapper(settings, alias="another"))
        made[-1].inc_thread_sharing()
        return made[-1]

    yield make
    for each in made:
        each.close()


def ask(wrapper: BaseDatabaseWrapper, sql: str) -> Any:
    with wrapper.cursor() as cursor:
        return cursor.execute(sql).fetchone()


def test_who_comes_next_has_the_connection_of_who_went(new: Callable[[], DatabaseWrapper]) -> None:
    first, second = new(), new()
    first.ensure_connection()
    used = first.connection
    first.close()
    assert first.connection is None
    second.ensure_connection()
    assert second.connection is used
    assert ask(second, "PRAGMA foreign_keys") == (1,)


def test_two_at_once_have_one_each(new: Callable[[], DatabaseWrapper]) -> None:
    wrappers = [new() for _ in range(MOST_IDLE + 4)]
    for each in wrappers:
        each.ensure_connection()
    assert len({id(each.connection) for each in wrappers}) == len(wrappers)
    for each in wrappers:
        each.close()
    assert len(wrappers[0]._idle) == MOST_IDLE, "the rest are closed"


def test_what_was_not_committed_is_gone(new: Callable[[], DatabaseWrapper]) -> None:
    """A connection that is closed in the middle of a transaction is nobody's any more."""
    first, second = new(), new()
    ask(first, "CREATE TABLE thing (name TEXT)")
    first.set_autocommit(False)
    ask(first, "INSERT INTO thing VALUES ('half')")
    used = first.connection
    first.close()
    assert ask(second, "SELECT count(*) FROM thing") == (0,)
    assert second.connection is not used


def test_one_that_failed_is_not_used_again(new: Callable[[], DatabaseWrapper]) -> None:
    first, second = new(), new()
    first.ensure_connection()
    used = first.connection
    with pytest.raises(OperationalError):
        ask(first, "SELECT * FROM nothing")
    first.close()
    second.ensure_connection()
    assert second.connection is not used


def test_threads_that_come_and_go_share_a_few() -> None:
    """As the requests of an ASGI server do: each has a thread of its own."""
    opened = 0
    get_new_connection = DjangosWrapper.get_new_connection

    def counted(self: DatabaseWrapper, parameters: dict[str, Any]) -> Any:
        nonlocal opened
        opened += 1
        return get_new_connection(self, parameters)

    def request() -> None:
        with transaction.atomic():
            ask(connections["default"], "SELECT 1")
        connections.close_all()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DjangosWrapper, "get_new_connection", counted)
        for _ in range(20):
            thread = threading.Thread(target=request)
            thread.start()
            thread.join()
    assert opened <= 1
