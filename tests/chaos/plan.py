"""What a run does, as data: its faults, their moments, and what is promised whatever they do.

A moment is a number of bytes on the link and never a time, so that a run can be repeated.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .scene import Hit, Scene

MIB = 1 << 20
WINDOW = 8 * MIB
CHECKPOINT = 64 * MIB
"""What the README says: a lost link costs at most a window, a killed server a checkpoint and a window."""

Way = Literal["up", "down"]
Act = Callable[["Scene", "Hit"], Any]

COMPLETED = frozenset({"completed"})


def nothing(scene: "Scene", hit: "Hit") -> None:
    """What a fault does that only waits, or only has to be waited for."""


def at_its_bytes(scene: "Scene", hit: "Hit") -> None:
    """Let the fault strike when so many bytes of the agent have passed."""
    for place in hit.strike.at:
        scene.link.at(place, lambda: scene.begin(hit))


@dataclass(frozen=True)
class Fault:
    """A kind of fault: how it is done, how it ends, and what may come of it."""

    name: str
    meddles: str
    """With what, in words: two faults of one run have none in common."""
    strike: Act = nothing
    """At the very byte, in the link's thread: it must not wait."""
    mend: Act = nothing
    """In a thread of its own, once the fault has lasted its seconds; may wait."""
    arm: Act = at_its_bytes
    """Before the agent starts."""
    ask: Callable[["Scene", "Hit"], str] | None = None
    """Asks for the file in a way of its own; the transfer's id."""
    lasts: tuple[float, float] = (0.0, 0.0)
    """Seconds, from and to."""
    times: tuple[int, int] = (1, 1)
    """How often in one run, from and to."""
    ends: frozenset[str] = COMPLETED
    """The statuses that are allowed in the end; of `failed`, with its code: `failed:not_found`."""
    again: int | None = 0
    """Bytes that may be sent again each time; None: any number."""
    slow: bool = False
    """The link is throttled, so that there is a middle of the transfer to do something in."""
    queued: bool = False
    """The file is asked for before the agent is there."""
    large: bool = False
    """Some of the files are longer than a checkpoint interval."""
    talk: bool = False
    """Often among the text messages at the beginning, and as often on the way down."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of the server."""

    @property
    def groups(self) -> frozenset[str]:
        return frozenset(self.meddles.split())


@dataclass(frozen=True)
class Strike:
    """One fault of one run."""

    fault: Fault
    at: tuple[int, ...]
    way: Way
    seconds: float
    dice: str
    """The seed of whatever else has to be decided."""

    def __str__(self) -> str:
        places = ", ".join(map(str, self.at))
        lasts = f", for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.fault.name} ({self.way}, at byte {places}{lasts})"

    def throw(self) -> random.Random:
        return random.Random(self.dice)


@dataclass(frozen=True)
class Promise:
    """What a run ends with, whatever happens in it."""

    ends: frozenset[str]
    again: int | None
    seconds: float = 60.0
    """From the end of the last fault to the end of the transfer."""

    def __str__(self) -> str:
        again = "any number of bytes" if self.again is None else f"{self.again / MIB:.0f} MiB"
        ends = " or ".join(sorted(self.ends))
        return f"{ends}, at most {again} sent again, {self.seconds:.0f} s after the last fault"


@dataclass(frozen=True)
class Plan:
    """One run, decided before it begins."""

    seed: str
    number: int
    size: int
    strikes: tuple[Strike, ...]
    rate: float | None
    """Bytes a second on the link; None: as they come."""
    queued: bool
    by_path: bool
    """The agent has a `--root` and is asked for a path; else it has a `--file`."""

    def __str__(self) -> str:
        faults = " and ".join(map(str, self.strikes))
        rate = f", {self.rate / MIB:.2f} MiB/s" if self.rate else ""
        when = "asked for first" if self.queued else "agent first"
        return f"{faults}; {self.size} bytes{rate}, {when}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(strike.fault.name for strike in self.strikes)

    @property
    def environment(self) -> dict[str, str]:
        """Of the server that the run needs."""
        return {
            name: value
            for strike in self.strikes
            for name, value in strike.fault.environment.items()
        }

    @property
    def promise(self) -> Promise:
        again: int | None = 0
        for strike in self.strikes:
            each = strike.fault.again
            again = None if again is None or each is None else again + each * len(strike.at)
        ends = frozenset.union(*(strike.fault.ends for strike in self.strikes))
        return Promise(ends, again)
