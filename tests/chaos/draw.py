"""Drawing the plan of a run from nothing but the seed, the run's number and the faults to choose from."""

import random
from collections.abc import Sequence

from .faults import FAULTS
from .plan import MIB, Fault, Plan, Strike, Way

BORDERS = [
    size + more
    for size in (64 * 1024, 512 * 1024, MIB, 2 * MIB, 8 * MIB)
    for more in (-1, 0, 1)
] + [0, 1]  # fmt: skip
"""Sizes on either side of a chunk, a block, a batch and the window."""

UPWARD_TALK = 1300
"""Bytes that an agent says besides the file: handshake, hello, offer, end."""

DOWNWARD_TALK = 1000
ACK = 150
"""Bytes; about one comes for every chunk."""

GROWN = 8 * MIB
"""What a short source may have become in the end."""

TWO_FAULTS = 0.25
THROTTLED = 0.3


def draw(seed: str, number: int, names: Sequence[str]) -> Plan:
    """The plan of run `number`, from 1; every fault has its turn before one comes again."""
    dice = random.Random(f"{seed}:{number}")
    turns = random.Random(f"{seed}:turns").sample(list(names), len(names))
    faults = [FAULTS[turns[(number - 1) % len(turns)]]]
    others = [FAULTS[name] for name in names if not FAULTS[name].groups & faults[0].groups]
    if others and (dice.random() < TWO_FAULTS or faults[0].name == "doorbell"):
        faults.append(dice.choice(others))
    size = _size(dice, large=any(fault.large for fault in faults))
    slow = any(fault.slow for fault in faults) or dice.random() < THROTTLED
    return Plan(
        seed,
        number,
        size,
        tuple(_strike(dice, fault, size) for fault in faults),
        rate=_rate(dice, faults, size) if slow else None,
        queued=any(fault.queued for fault in faults) or dice.random() < 0.5,
        by_path=dice.random() < 0.5,
    )


def _rate(dice: random.Random, faults: Sequence[Fault], size: int) -> float:
    """Bytes a second with which the file takes seconds, also one that becomes longer on the way."""
    longest = max(size, GROWN) if any("source" in fault.groups for fault in faults) else size
    return max(longest / dice.uniform(2, 5), 32 * 1024)


def _size(dice: random.Random, *, large: bool) -> int:
    kind = dice.random()
    if kind < 0.15:
        return dice.choice(BORDERS)
    if large and kind < 0.45:
        return int(dice.uniform(130, 160) * MIB)
    return int(100_000 * (40 * MIB / 100_000) ** dice.random())  # as many short ones as long ones


def _strike(dice: random.Random, fault: Fault, size: int) -> Strike:
    way: Way = dice.choice(("up", "down")) if fault.talk else "up"
    times = dice.randint(*fault.times)
    place = _place(dice, size, way, talk=fault.talk)
    gaps = [0, *(dice.randint(0, max(size, 2048)) for _ in range(times - 1))]
    at = tuple(place + sum(gaps[: index + 1]) for index in range(times))
    return Strike(fault, at, way, dice.uniform(*fault.lasts), str(dice.getrandbits(64)))


def _place(dice: random.Random, size: int, way: Way, *, talk: bool) -> int:
    """Somewhere in the conversation, and rather often among the text messages at its two ends.

    Not before its first byte: then there is no agent yet.
    """
    total = {"up": size + UPWARD_TALK, "down": DOWNWARD_TALK + ACK * (size // MIB)}[way]
    beginning, end = (0.5, 0.6) if talk else (0.1, 0.25)
    kind = dice.random()
    if kind < beginning:
        return dice.randint(1, min(2048, total))
    if kind < end:
        return max(1, total - dice.randint(0, 2048))
    return dice.randint(1, total)
