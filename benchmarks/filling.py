"""A database as large as the console has to bear: run by `manage.py shell`."""

import random
from datetime import datetime, timedelta

from django.utils import timezone

from transfers.models import Client, Label, Status, Transfer

LABELS = 20
SHARES = {
    Status.COMPLETED: 80,
    Status.FAILED: 10,
    Status.CANCELLED: 5,
    Status.QUEUED: 5,
}
"""Of a hundred transfers."""

AT_ONCE = 500


def fill(clients: int, transfers: int) -> None:
    """So many rows of each: two of three clients online, a transfer asked for every minute."""
    now, chance = timezone.now(), random.Random(1)  # the same ones each time
    names = [f"till-{number:05}" for number in range(clients)]
    Client.objects.bulk_create(
        [
            Client(
                id=name,
                token_sha256=f"{number:064}",
                online_since=now - timedelta(days=1),
                online_until=now + timedelta(hours=1 if number % 3 else -1),
                last_seen=now - timedelta(seconds=number),
                hostname=f"host{number}",
                platform="Linux",
                agent_version="1.0",
            )
            for number, name in enumerate(names)
        ],
        batch_size=AT_ONCE,
    )
    Label.objects.bulk_create([Label(name=f"city{number}") for number in range(LABELS)])
    through = Client.labels.through
    through.objects.bulk_create(
        [
            through(client_id=name, label_id=f"city{number % LABELS}")
            for number, name in enumerate(names)
        ],
        batch_size=AT_ONCE,
    )
    statuses = chance.choices(list(SHARES), list(SHARES.values()), k=transfers)
    Transfer.objects.bulk_create(
        (
            _transfer(number, chance.choice(names), status, now - timedelta(minutes=number))
            for number, status in enumerate(statuses)
        ),
        batch_size=AT_ONCE,
    )


def _transfer(number: int, client: str, status: Status, asked: datetime) -> Transfer:
    has_landed, is_queued = status == Status.COMPLETED, status == Status.QUEUED
    return Transfer(
        client_id=client,
        path=f"/var/data/{number}.db",
        path_key=f"{number:064}",
        duplicate=True,
        status=status,
        name="" if is_queued else f"{number}.db",
        size=None if is_queued else 10**6,
        received=0 if is_queued else 10**6,
        file=f"{client}_{number}.db" if has_landed else None,
        sha256=f"{number:064x}" if has_landed else "",
        source_sha256=f"{number:064x}" if has_landed else "",
        error_code="timed_out" if status == Status.FAILED else "",
        created_at=asked,
        started_at=None if is_queued else asked,
        finished_at=None if is_queued else asked + timedelta(seconds=2),
    )
