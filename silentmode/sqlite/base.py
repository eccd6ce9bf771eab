"""Django's SQLite, with connections that are used again, as psycopg's pool does it for PostgreSQL.

Django 5.2 pools connections for PostgreSQL only, and keeping one for each thread (`CONN_MAX_AGE`) does not
suit an ASGI server, whose requests come in a new thread each. But to open a SQLite database costs as much as
two queries (2.3 ms of CPU where a `get` by primary key takes 1.2 ms), as its functions are registered anew
and its pages and statements are read anew; and whoever closes the last connection writes the whole
write-ahead log back.
"""

import os
import sqlite3
from collections import defaultdict
from typing import Any

from django.db.backends.sqlite3 import base

MOST_IDLE = 16
"""Connections of one database that are kept for whoever comes next: each is two or three open files."""

_idle: dict[tuple[int, str], list[sqlite3.Connection]] = defaultdict(list)
"""By process, as a connection must not be carried over a fork, and by file."""


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection of one thread, lent from those that are idle."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> sqlite3.Connection:
        """One that another thread has given back, or a new one."""
        try:
            return self._idle.pop()  # atomic, as `append` is
        except IndexError:
            return super().get_new_connection(conn_params)  # type: ignore[no-any-return]

    def _close(self) -> None:
        """Give it back; close it where something may be wrong with it."""
        connection: sqlite3.Connection | None = self.connection
        if connection is None:
            return
        if self.errors_occurred or connection.in_transaction or len(self._idle) >= MOST_IDLE:
            super()._close()  # type: ignore[misc]  # of BaseDatabaseWrapper, unknown to the stubs
        else:
            self._idle.append(connection)

    @property
    def _idle(self) -> list[sqlite3.Connection]:
        return _idle[os.getpid(), str(self.settings_dict["NAME"])]
