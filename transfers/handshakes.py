"""Handshakes that fail, again and again, from one address.

Each costs a look-up in the one thread of the database. So an address has so many failures, and beyond them
is refused from memory. But many tills share one address: what counts are failures only, and when an address
has used them up, a token that is known is still let through to be looked at. Which are known is read from
the database at most once in `SNAPSHOT_SECONDS`, however many ask: so nobody is locked out by a neighbour,
and no flood of guesses, of whatever ids and tokens, costs more than that.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .auth import AgentRefused, authenticate_agents, known_digests, token_digest
from .models import Client
from .throttle import Failures

FAILURES_AT_ONCE = 60
FAILURES_SECONDS = 60.0
"""A shop whose tills were all revoked asks again about once a minute for each."""

SNAPSHOT_SECONDS = 10.0


class Handshakes:
    """The failures of each address, and which tokens are let through all the same."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = Failures(FAILURES_AT_ONCE, FAILURES_SECONDS, clock)
        self._known: frozenset[str] = frozenset()
        self._known_at: float | None = None

    def admit(self, host: str, client_id: str, headers: Mapping[str, str]) -> Client:
        """Who it is, by its token, unless this address has failed too often. Raises AgentRefused."""
        [answer] = self.admit_all([Handshake(host, client_id, headers)])
        if isinstance(answer, AgentRefused):
            raise answer
        return answer

    def admit_all(self, asked: "Sequence[Handshake]") -> list[Client | AgentRefused]:
        """As `admit`, for many at once, in their order."""
        answers: dict[int, Client | AgentRefused] = {}
        for number, each in enumerate(asked):
            if self._failures.pause(each.host):
                self._read_known()
                try:
                    self.check(each.host, each.headers)
                except AgentRefused as refused:
                    answers[number] = refused
        judged = [number for number in range(len(asked)) if number not in answers]
        shown = [(asked[number].client_id, asked[number].headers) for number in judged]
        for number, answer in zip(judged, authenticate_agents(shown), strict=True):
            answers[number] = answer
            if isinstance(answer, AgentRefused):
                self._failures.add(asked[number].host)
        return [answers[number] for number in range(len(asked))]

    def check(self, host: str, headers: Mapping[str, str]) -> None:
        """Refuse from memory what can be refused from memory. Raises AgentRefused."""
        wait = self._failures.pause(host)
        if wait and self._is_fresh and token_digest(headers) not in self._known:
            raise AgentRefused(
                "too_many_failures",
                429,
                "Too many handshakes from this address have failed.",
                retry_after=int(wait) + 1,
            )

    @property
    def _is_fresh(self) -> bool:
        return self._known_at is not None and self._clock() < self._known_at + SNAPSHOT_SECONDS

    def _read_known(self) -> None:
        if not self._is_fresh:
            self._known = known_digests()
            self._known_at = self._clock()


@dataclass(frozen=True)
class Handshake:
    """Whence somebody asks to come in, as whom, and with which headers (lower-case names)."""

    host: str
    client_id: str
    headers: Mapping[str, str]


handshakes = Handshakes()
"""Those of this process."""
