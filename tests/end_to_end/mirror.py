"""Tells everybody the address that the server takes them to come from; healthy, as the server is."""

import io
from typing import Any

from django.core.handlers.asgi import ASGIRequest

from silentmode.asgi import application as server
from transfers.peer import address_of


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/healthz":
        await server(scope, receive, send)
    elif scope["type"] == "http":
        address = address_of(ASGIRequest(scope, io.BytesIO()))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(address).encode()})
    else:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": str(address_of(scope))})
