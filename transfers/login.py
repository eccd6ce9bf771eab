"""Logging in: who guesses passwords is stopped, before anything is looked up, counted or written.

django-axes counts the failures of each name from each address. Guesses at many names, a few of each, are
counted here, by address alone.
"""

import logging
from math import ceil
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.signals import user_login_failed
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from .peer import address_of
from .rates import count_deed
from .refusals import wait_page
from .throttle import Failures

NAMES = 10
"""So many names' worth of failures are let through: an office behind one NAT has several who mistype."""

log = logging.getLogger(__name__)

failures = Failures(NAMES * settings.LOGIN_FAILURES, settings.LOGIN_PAUSE)


class LoginForm(AdminAuthenticationForm):
    """A login is recorded, so each user has a bound of them."""

    def confirm_login_allowed(self, user: Any) -> None:
        """Raises ValidationError, or TooMuch."""
        super().confirm_login_allowed(user)
        count_deed(user)


admin.site.login_form = LoginForm


def login(request: HttpRequest) -> HttpResponseBase:
    """The admin's login page; 429 to a form that comes from where too many have failed."""
    if request.method == "POST" and (pause := failures.pause(address_of(request) or "")):
        return wait_page(pause)
    return admin.site.login(request)


def locked_out(request: HttpRequest, *args: Any) -> HttpResponse:
    """The answer to a name that axes has locked out."""
    return wait_page(settings.AXES_COOLOFF_TIME.total_seconds())


@receiver(user_login_failed)
def count(request: HttpRequest | None = None, **kwargs: Any) -> None:
    if request is not None and (pause := failures.add(address_of(request) or "")):
        log.warning(
            "Too many logins from %s have failed: more are refused, for %d s at first",
            address_of(request),
            ceil(pause),
        )
