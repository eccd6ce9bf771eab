"""How every call and page is refused: a status, a code and a sentence, and never more."""

import logging
from collections.abc import Awaitable
from math import ceil
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.core.exceptions import DisallowedHost, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.views.defaults import permission_denied
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler

from agent.wire.display import shown
from agent.wire.errors import ERRORS

from .acting import Respond
from .models import ClientConflict, StatusConflict
from .rates import TooMuch, count_deed, refused

log = logging.getLogger(__name__)


class Conflict(exceptions.APIException):
    status_code = 409
    default_code = "conflict"


class Gone(exceptions.APIException):
    status_code = 410
    default_code = "removed"


def error_response(error: Exception, context: dict[str, Any]) -> Response | None:
    """Every refusal of the API as `{"code": …, "detail": …}`."""
    if isinstance(error, StatusConflict):
        error = Conflict(str(error))
    if isinstance(error, ClientConflict):
        error = Conflict(error.detail, code=error.code)
    if isinstance(error, Http404):
        error = exceptions.NotFound(str(error) or None)
    response = exception_handler(error, context)
    if response is not None:
        code = "invalid"
        if isinstance(error, exceptions.APIException) and not isinstance(
            error, exceptions.ValidationError
        ):
            code = str(error.get_codes())
        detail = _sentence(response.data)
        if isinstance(error, exceptions.UnsupportedMediaType):
            detail += " Send JSON, with Content-Type: application/json."
        response.data = {"code": code, "detail": detail}
    return response


def _sentence(data: Any, field: str = "") -> str:
    """DRF's nested lists and dictionaries of errors as one line that names the fields."""
    if isinstance(data, dict):
        return " ".join(_sentence(value, _name(field, key)) for key, value in data.items())
    if isinstance(data, list):
        return " ".join(_sentence(value, field) for value in data)
    return f"{field}: {data}" if field else str(data)


def _name(field: str, key: Any) -> str:
    """Of what is inside of a field: `paths[3]`, by its number in a list."""
    if key in ("detail", "non_field_errors"):
        return field
    return f"{field}[{key}]" if field else str(key)


REFUSED = (PermissionDenied, DisallowedModelAdminLookup)
"""What a page raises who is asked for what the user has no right to: the latter, to filter by a column
that its lists do not filter by."""


class PageRefusals:
    """A middleware: the bounds of `rates` for pages, as the API has them.

    What a page refuses to who is logged in is on record; and a form of the admin counts as one deed.
    """

    sync_capable = async_capable = True

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        if iscoroutinefunction(respond):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        return self.respond(request)

    def process_view(self, request: HttpRequest, *args: Any) -> HttpResponse | None:
        match = request.resolver_match
        ours = match is not None and match.app_name == "admin" and match.url_name != "logout"
        if ours and request.method == "POST" and request.user.is_authenticated:
            try:
                count_deed(request.user)
            except TooMuch as too_much:
                return wait_page(too_much.seconds)
        return None

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, TooMuch):
            return wait_page(error.seconds)
        if isinstance(error, REFUSED) and request.user.is_authenticated:
            try:
                refused(request.user, action=str(request.method).lower(), path=request.path)
            except TooMuch as too_much:
                return wait_page(too_much.seconds)
        return None  # Django answers, as it would


def wait_page(seconds: float) -> HttpResponse:
    """The answer of a page to who does too much."""
    after = ceil(seconds)
    return HttpResponse(
        f"Too many tries. Wait {after} seconds, then try again.",
        status=429,
        content_type="text/plain; charset=utf-8",
        headers={"Retry-After": after},
    )


def bad_request(request: HttpRequest, exception: Exception) -> JsonResponse:
    detail = "The request is malformed."
    if isinstance(exception, DisallowedHost):
        host = shown(request.META.get("HTTP_HOST", ""))
        detail = f"This server does not answer as {host}; SILENTMODE_ALLOWED_HOSTS names its hosts."
        log.warning("Refused a request: %s", detail)
    return JsonResponse({"code": "bad_request", "detail": detail}, status=400)


def server_error(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"code": "internal", "detail": ERRORS["internal"].sentence}, status=500)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    detail = "There is no such page, or what it showed is not within what you may see."
    if _is_for_people(request):
        return _page(request, "Not here", detail, 404)
    return JsonResponse({"code": "not_found", "detail": "There is no such page."}, status=404)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    detail = "You are not allowed to do that. Whoever manages this server's users can give you the right."
    if _is_for_people(request):
        return _page(request, "Not allowed", detail, 403)
    return permission_denied(request, exception)


def _is_for_people(request: HttpRequest) -> bool:
    """A browser names HTML; a script takes anything."""
    return "text/html" in request.headers.get("Accept", "")


def _page(request: HttpRequest, title: str, detail: str, status: int) -> HttpResponse:
    return render(
        request, "console/refused.html", {"title": title, "detail": detail}, status=status
    )
