"""The real agent, with an instrument in it: `python -m benchmarks.pinging_agent`, and an agent's arguments.

Every second it sends a WebSocket ping on its own connection, where it waits its turn behind what is queued
there, and says in how many seconds it was answered: `ping 0.081`.
"""

import asyncio
import sys
import time
from typing import Any
from unittest.mock import patch

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from agent.cli import main
from agent.progress import say
from agent.transport import Trust

PAUSE = 1.05
"""Seconds: the server lets an agent send ten pings at once and one a second on average."""

PING = "ping "

_dial = Trust.dial
_pinging: set[asyncio.Task[None]] = set()


async def _dialled(trust: Trust, url: str, **options: Any) -> ClientConnection:
    connection: ClientConnection = await _dial(trust, url, **options)
    _pinging.add(asyncio.create_task(_ping(connection)))
    return connection


async def _ping(connection: ClientConnection) -> None:
    try:
        while True:
            began = time.monotonic()
            await (await connection.ping())
            say(f"{PING}{time.monotonic() - began:.3f}")
            await asyncio.sleep(PAUSE)
    except ConnectionClosed:
        pass  # the agent says so


if __name__ == "__main__":
    with patch.object(Trust, "dial", _dialled):
        sys.exit(main())
