"""One transaction for what belongs together, also where it is a part of a larger one."""

from contextlib import AbstractContextManager, nullcontext

from django.db import connection, transaction


def one_transaction() -> AbstractContextManager[None]:
    """A transaction, or the one that is under way.

    Without the savepoint of `transaction.atomic`, which are two queries more: so what raises in here without
    ending the larger transaction must not have changed anything yet.
    """
    return nullcontext() if connection.in_atomic_block else transaction.atomic()


def release_connection() -> None:
    """Give back the connection of this thread, whose request is answered for longer than it asks for.

    Django gives it back when the answer has ended: a stream, or a long download, would keep one of few.
    """
    if not connection.in_atomic_block:  # as in a test
        connection.close()
