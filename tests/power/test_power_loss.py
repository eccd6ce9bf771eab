"""The power fails: at any moment of a transfer, and whatever the disk then kept of what was not synced.

The real code pulls a small file; `disk` lists every moment at which the power may fail, and every state
that a strict disk may be found in after it. On each of them the real server starts again, and goes on
to the end. It must keep what it promised. `PROOFS` names each sync in the product, with the scenario
that fails without it.
"""

import asyncio
import os
import runpy
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from pytest_django import Settings

from agent.wire.messages import MAX_CHUNK, Ack, Start
from tests.transfers.test_intake import DATA, Agent, House
from transfers import arrival, recovery
from transfers.inbox import BATCH_BYTES, LinkLost
from transfers.models import Client, Status, StatusConflict, Transfer
from transfers.models.status import PENDING

from .disk import Killed, Point, Recorder, Row, Tree, write_tree
from .syncs import BASE, Sync, syncs_in

pytestmark = pytest.mark.django_db(transaction=True)

STEP = 1000
"""Bytes of a chunk; two are on their way at a time, and each third of these makes a checkpoint."""

SETTINGS = "silentmode/settings.py"


class Broken(Exception):
    """A promise was not kept after a power loss."""


class Server:
    """A server, its disk and its client, with one transfer."""

    def __init__(self, root: Path, client: Client, without: Sync | None) -> None:
        self.root = root
        self.data_dir = root / "srv/silentmode"
        self.client = client
        self.without = without
        self.house = House(client, self.data_dir)
        self.epoch = 0
        self.transfer = Transfer.objects.create(client=client)
        self.recorder = Recorder(root, self.transfer.pk)
        self.begun_at = 0
        """The point from which on the scenario is another than all others."""

    def start(self) -> None:
        """As its process does, from the settings on."""
        if self.without is not None and self.without.file == SETTINGS:
            exec(self.without.module(), {"__name__": "settings", "__file__": str(BASE / SETTINGS)})
        else:
            runpy.run_path(str(BASE / SETTINGS))
        recovery.at_start()

    async def attempt(self, agent: Agent | None = None) -> None:
        """The agent connects and is asked, until it landed or ended otherwise."""
        self.house.agent = agent or Agent(DATA, STEP)
        self.epoch += 1
        transfer = await self.fresh()
        await self.house.ended(await self.house.start(transfer, self.epoch), transfer)

    async def fresh(self) -> Transfer:
        return await self.house.fresh(self.transfer)

    def find(self, row: Row, tree: Tree) -> None:
        """This is in the database and on the disk when the power is back."""
        write_tree(self.root, tree)
        Transfer.objects.filter(pk=row["id"]).update(**row)


@pytest.fixture
def server(
    tmp_path: Path,
    client1: Client,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Server:
    """A server that has never been started; by an indirect parameter, without one of its syncs."""
    without: Sync | None = getattr(request, "param", None)
    (root := tmp_path / "disk").mkdir()
    server = Server(root, client1, without)
    settings.DATA_DIR = server.data_dir
    settings.PARTIAL_DIR = server.data_dir / "partial"
    settings.DOWNLOADS_DIR = server.data_dir / "downloads"
    settings.WINDOW = 2 * STEP
    monkeypatch.setenv("SILENTMODE_DATA_DIR", str(server.data_dir))
    batch = BATCH_BYTES + MAX_CHUNK  # is counted before it has come
    monkeypatch.setattr(arrival, "CHECKPOINT_BYTES", 3 * STEP - 1 + batch)
    # What the disk of this machine keeps is not asked, and would take most of the time.
    monkeypatch.setattr(os, "fsync", os.fstat)
    monkeypatch.setitem(
        connection.settings_dict["OPTIONS"], "init_command", "PRAGMA synchronous=OFF"
    )
    if without is not None and without.file != SETTINGS:
        without.remove(monkeypatch)
    return server


# What happens ------------------------------------------------------------------------------------

Scenario = Callable[[Server], Awaitable[None]]


class Leaving(Agent):
    """An agent whose link is lost after its third acknowledgement."""

    def __init__(self, data: bytes = DATA, fingerprint: str = "1") -> None:
        super().__init__(data, STEP)
        self.fingerprint = fingerprint
        self.on[Ack] = self.send_on_or_leave

    def send_on_or_leave(self, ack: Ack) -> None:
        if len(self.told(Ack)) < 3:
            self.send_on(ack)
        else:
            self.chunks(ack.transfer, 1)
            self.intake.leave(LinkLost())


async def a_transfer(server: Server) -> None:
    await server.attempt()


async def a_resumed_transfer(server: Server) -> None:
    await server.attempt(Leaving())
    await server.attempt()


async def another_source_at_the_second_attempt(server: Server) -> None:
    await server.attempt(Leaving(DATA[::-1], fingerprint="0"))
    await server.attempt()


async def killed(server: Server, after: str) -> None:
    """The server's process dies, the machine does not."""
    server.recorder.kill_after = after
    with pytest.raises(Killed):
        await server.attempt()
    server.begun_at = len(server.recorder.points) - 1


async def a_crash_between_a_sync_and_its_checkpoint(server: Server) -> None:
    await killed(server, "fdatasync")
    await sync_to_async(server.start)()
    await server.attempt()


async def a_crash_after_the_rename_and_a_start(server: Server) -> None:
    await killed(server, "rename")
    await sync_to_async(server.start)()


async def a_crash_after_the_rename_and_a_new_connection(server: Server) -> None:
    await killed(server, "rename")
    with pytest.raises(StatusConflict):
        await server.attempt()


async def a_crash_after_the_rename_and_a_revocation(server: Server) -> None:
    await killed(server, "rename")
    await sync_to_async(server.client.revoke)()
    await Client.objects.aupdate(revoked_at=None)  # what is looked at is the file


async def a_crash_after_the_rename_and_a_cancellation(server: Server) -> None:
    await killed(server, "rename")
    transfer = await server.fresh()
    await sync_to_async(transfer.cancel)()


SCENARIOS: list[Scenario] = [
    a_transfer,
    a_resumed_transfer,
    another_source_at_the_second_attempt,
    a_crash_between_a_sync_and_its_checkpoint,
    a_crash_after_the_rename_and_a_start,
    a_crash_after_the_rename_and_a_new_connection,
    a_crash_after_the_rename_and_a_revocation,
    a_crash_after_the_rename_and_a_cancellation,
]


# What is promised --------------------------------------------------------------------------------


async def replay(server: Server, scenario: Scenario) -> None:
    """Record the scenario from the first start on, and lose the power at every point of it."""
    asyncio.get_running_loop().set_debug(False)  # else most of the time goes into it
    with pytest.MonkeyPatch.context() as patch:
        await sync_to_async(server.recorder.start)(patch)
        await sync_to_async(server.start)()
        await scenario(server)
    key = (server.data_dir / "secret_key").read_bytes()
    seen = set()
    for point in reversed(server.recorder.points[server.begun_at :]):  # the last ones tell most
        for tree in point.trees:
            state = (tree, *point.row.values())
            if state not in seen:
                seen.add(state)
                await lose_power(server, point, tree, key)


async def lose_power(server: Server, point: Point, tree: Tree, key: bytes) -> None:
    await sync_to_async(server.find)(point.row, tree)
    try:
        assert dict(tree).get("srv/silentmode/secret_key", key) == key, "the secret key is another"
        await keep_promises(server, point.row)
    except (AssertionError, ImproperlyConfigured) as broken:
        kept = sorted((path, len(data)) for path, data in tree if data is not None)
        promise = str(broken).partition("\n")[0]
        raise Broken(
            f"{promise}: the power failed after {point.after}, left was {kept}"
        ) from broken


async def keep_promises(server: Server, row: Row) -> None:
    """Start again on what the disk kept, and go on to the end."""
    await sync_to_async(server.start)()
    transfer = await server.fresh()
    if transfer.status in PENDING:
        assert not server.house.landed, "a file that has not landed is in the downloads"
        await server.attempt()
        transfer = await server.fresh()
        [start] = server.house.agent.told(Start)
        [(begin, _)] = start.ranges
        same = row["fingerprint"] == server.house.agent.fingerprint
        assert not same or begin >= row["checkpoint"], "what is safe on disk is sent again"
    if transfer.status == Status.CANCELLED:
        assert not server.house.landed, "the file of a cancelled row is in the downloads"
        return
    assert transfer.status == Status.COMPLETED, f"it ends as {transfer.status}"
    assert transfer.landed_path is not None
    assert transfer.landed_path.is_file(), "a completed row has no file"
    assert server.house.landed == [DATA], "a completed row has other bytes"


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_it_keeps_its_promises_after_a_power_loss_at_any_moment(
    server: Server, scenario: Scenario
) -> None:
    await replay(server, scenario)


def test_the_database_keeps_what_it_committed() -> None:
    """What `disk` takes for granted of it: so is SQLite with a log that it syncs at each commit."""
    with connection.cursor() as cursor:
        assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert cursor.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"


# Each sync in the product ------------------------------------------------------------------------

STORAGE = "transfers/storage.py"
TRANSFER = "transfers/models/transfer.py"
RECOVERY = "transfers/recovery.py"

PROOFS: dict[Sync, tuple[Scenario, str]] = {
    Sync(SETTINGS, "_secret_key", "fsync"): (a_transfer, "the secret key is another"),
    Sync(RECOVERY, "_sync_data_directory", "sync_directory"): (
        a_transfer,
        "a completed row has no file",
    ),
    Sync(STORAGE, "sync_directory", "fsync"): (a_transfer, "a completed row has no file"),
    Sync(STORAGE, "PartialFile.checkpoint", "sync_directory"): (
        a_transfer,
        "what is safe on disk is sent again",
    ),
    Sync(STORAGE, "PartialFile.checkpoint", "_fdatasync"): (
        a_transfer,
        "what is safe on disk is sent again",
    ),
    Sync(STORAGE, "PartialFile.land", "fsync"): (a_transfer, "a completed row has other bytes"),
    Sync(STORAGE, "PartialFile.land", "sync_directory"): (
        a_transfer,
        "a completed row has no file",
    ),
    Sync(TRANSFER, "Transfer.finish_landing", "sync_directory"): (
        a_crash_after_the_rename_and_a_start,
        "a completed row has no file",
    ),
}
"""Each sync in the product, what shows that it is needed, and the promise that is broken without it."""

ALIAS = Sync(STORAGE, "", "fsync")
"""No call: what `_fdatasync` is on a system that has none. The uses of `_fdatasync` are listed."""


@pytest.mark.parametrize(
    ("server", "scenario", "promise"),
    [pytest.param(sync, *proof, id=str(sync)) for sync, proof in PROOFS.items()],
    indirect=["server"],
)
async def test_without_any_one_sync_a_power_loss_breaks_a_promise(
    server: Server, scenario: Scenario, promise: str
) -> None:
    with pytest.raises(Broken, match=promise):
        await replay(server, scenario)


def test_every_sync_in_the_product_has_its_proof() -> None:
    listed = [*PROOFS, ALIAS]
    assert sorted(map(str, syncs_in("transfers", "silentmode"))) == sorted(map(str, listed))
