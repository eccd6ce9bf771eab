"""What is pushed to an open page: the parts of it that have changed.

The rows are the truth, in whichever process a connection works on them, so for a page that is open the
database is asked again, and what reads otherwise than before is sent.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.contrib import auth
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.http import QueryDict

from transfers import lifecycle
from transfers.sockets import GuardedWebSocket

from .looks import Gone, Screen, look, rendered, swap

LOOK_SECONDS = 0.5
"""Between two looks: a change is on the page within that time, and nothing moves more often."""

MOST_FOR_A_USER = 32
"""Pages that one user has open, in this process: each is a look every half second."""

QUIET_SECONDS = 15.0
"""After so long without a change something is sent all the same, so that proxies keep the connection."""

SURE_SECONDS = 5.0
"""Who is logged out, or loses a right, may see what moves for so long."""

log = logging.getLogger(__name__)

_lookers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="console")

_open: Counter[int] = Counter()
"""Pages of each user."""


class ConsoleConsumer(AsyncWebsocketConsumer):
    """One open page."""

    pushing: "asyncio.Task[None] | None" = None
    _user: User
    _sure_until = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with lifecycle.staying(0):
            await super().__call__(scope, receive, send)

    async def connect(self) -> None:
        query = QueryDict(self.scope["query_string"])
        address = urlsplit(query.get("page", ""))
        self.path, self.asked = address.path, QueryDict(address.query)
        user: Any = self.scope["user"]
        if not (
            from_our_pages(self.scope) and user.is_authenticated and not lifecycle.is_stopping()
        ):
            await self.close()
            return
        if _open[user.pk] >= MOST_FOR_A_USER:
            log.warning("User %s has %d pages open: no more are live", user, MOST_FOR_A_USER)
            await self.close()
            return
        self.screen = Screen()
        await self.accept()
        self.pushing = asyncio.create_task(self._push(user.pk))

    async def disconnect(self, code: int) -> None:
        if self.pushing is not None:
            self.pushing.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """A page has nothing to say: its forms are sent as forms are."""
        await self.close(code=4008)

    async def _push(self, pk: int) -> None:
        quiet = 0.0
        try:
            with _counted(pk):
                while True:
                    if not self._is_clogged:
                        said = await self._look()
                        quiet = 0.0 if said else quiet + LOOK_SECONDS
                        if said or quiet >= QUIET_SECONDS:
                            quiet = 0.0
                            await self.send(text_data=said or "<!-- -->")
                    await asyncio.sleep(LOOK_SECONDS)
        except Gone:
            await self.send(text_data=swap("live", rendered("gone")))
            await self.close(code=4003)
        except Exception:  # say, the database restarts: the page comes again
            log.exception("could not push to an open page")
            await self.close(code=1011)

    @property
    def _is_clogged(self) -> bool:
        """The browser does not read: what it missed it sees later, at once."""
        socket = self.scope.get("socket")
        return isinstance(socket, GuardedWebSocket) and socket.is_clogged

    async def _look(self) -> str:
        """What has changed since the last look, as it is sent. Raises Gone."""
        # Not in the one thread of the database that transfers wait for: a look takes up to 50 ms.
        see = database_sync_to_async(self._see, thread_sensitive=False, executor=_lookers)
        return await see()

    def _see(self) -> str:
        if time.monotonic() >= self._sure_until:
            self._user = self._who()
            self._sure_until = time.monotonic() + SURE_SECONDS
        return self.screen.update(look(self._user, self.path, self.asked))

    def _who(self) -> User:
        """Whose session it is, read anew: who was logged out, or lost a right, sees no more. Raises Gone."""
        session = SessionStore(self.scope["session"].session_key)
        user = auth.get_user(SimpleNamespace(session=session))  # type: ignore[arg-type]  # asks for no more
        if not isinstance(user, User):
            raise Gone
        return user


@contextlib.contextmanager
def _counted(pk: int) -> Iterator[None]:
    _open[pk] += 1
    try:
        yield
    finally:
        _open[pk] -= 1
        if not _open[pk]:
            del _open[pk]


def from_our_pages(scope: Any) -> bool:
    """Whether the browser says that a page of this very server asks (RFC 6455, section 10.2).

    The cookie alone says nothing: browsers send it with a socket that any page opens.
    """
    headers = dict(scope["headers"])
    origin = urlsplit(headers.get(b"origin", b"").decode("latin-1"))
    host: bytes = headers.get(b"host", b"")
    return bool(origin.netloc) and origin.netloc.lower() == host.decode("latin-1").lower()


console = AuthMiddlewareStack(ConsoleConsumer.as_asgi())
"""The application: a page's socket, with the session of its cookie."""
