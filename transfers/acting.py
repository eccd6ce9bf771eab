"""On whose behalf the program acts just now, so that the audit log can say who did what, and from where.

A request acts for its user, a command for the account that runs it, and everything else is the
server's own doing.
"""

import getpass
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase

from .peer import address_of

Respond = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


@dataclass(frozen=True)
class Actor:
    """`name` is `user anna`, `command root`, `client till-7`, `nobody` or `server`."""

    name: str
    address: str = ""


SERVER = Actor("server")

_actor: ContextVar[Callable[[], Actor]] = ContextVar("actor", default=lambda: SERVER)


def actor() -> Actor:
    """Who acts now."""
    return _actor.get()()


@contextmanager
def acting(who: Callable[[], Actor]) -> Iterator[None]:
    """What is done in here is done on behalf of `who()`, asked at each deed."""
    token = _actor.set(who)
    try:
        yield
    finally:
        _actor.reset(token)


def at_the_command_line() -> Actor:
    """The account that runs a management command."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        account = "unknown"
    return Actor(f"command {account}")


def by_request(request: HttpRequest) -> Actor:
    """The user of a request: known only once the view has authenticated a token."""
    user = getattr(request, "user", None)
    name = f"user {user.get_username()}" if user is not None and user.is_authenticated else "nobody"
    return Actor(name, address_of(request) or "")


class ActingMiddleware:
    """Everything that a request does is done by its user."""

    sync_capable = async_capable = True

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        if iscoroutinefunction(respond):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if iscoroutinefunction(self.respond):
            return self._later(request)
        with acting(lambda: by_request(request)):
            return self.respond(request)

    async def _later(self, request: HttpRequest) -> HttpResponseBase:
        with acting(lambda: by_request(request)):
            response: HttpResponseBase = await self.respond(request)  # type: ignore[misc]  # as tested
            return response
