"""Logging in: who guesses passwords is stopped, before anything is looked up, counted or written.

django-axes counts the failures of each name from each address. Guesses at many names, a few of each, are
counted here, by address alone.
"""

import logging
from math import ceil
from typing import Any

from django.conf import settings
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.signals import user_login_failed
from django.contrib.auth.views import LoginView, LogoutView
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect

from .peer import address_of
from .rates import count_deed
from .refusals import wait_page
from .throttle import Failures

NAMES = 10
"""So many names' worth of failures are let through: an office behind one NAT has several who mistype."""

log = logging.getLogger(__name__)

failures = Failures(NAMES * settings.LOGIN_FAILURES, settings.LOGIN_PAUSE)


class LoginForm(AuthenticationForm):
    """A login is recorded, so each user has a bound of them."""

    def confirm_login_allowed(self, user: Any) -> None:
        """Raises ValidationError, or TooMuch."""
        super().confirm_login_allowed(user)
        count_deed(user)


class LoginPage(LoginView):
    """For all pages. Who is logged in, and was led here by a page that is for others, may be another."""

    authentication_form = LoginForm
    template_name = "console/login.html"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        was_led = bool(self.get_redirect_url())
        if request.user.is_authenticated and not was_led:
            return redirect("console:clients")
        return super().get(request, *args, **kwargs)


_login = LoginPage.as_view()
logout = LogoutView.as_view(next_page="login")


def login(request: HttpRequest) -> HttpResponseBase:
    """The login page of all pages; 429 to a form that comes from where too many have failed."""
    if request.method == "POST" and (pause := failures.pause(address_of(request) or "")):
        return wait_page(pause)
    return _login(request)


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
