"""HTTP requests of a server that stops: who is under way is answered, who comes is told when to come back.

Daphne 4.2.3 cancels each request that is under way (`kill_all_applications`): what an operator had asked for
could be done and never answered, and Django goes on in a thread whose end nobody awaits.
"""

from typing import Any

from django.http import JsonResponse

from . import lifecycle
from .pushback import Application

ANSWER_SECONDS = 5.0
"""For the answer to a request that is under way. One that reads a landed file asks later for the rest."""


def drained(application: Application) -> Application:
    """The application, which the process waits for, and which nobody comes to any more once it stops."""

    async def answered(scope: Any, receive: Any, send: Any) -> None:
        if lifecycle.is_stopping():
            await _say_when_to_come_back(send)
            return
        with lifecycle.staying(ANSWER_SECONDS):
            await application(scope, receive, send)

    return answered


async def _say_when_to_come_back(send: Any) -> None:
    answer = JsonResponse(
        {"code": "stopping", "detail": lifecycle.STOPS},
        status=503,
        headers={"Retry-After": lifecycle.RETRY_AFTER},
    )
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.items()]
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": answer.content})
