"""One transaction for what belongs together, also where it is a part of a larger one."""

from contextlib import AbstractContextManager, nullcontext

from django.db import connection, transaction


def one_transaction() -> AbstractContextManager[None]:
    """A transaction, or the one that is under way.

    Without the savepoint of `transaction.atomic`, which are two queries more: so what raises in here without
    ending the larger transaction must not have changed anything yet.
    """
    return nullcontext() if connection.in_atomic_block else transaction.atomic()
