"""Whose a session is, read anew: by what stays open for longer than a request."""

from types import SimpleNamespace

from django.contrib import auth
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore


def user_of_session(key: str | None) -> User | None:
    """None: there is no such session, it is over, or its user's password has changed since."""
    if not key:
        return None
    user = auth.get_user(SimpleNamespace(session=SessionStore(key)))  # type: ignore[arg-type]  # no more of it
    return user if isinstance(user, User) else None
