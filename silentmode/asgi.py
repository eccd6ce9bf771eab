"""The ASGI application: `daphne silentmode.asgi:application`. Django first, then one router."""

import os
import sys
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured
from django.urls import path, re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "silentmode.settings")
try:
    django_application = get_asgi_application()

    from transfers import doorkeeper, lifecycle, recovery
    from transfers.console.live import console
    from transfers.consumers import AgentConsumer, refuse
    from transfers.draining import drained
    from transfers.pushback import with_pushback
    from transfers.sockets import at_its_pace

    recovery.at_start()
    doorkeeper.install()
    lifecycle.install()
except ImproperlyConfigured as bad:
    sys.exit(f"silentmode cannot start: {bad}")

# Django's types know views only; channels routes to ASGI applications.
routes: list[Any] = [
    path("ws/agent/<client_id>/", AgentConsumer.as_asgi()),  # type: ignore[arg-type]
    path("ws/console/", console),  # type: ignore[arg-type]
    re_path("", refuse),  # type: ignore[arg-type]
]

application = ProtocolTypeRouter(
    {
        "http": drained(with_pushback(django_application)),
        "websocket": at_its_pace(URLRouter(routes)),
    }
)
