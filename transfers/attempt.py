"""One attempt at a transfer, and every way in which it can end without landing.

Whatever ends it, the row gets the right status, the agent is told, and the partial file is closed: kept
as far as it can be trusted and is of use, and else removed.
"""

import logging
from collections.abc import Awaitable, Callable

from channels.db import database_sync_to_async
from django.db import InterfaceError, OperationalError

from agent.wire.display import shown
from agent.wire.messages import MAX_DETAIL, Abort, Cancel, Landed

from .arrival import Arrival, in_thread
from .claim import Claim
from .dialogue import Dialogue, Silence, TooSlow
from .inbox import AgentAborted, Broken, LinkLost, Withdrawn
from .models import Status, StatusConflict, Transfer, Usage
from .storage import StorageError
from .turns import TurnOver

log = logging.getLogger(__name__)


class Refused(Exception):
    """We end the attempt: `code` is from the table of error codes."""

    def __init__(self, code: str, detail: str, *, keep: bool = True) -> None:
        super().__init__(detail)
        self.code = code
        self.keep = keep


class Attempt:
    """The row as held by a connection, what is said to its agent, and the file as it arrives."""

    def __init__(self, claim: Claim, dialogue: Dialogue) -> None:
        self.claim = claim
        self.dialogue = dialogue
        self.arrival: Arrival | None = None
        self.uncounted_wire = 0
        """Bytes of payloads, as they came, that were written and are not on record yet."""
        self.all_sent = False
        self.in_place = False
        """The file has its final name, verified and synced: whatever fails now, it stays."""

    @property
    def transfer(self) -> Transfer:
        return self.claim.transfer

    async def see_through(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work, which lands the file or raises why not, and end accordingly. Never raises."""
        try:
            await self._to_an_end(work)
        except (OperationalError, InterfaceError):
            # The database is away: the row stays as it is, and a later look takes it up again.
            log.warning("%s: the database is away; leaving it", self.transfer, exc_info=True)
            await self._end(Cancel(self.transfer.pk))
        except Exception:
            log.exception("%s: failed inside", self.transfer)
            await self._fail_inside()
        finally:
            if self.arrival is not None:
                await self.arrival.close()
                await self._count(self.arrival.uncounted)

    async def _count(self, written: int) -> None:
        """What this attempt wrote last counts too, whatever became of it."""
        try:
            if self.uncounted_wire:
                await self.claim.do(Transfer.count_wire, self.uncounted_wire)
            if written:
                await database_sync_to_async(Usage.add)(self.transfer.client_id, written)
        except (OperationalError, InterfaceError):
            log.warning("%s: %d bytes were not counted", self.transfer, written, exc_info=True)

    async def _to_an_end(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._and_keep(work)
        except LinkLost:
            await self._interrupted()
        except (Withdrawn, StatusConflict):
            await self._withdrawn()
        except AgentAborted as aborted:
            await self._aborted(aborted.abort)
        except Broken as broken:
            await self._refuse("protocol_error", str(broken))
        except (Silence, TooSlow) as slow:
            await self._refuse("timed_out", str(slow))
        except TurnOver as over:
            await self._refuse("busy", str(over))
        except Refused as refused:
            await self._refuse(refused.code, str(refused), keep=refused.keep)
        except StorageError as error:
            await self._disk_failed(error)

    async def _and_keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """When the work is cut short, what has arrived is on disk for certain."""
        try:
            await work()
        except (LinkLost, Broken, Silence, TooSlow, TurnOver):
            await self._keep()
            raise
        except Refused as refused:
            if refused.keep:
                await self._keep()
            raise

    async def _keep(self) -> None:
        if self.arrival is not None:
            await self.arrival.checkpoint()

    async def _interrupted(self) -> None:
        """The link is lost, and all that arrived is kept."""
        try:
            await self.claim.do(Transfer.link_lost)
        except StatusConflict:
            await self._withdrawn()
            return
        log.info("%s: the link is lost; waiting for the client to come back", self.transfer)

    async def _withdrawn(self) -> None:
        """Somebody else decided: an operator ended it, or a newer connection took over."""
        transfer = await self.claim.look()
        log.info("%s: is %s now; this connection leaves it", transfer, transfer.status)
        if transfer.status == Status.COMPLETED and self.all_sent:
            await self.dialogue.land(Landed(transfer.pk, transfer.sha256))
            return
        await self._discard_unwanted()
        await self._end(Cancel(transfer.pk))

    async def _discard_unwanted(self) -> None:
        """Remove what arrived for a transfer that ended without a file; the row is fresh.

        Also where it was ended between the rename and the row.
        """
        if not self.transfer.is_final or self.transfer.status == Status.COMPLETED:
            return
        if self.arrival is not None:
            await self.arrival.give_back(keep=False)
        if self.transfer.landed_path is not None:
            await in_thread(self.transfer.landed_path.unlink, missing_ok=True)

    async def _aborted(self, abort: Abort) -> None:
        """The agent gave up; it sends nothing more, and waits for nothing."""
        log.info("%s: the agent says %s: %s", self.transfer, abort.code, shown(abort.detail))
        try:
            if abort.code != "source_changed":
                await self._keep()
            elif self.arrival is not None:  # what came is of a version that is no more
                await self.arrival.give_back(keep=False)
            await self._fail(abort.code, abort.detail)
        except StatusConflict:
            await self.claim.look()
            await self._discard_unwanted()
        except StorageError as error:
            await self._disk_failed(error)

    async def _disk_failed(self, error: StorageError) -> None:
        """A disk that is full has lost nothing; one that fails may have lost what it took before."""
        await self._refuse(error.code, str(error), keep=error.code == "storage_full")

    async def _refuse(self, code: str, detail: str, *, keep: bool = True) -> None:
        """We give this attempt up: the row first, then the agent."""
        log.warning("%s: %s: %s", self.transfer, code, shown(detail))
        try:
            await self._give_back(keep=keep)
            await self._fail(code, detail, keep=keep)
        except StatusConflict:
            await self._withdrawn()
            return
        await self._end(Abort(self.transfer.pk, code, detail[:MAX_DETAIL]))

    async def _give_back(self, *, keep: bool) -> None:
        """Before the row says so: its database may be on the same full disk."""
        if self.arrival is not None:
            try:
                await self.arrival.give_back(keep=keep)
            except StorageError as error:  # it fails twice; the first time is what counts
                log.warning("%s: could not give its space back: %s", self.transfer, error)

    async def _fail(self, code: str, detail: str, *, keep: bool = True) -> None:
        if code == "source_changed":  # may begin again
            await self.claim.do(Transfer.source_changed, detail)
        else:
            await self.claim.do(Transfer.fail, code, detail, keep=keep)

    async def _fail_inside(self) -> None:
        try:
            if not self.in_place:  # else the row waits for a look or a sweep to complete it
                await self.claim.do(Transfer.fail, "internal")
        except Exception:  # the row stays as it is, and is asked for again at a later heartbeat
            log.exception("%s: its failure could not be recorded", self.transfer)
        await self._end(Abort(self.transfer.pk, "internal"))

    async def _end(self, message: Cancel | Abort) -> None:
        """Let go of the partial file, and have the agent confirm that it sends no more."""
        if self.arrival is not None:
            await self.arrival.close()
        await self.dialogue.end(message)
