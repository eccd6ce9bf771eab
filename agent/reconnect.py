"""Connecting again: for ever, after pauses of full jitter, so that a fleet does not stampede.

Only a refusal that no waiting can mend ends the agent, and that is `Refused`.
"""

import asyncio
import contextlib
import email.utils
import json
import random
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import InvalidStatus, WebSocketException

from .gate import Gate
from .link import HANDSHAKE_SECONDS, Identity, Link, LinkDown, Refused
from .progress import say
from .transport import Distrusted
from .wire.display import shown

MIN_DELAY = 1.0
FIRST_CEILING = 4.0
MAX_DELAY = 45.0
"""Seconds between two attempts, at random: from the first to a ceiling, which starts at the second,
doubles with each failure and ends at the third: with the handshake, a minute at the most."""

STABLE_SECONDS = 60.0
"""A connection this long was a success, as is one that brought a file on: the ceiling is the first
again. Any other counts as a failure, so that a server which accepts and closes is not hammered."""

RETRY_AFTER_MOST = 300.0
"""Seconds of `Retry-After` that are believed: a proxy's mistake must not cost a day."""

REFUSALS = (401, 403)
REDIRECTS = range(300, 400)
NO_REDIRECT = "agents follow none, give --server the place itself"


def delays(uniform: Callable[[float, float], float] = random.uniform) -> Iterator[float]:
    """Seconds to wait before each next attempt: full jitter below a ceiling that doubles."""
    ceiling = FIRST_CEILING
    while True:
        yield uniform(MIN_DELAY, ceiling)
        ceiling = min(ceiling * 2, MAX_DELAY)


async def stay_online(
    identity: Identity,
    gate: Gate,
    *,
    clock: Callable[[], float] = time.monotonic,
    pauses: Callable[[], Iterator[float]] = delays,
) -> None:
    """Connect, serve, and connect again, for ever. Raises Refused."""
    registered = False
    pause = pauses()
    while True:
        link = Link(identity, gate)
        began = clock()
        try:
            ended = await _serve(link, known=registered)
        except Refused:
            raise
        except Exception as error:
            # A bug, here or in a library: nobody is near the machine, so it must not be the agent's end.
            say("".join(traceback.format_exception(error)))
            ended = Answer(f"failed inside: {error!r}")
        identity = link.identity  # its token may be a new one
        registered = registered or link.registered
        if link.progressed or clock() - began >= STABLE_SECONDS:
            pause = pauses()
        seconds = ended.retry_after + next(pause)  # on top: not all at once after the same wait
        say(f"offline: {shown(ended.detail)}; trying again in {seconds:.1f} s")
        await asyncio.sleep(seconds)


async def _serve(link: Link, *, known: bool) -> "Answer":
    """One connection, from its beginning to its end; why it ended. Raises Refused."""
    server = link.identity.server
    try:
        await link.serve()
    except LinkDown as down:
        return Answer(str(down))
    except InvalidStatus as refusal:
        answer = await _why(link.identity, refusal)
        answer.raise_if_final(known=known)
        return answer
    except Distrusted as error:
        return Answer(f"{server}: {error}")
    except (OSError, ValueError, WebSocketException) as error:
        return Answer(f"{server} cannot be reached ({type(error).__name__}: {error})")


@dataclass(frozen=True)
class Answer:
    """Why there is no connection: what the server says about it, or what was seen of it."""

    detail: str
    code: str = ""
    retry_after: float = 0.0
    """Seconds that it wants to be left alone for."""

    def raise_if_final(self, *, known: bool) -> None:
        """Raises Refused where waiting will not help.

        A server that no longer knows our token may be one that is being restored: that is final only
        for an agent that it never knew.
        """
        if self.code in ("revoked", "wrong_id") or (self.code == "unauthorized" and not known):
            raise Refused(f"{shown(self.detail)} ({self.code})")


async def _why(identity: Identity, refusal: InvalidStatus) -> Answer:
    """Why the handshake was refused: a bare 403 is all that a busy server gives, too, so ask."""
    status = refusal.response.status_code
    if status in REFUSALS:
        return await asyncio.to_thread(ask_why, identity)
    if status in REDIRECTS:
        return Answer(f"the server answered HTTP {status}, a redirect: {NO_REDIRECT}")
    waits = refusal.response.headers.get_all("Retry-After")
    pause = retry_after(waits[0] if waits else None)
    return Answer(f"the server answered HTTP {status}", retry_after=pause)


def retry_after(value: str | None, now: Callable[[], float] = time.time) -> float:
    """Seconds that a `Retry-After` asks for (RFC 9110, 10.2.3): a number of them, or a date."""
    seconds = 0.0
    if value is None:
        return seconds
    if value.isascii() and value.isdigit():
        seconds = float(value)
    else:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now()
    return min(max(seconds, 0.0), RETRY_AFTER_MOST)


NO_ANSWER = (ValueError, KeyError, TypeError, OSError, RecursionError, HTTPException)
"""What reading an answer may end with when it is not one of ours."""


def ask_why(identity: Identity) -> Answer:
    """Ask over HTTP why the handshake was refused. Never raises."""
    parts = urlsplit(identity.url)
    scheme = {"ws": "http", "wss": "https"}[parts.scheme]
    url = urlunsplit(parts._replace(scheme=scheme))
    request = urllib.request.Request(url, headers=identity.headers)
    try:
        with identity.trust.opener(url).open(request, timeout=HANDSHAKE_SECONDS):
            return Answer("the server refused the handshake, and does not say why")
    except urllib.error.HTTPError as answer:
        with answer, contextlib.suppress(*NO_ANSWER):
            reason = json.loads(answer.read(4096))
            if answer.code in REFUSALS:
                return Answer(str(reason["detail"]), str(reason["code"]))
        return Answer(
            f"the server refused the handshake (HTTP {answer.code} when asked why)",
            retry_after=retry_after(answer.headers["Retry-After"]),
        )
    except (OSError, ValueError, HTTPException) as error:
        return Answer(f"the server refused the handshake, and does not say why: {error}")
