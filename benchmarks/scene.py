"""What a case works with: a folder of its own, and what it starts in it, stopped at its end."""

import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

from tqdm import tqdm

from tests.end_to_end.harness import AgentProgram, Server, make_file
from tests.link import Link

from .figures import MIB
from .sshd import Missing, Sshd

T = TypeVar("T")


class Scene:
    """A context manager; `quick` asks for small sizes, to see that all works."""

    def __init__(self, output: Path, *, rounds: int, quick: bool) -> None:
        self.rounds = rounds
        self.quick = quick
        self._stack = ExitStack()
        # Below the output, not /tmp: that may be in memory, where a sync is nothing and 4 GiB are much.
        folder = tempfile.TemporaryDirectory(prefix="work-", dir=output)
        self.folder = Path(self._stack.enter_context(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def file(self, name: str, mib: int) -> Path:
        """Random bytes, in the page cache."""
        return make_file(self.folder / name, mib * MIB)

    def at_end(self, do: Callable[[], object]) -> None:
        """The last that was asked for is done first."""
        self._stack.callback(do)

    def server(self, name: str = "server", wrapper: Sequence[str] = (), **settings: str) -> Server:
        """A running server; settings by their full names."""
        server = Server(self.folder / name, **settings)
        server.start(wrapper)
        self.at_end(server.program.terminate)
        return server

    def agent(self, server: Server, client: str, **options: Any) -> AgentProgram:
        """A new client's agent, online."""
        token = server.manage("add_client", client, "--token")
        log = server.directory / f"{client}.log"
        agent = AgentProgram(client, token, options.pop("port", server.port), log, **options)
        self.at_end(agent.terminate)
        agent.wait_for("registered as")
        return agent

    def link(self, target: int) -> Link:
        return self._stack.enter_context(Link(target))

    @cached_property
    def _sshd(self) -> Sshd | str:
        try:
            return self._stack.enter_context(Sshd(self.folder / "sshd"))
        except Missing as why:
            return str(why)

    @property
    def sshd(self) -> Sshd:
        """Raises Missing."""
        if isinstance(self._sshd, str):
            raise Missing(self._sshd)
        return self._sshd

    def in_turn(
        self, subjects: Mapping[str, Callable[[], T]], at_most: int = sys.maxsize
    ) -> dict[str, list[T]]:
        """One warm-up of each; then rounds, so that what changes with time changes all.

        The order is another one in each round, the same ones in each run: else who comes after `cp` would
        always find the disk and the memory as that has left them.
        `at_most`: so many rounds, however many were asked for, where more would only take longer.
        """
        results: dict[str, list[T]] = {name: [] for name in subjects}
        rounds = min(self.rounds, at_most)
        with tqdm(total=(rounds + 1) * len(subjects), leave=False, disable=None) as bar:
            for turn in range(rounds + 1):
                for name in _shuffled(subjects, turn):
                    bar.set_description(name)
                    result = subjects[name]()
                    if turn:
                        results[name].append(result)
                    bar.update()
        return results


def _shuffled(names: Iterable[str], turn: int) -> list[str]:
    order = list(names)
    random.Random(turn).shuffle(order)
    return order
