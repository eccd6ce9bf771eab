"""What is pushed to an open page: the parts of it that have changed.

The rows are the truth, in whichever process a connection works on them, so for a page that is open the
database is asked again, and what reads otherwise than before is sent.
"""

import asyncio
import logging
import time
from typing import Any
from urllib.parse import urlsplit

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.sessions import CookieMiddleware
from django.conf import settings
from django.contrib.auth.models import User
from django.http import QueryDict

from transfers import lifecycle
from transfers.sessions import user_of_session
from transfers.sockets import GuardedWebSocket
from transfers.watching import Watchers

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

_pages = Watchers("console", MOST_FOR_A_USER)


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
        path, _, asked = query.get("page", "").partition("?")
        self.path, self.asked = path, QueryDict(asked)
        self.session_key = self.scope["cookies"].get(settings.SESSION_COOKIE_NAME)
        user = await _pages.look(user_of_session, self.session_key)
        if user is None or lifecycle.is_stopping():
            await self.close()
            return
        if not _pages.has_room(user.pk):
            log.warning("User %s has %d pages open: no more are live", user, _pages.most)
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
            with _pages.counted(pk):
                while True:
                    began = time.monotonic()
                    if not self._is_clogged:
                        said = await self._look()
                        quiet = 0.0 if said else quiet + LOOK_SECONDS
                        if said or quiet >= QUIET_SECONDS:
                            quiet = 0.0
                            await self.send(text_data=said or "<!-- -->")
                    # Whose pages take long to look at has them looked at less often.
                    await asyncio.sleep(max(LOOK_SECONDS, 4 * (time.monotonic() - began)))
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
        return await _pages.look(self._see)

    def _see(self) -> str:
        if time.monotonic() >= self._sure_until:
            self._user = self._who()
            self._sure_until = time.monotonic() + SURE_SECONDS
        return self.screen.update(look(self._user, self.path, self.asked))

    def _who(self) -> User:
        """Whose session it is, read anew: who was logged out, or lost a right, sees no more. Raises Gone."""
        user = user_of_session(self.session_key)
        if user is None:
            raise Gone
        return user


def from_our_pages(scope: Any) -> bool:
    """Whether the browser says that a page of this very server asks (RFC 6455, section 10.2).

    The cookie alone says nothing: browsers send it with a socket that any page opens.
    """
    headers = dict(scope["headers"])
    host: bytes = headers.get(b"host", b"")
    try:
        origin = urlsplit(headers.get(b"origin", b"").decode("latin-1")).netloc
    except ValueError:  # `http://[`
        return False
    return bool(origin) and origin.lower() == host.decode("latin-1").lower()


_with_cookies = CookieMiddleware(ConsoleConsumer.as_asgi())


async def console(scope: Any, receive: Any, send: Any) -> None:
    """The application: a page's socket. Nobody is looked up for a page that is not ours."""
    if from_our_pages(scope):
        await _with_cookies(scope, receive, send)
    else:
        await receive()
        await send({"type": "websocket.close"})
