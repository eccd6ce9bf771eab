"""What can be done wrong, and what has to come of it: one entry each, in order of definition."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.hostile_agent.scene import Outcome, Scene

Act = Callable[[Scene], Outcome]


@dataclass(frozen=True)
class Misbehaviour:
    name: str
    act: Act
    closed: frozenset[str]
    """Any of these."""
    said: str
    """Part of the server's sentence."""
    transfer: str
    slow: bool
    """Takes a minute: it is played beside the others."""


ALL: list[Misbehaviour] = []


def misbehaviour(
    *closed: str, said: str = "", transfer: str = "", slow: bool = False
) -> Callable[[Act], Act]:
    """An entry: the function is what is done; its name says what that is."""

    def enter(act: Act) -> Act:
        name = act.__name__.replace("_", " ")
        ALL.append(Misbehaviour(name, act, frozenset(closed), said, transfer, slow))
        return act

    return enter
