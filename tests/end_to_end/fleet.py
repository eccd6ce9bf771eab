"""Many agents in one process, each with its own connection: `python -m tests.end_to_end.fleet URL`.

Standard input has a line `<client id> <token>` for each. They have no file to send; what they say is the
real agent's, and the process ends with an error as soon as one of them does.
"""

import asyncio
import sys
from pathlib import Path

from agent.link import Identity
from agent.reconnect import stay_online
from agent.source import Policy


async def main() -> None:
    agents = [line.split() for line in sys.stdin]
    policy = Policy(roots=[Path("/nonexistent")])
    async with asyncio.TaskGroup() as group:
        for client, token in agents:
            group.create_task(stay_online(Identity(sys.argv[1], client, token), policy))


if __name__ == "__main__":
    asyncio.run(main())
