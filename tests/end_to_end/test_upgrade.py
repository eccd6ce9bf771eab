"""A database of an older version is brought up to date, on SQLite and on PostgreSQL."""

from pathlib import Path

import pytest

from tests.end_to_end.harness import Server
from tests.end_to_end.test_workers import postgres

__all__ = ["postgres"]  # the fixture

OLD_ROWS = """
from django.contrib.auth.models import User
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
apps = MigrationExecutor(connection).loader.project_state(("transfers", "0001_initial")).apps
Client, Transfer = apps.get_model("transfers", "Client"), apps.get_model("transfers", "Transfer")
client = Client.objects.create(id="client1", token_sha256="1")
user = apps.get_model("auth", "User").objects.get(username="operator")
for key in ("k", "l"):
    Transfer.objects.create(client=client, path="/a", requested_by=user, idempotency_key=key)
"""

NEW_ROWS = """
from transfers.models import Client, Transfer, asked_before, request_file
from django.contrib.auth.models import User
user = User.objects.get(username="operator")
old = list(Transfer.objects.order_by("created_at"))
assert [asked_before(user, key)[0] for key in ("k", "l")] == old
assert all(transfer.duplicate and len(transfer.path_key) == 64 for transfer in old)
client = Client.objects.get()
new = request_file(client, "/a")
assert new not in old and request_file(client, "/a") == new
print("fine")
"""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_live_transfers_and_keys_of_an_older_database_are_kept(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment = {}
    if database == "postgresql":
        environment["DATABASE_URL"] = request.getfixturevalue("postgres")
    server = Server(tmp_path / "server", **environment)
    server.manage("migrate", "transfers", "0001")
    server.manage("shell", "-v", "0", "-c", OLD_ROWS)
    server.manage("migrate")
    assert server.manage("shell", "-v", "0", "-c", NEW_ROWS) == "fine"
