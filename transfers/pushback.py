"""Long HTTP answers at the pace of who reads them.

Daphne 4.2.3 has no push-back for HTTP either: what an application sends is buffered without bound
(`http_protocol.py`, a bare `Request.write`), so a client that reads slowly, or not at all, would hold a
whole landed file in the server's memory (measured: 600 MiB for one GET that does not read). Twisted's
transports do push back, to a registered producer; this registers one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from daphne.http_protocol import WebRequest
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]


@implementer(IPushProducer)
class Gate:
    """Open while the transport wants more."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()

    def pauseProducing(self) -> None:
        self.open.clear()

    def resumeProducing(self) -> None:
        self.open.set()

    def stopProducing(self) -> None:
        self.open.set()  # the client is gone: daphne drops what is still sent, and ends the application


def with_pushback(application: Application) -> Application:
    """The application, whose `send` waits while the client is not reading."""

    async def paced(scope: Any, receive: Any, send: Any) -> None:
        request = _request(send)
        await application(scope, receive, send if request is None else _paced(send, request))

    return paced


def _request(send: Any) -> WebRequest | None:
    """The request behind daphne's `send`, `partial(handle_reply, request)`; None under another server."""
    behind = send.args[0] if isinstance(send, partial) and send.args else None
    return behind if isinstance(behind, WebRequest) else None


def _paced(send: Send, request: WebRequest) -> Send:
    gate: Gate | None = None

    async def send_at_pace(message: dict[str, Any]) -> None:
        nonlocal gate
        more = message["type"] == "http.response.body" and message.get("more_body", False)
        if more and gate is None:
            gate = Gate()
            request.registerProducer(gate, True)
        elif gate is not None and not more:
            request.unregisterProducer()
        await send(message)
        if more and gate is not None:
            await gate.open.wait()

    return send_at_pace
