"""What is asked without a login: by agents that were refused, and by monitors."""

import tempfile

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_GET

from .auth import AgentRefused
from .handshakes import handshakes
from .peer import address_of


@require_GET
def agent_door(request: HttpRequest, client_id: str) -> JsonResponse:
    """Tell an agent whose WebSocket handshake was refused why: a refusal there is a bare 403."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    try:
        handshakes.admit(address_of(request) or "", client_id, headers)
    except AgentRefused as refused:
        answer = {"code": refused.code, "detail": refused.detail}
        later = {} if refused.retry_after is None else {"Retry-After": refused.retry_after}
        return JsonResponse(answer, status=refused.status, headers=later)
    answer = {"code": "upgrade_required", "detail": "Connect by WebSocket, speaking silentmode.v1."}
    return JsonResponse(answer, status=426, headers={"Upgrade": "websocket"})


@require_GET
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when the database and the data directory answer; for load balancers and monitors."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        with tempfile.TemporaryFile(dir=settings.PARTIAL_DIR) as file:
            file.write(b"healthy")
    except Exception as error:
        return JsonResponse({"code": "unhealthy", "detail": type(error).__name__}, status=503)
    return JsonResponse({"code": "healthy"})
