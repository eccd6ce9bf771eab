"""One run on the stage: a link, an agent, a source, one transfer; faults strike and are mended.

Three kinds of threads meet here: the lane's own, which plays the run and looks at the row; the link's,
in which faults strike at their very byte; and one for each fault that has struck, which mends it.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.end_to_end.harness import FINAL, PATIENCE, AgentProgram, Program, Server
from tests.link import Link

from .plan import Fault, Plan, Strike
from .source import Source

LOOK_SECONDS = 0.1
STUCK_SECONDS = 150.0
"""After the last fault: what has not ended by now is stuck, and not only late."""

UNREACHABLE = (OSError, HTTPException, ValueError)
"""What a call ends with when the server is killed, away, or in the middle of either."""

SUPERVISED_SECONDS = 1.0
"""After which an agent that gave up is started again, as systemd does after a minute."""

REFUSED = 3
"""The exit status of an agent that the server refused: a flipped bit in its token does that."""


class Stopped(Exception):
    """Another lane has found a broken promise."""


@dataclass(eq=False)
class Hit:
    """A strike of the plan, and what became of it."""

    strike: Strike
    struck: int = 0
    began_at: float = 0.0
    over_at: float | None = 0.0
    """None: not over yet."""
    call_off: Callable[[], object] = bool
    """Ends the wait for a fault that says itself when it strikes."""

    @property
    def fault(self) -> Fault:
        return self.strike.fault


class Scene:
    """One run, from an idle server to an idle server."""

    def __init__(
        self,
        plan: Plan,
        server: Server,
        link: Link,
        client: tuple[str, str],
        folder: Path,
        stop: threading.Event,
    ) -> None:
        self.plan = plan
        self.server = server
        self.link = link
        self.client, self._token = client
        self.folder = folder
        self.stop = stop
        self.hits = [Hit(strike) for strike in plan.strikes]
        self.agents: list[AgentProgram] = []
        """All that there were."""
        self.dismissed: set[Program] = set()
        """Programs that were ended, or are about to be, by a fault."""
        self.complaints: list[str] = []
        """Promises that were seen to be broken on the way."""
        self.journal: list[str] = []
        self.transfer = ""
        self._began_at = time.monotonic()
        self._closed = False
        self._lock = threading.RLock()
        self._menders = ThreadPoolExecutor(thread_name_prefix="mender")
        (folder / "source").mkdir(parents=True)
        name = f"data-{plan.number}.bin"
        self.source = Source(folder / "source" / name, plan.size, plan.strikes[0].throw())

    # The run ------------------------------------------------------------------------------------

    def play(self) -> float | None:
        """From the request to its end: seconds from the last fault's end; None: it is stuck."""
        if self.plan.rate:
            self.link.slow_down(self.plan.rate)
        try:
            for step in self._opening():
                step()
            return self._see_through()
        except AssertionError as error:
            self.complain(f"{error}")
            return None
        finally:
            self._close()

    def _opening(self) -> Iterator[Any]:
        if self.plan.queued:
            yield self.ask
        for hit in self.hits:
            yield lambda hit=hit: hit.fault.arm(self, hit)
        yield self.start_agent
        if not self.plan.queued:
            yield self.ask

    def _see_through(self) -> float | None:
        while not self.stop.wait(LOOK_SECONDS):
            if self.row().get("status") in FINAL and not self._is_mending:
                # Looked at again: it may have ended before a fault that made it begin anew.
                if (row := self.row()).get("status") in FINAL:
                    self.note(f"{row['status']}")
                    return max(0.0, time.monotonic() - self._last_fault_over)
            elif not self._is_mending and self._since_faults > STUCK_SECONDS:
                return None
            self._supervise()
        raise Stopped

    def _close(self) -> None:
        """No fault strikes any more, and those that have struck are over."""
        with self._lock:
            self._closed = True
        for hit in self.hits:
            hit.call_off()
        self._menders.shutdown()
        for agent in self.agents:
            if agent.process.poll() is None:
                self.check_agent_end(agent, agent.terminate())

    @property
    def _is_mending(self) -> bool:
        return any(hit.over_at is None for hit in self.hits)

    @property
    def _last_fault_over(self) -> float:
        return max([self._began_at, *(hit.over_at or 0.0 for hit in self.hits)])

    @property
    def _since_faults(self) -> float:
        return time.monotonic() - self._last_fault_over

    # Faults -------------------------------------------------------------------------------------

    def note(self, what: str) -> None:
        seconds = time.monotonic() - self._began_at
        self.journal.append(f"{seconds:7.3f} s, byte {self.link.sent}: {what}")

    def complain(self, what: str) -> None:
        self.note(f"broken promise: {what}")
        self.complaints.append(what)

    def begin(self, hit: Hit) -> None:
        """The fault strikes, here and now; then it is mended in a thread of its own."""
        with self._lock:
            if self._closed:
                return
            hit.struck += 1
            hit.began_at, hit.over_at = time.monotonic(), None
            self.note(hit.fault.name)
            try:
                hit.fault.strike(self, hit)
            except Exception as error:
                self.complain(f"{hit.fault.name} could not strike: {error!r}")
            self._menders.submit(self._mend, hit, hit.struck)

    def begin_when(self, hit: Hit, happened: Callable[[], object]) -> None:
        """The fault says itself when it strikes: `happened` waits for that, and answers true."""

        def wait() -> None:
            if happened():
                self.begin(hit)

        self._menders.submit(wait)

    def _mend(self, hit: Hit, number: int) -> None:
        self.stop.wait(hit.strike.seconds)
        try:
            hit.fault.mend(self, hit)
        except Exception as error:
            self.complain(f"{hit.fault.name} could not be mended: {error!r}")
        if hit.struck == number:
            hit.over_at = time.monotonic()
            self.note(f"{hit.fault.name} is over")

    # The programs -------------------------------------------------------------------------------

    def start_agent(self) -> None:
        self.agent = self.another_agent()

    def another_agent(self) -> AgentProgram:
        source = self.source.path
        reads: dict[str, Any] = (
            {"roots": [source.parent]} if self.plan.by_path else {"file": source}
        )
        log = self.folder / f"agent-{len(self.agents) + 1}.log"
        agent = AgentProgram(self.client, self._token, self.link.port, log, **reads)
        self.agents.append(agent)
        return agent

    def has_sent_all(self) -> bool:
        """Whether an agent has sent the last byte: the server is about to land it."""
        return any(f"{self.source.path.name}: 100.0%" in agent.output for agent in self.agents)

    def check_agent_end(self, agent: AgentProgram, status: int) -> None:
        """Told to stop, it ends with 0; at its very start Python itself still dies of the signal."""
        if status and "connected to" in agent.output:
            self.complain(f"an agent that was told to stop ended with {status}")

    def _supervise(self) -> None:
        """A program that ended without being told to has broken a promise, or was refused."""
        for agent in self.agents:
            status = agent.process.poll()
            if status is None or agent in self.dismissed:
                continue
            self.dismissed.add(agent)
            if status == REFUSED and any("bytes" in hit.fault.groups for hit in self.hits):
                self.note("the agent was refused; starting it again")
                self.stop.wait(SUPERVISED_SECONDS)
                self.start_agent()
            else:
                self.complain(f"an agent ended by itself, with {status}")
        server = self.server.program
        if server.process.poll() is not None and server not in self.dismissed:
            self.dismissed.add(server)
            self.complain(f"the server ended by itself, with {server.process.returncode}")

    # The API ------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """HTTP status and JSON; repeated until the server answers."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self.server.call(method, path, body, **options)
                if answer[0] < 500:
                    return answer
            except UNREACHABLE:
                pass
            assert time.monotonic() < end, f"{method} {path}: no answer in {PATIENCE} s"
            if self.stop.wait(LOOK_SECONDS):
                raise Stopped

    def row(self) -> dict[str, Any]:
        """What the API says of the transfer; nothing while there is no answer."""
        try:
            status, row = self.server.call("GET", f"/api/v1/transfers/{self.transfer}/")
        except UNREACHABLE:
            return {}
        return row if status == 200 else {}

    def has_failed(self) -> bool:
        return self.stop.is_set() or self.row().get("status") == "failed"

    def ask(self) -> None:
        own = next((hit for hit in self.hits if hit.fault.ask), None)
        self.transfer = own.fault.ask(self, own) if own and own.fault.ask else self.request()
        self.note(f"asked: {self.transfer}")

    def request(self, *, seconds: float | None = None) -> str:
        """Ask for the file, with a deadline in so many seconds; the transfer's id."""
        path = str(self.source.path) if self.plan.by_path else None
        body = {"client": self.client, "path": path}
        if seconds is not None:
            body["deadline"] = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        key = {"Idempotency-Key": uuid.uuid4().hex}
        status, transfer = self.call("POST", "/api/v1/transfers/", body, headers=key)
        assert status == 202, transfer
        return str(transfer["id"])
