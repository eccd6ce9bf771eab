"""Many agents in one process, each with its own connection: `python -m tests.end_to_end.fleet URL`.

Standard input has a line `<client id> <token>` for each, which dials as soon as the line is there. They have
no file to send; what they say is the real agent's, and the process ends with an error as soon as one of them
does.
"""

import asyncio
import sys
from pathlib import Path

from agent.gate import Gate
from agent.gate.own_files import OwnFiles
from agent.gate.policy import Policy, Root
from agent.journal import Journal
from agent.link import Identity
from agent.progress import say
from agent.reconnect import stay_online
from agent.state_folder import StateFolder


async def main() -> None:
    policy = Policy(roots=[Root.whole(Path("/nonexistent"))])
    state = StateFolder.chosen(None)
    state.create()
    gate = Gate(policy, OwnFiles(state), Journal(state, sys.argv[1]))
    async with asyncio.TaskGroup() as group:
        say("ready to dial")
        while line := await asyncio.to_thread(sys.stdin.readline):
            client, token = line.split()
            group.create_task(stay_online(Identity(sys.argv[1], client, token), gate))


if __name__ == "__main__":
    asyncio.run(main())
