"""The console's pages. A view looks up, checks the right, calls one verb, and shows or leads on."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from csp.constants import SELF
from csp.decorators import csp_update
from django.contrib import messages
from django.contrib.auth.models import User
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db.models import Max
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from transfers.access import Action, clients_of, may, missed, transfers_of
from transfers.facts import facts_of
from transfers.forms import RequestForm
from transfers.history import history
from transfers.models import (
    Client,
    ClientConflict,
    Course,
    StatusConflict,
    Transfer,
    request_file,
)
from transfers.rates import count_deed

from .chart import Chart
from .lists import ClientList, Machine, TransferList
from .online import Online

RECENT_PATHS = 12
"""Suggested where a file is asked for."""

P = ParamSpec("P")
View = Callable[..., HttpResponseBase]
Page = Callable[Concatenate[HttpRequest, User, P], HttpResponseBase]


def page(action: Action) -> Callable[[Page[P]], View]:
    """A page for those who are logged in and may do this; a form that is sent counts as one deed."""

    def decorated(view: Page[P]) -> View:
        @functools.wraps(view)
        def shown(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            user = request.user
            if not isinstance(user, User):
                return redirect_to_login(request.get_full_path())
            if not may(user, action):
                raise PermissionDenied
            if request.method == "POST":
                count_deed(user)  # beyond the bound, `PageRefusals` answers
            return view(request, user, *args, **kwargs)

        # Its own calls and the socket that pushes to it; `default-src` is none.
        answer: View = csp_update({"connect-src": [SELF]})(shown)
        return answer

    return decorated


def rights_of(user: User) -> dict[str, bool]:
    """What the templates ask: which buttons there are."""
    return {
        "may_request": may(user, Action.REQUEST_FILE),
        "may_steer": may(user, Action.STEER_TRANSFER),
        "may_fetch": may(user, Action.FETCH_FILE),
        "may_add_clients": may(user, Action.ADD_CLIENT),
    }


def _render(request: HttpRequest, name: str, user: User, **context: Any) -> HttpResponse:
    return render(request, f"console/{name}.html", {**rights_of(user), **context})


def _client(request: HttpRequest, user: User, pk: str) -> Client:
    client = clients_of(user).prefetch_related("labels").filter(pk=pk).first()
    if client is None:
        missed(user, action=str(request.method).lower(), path=request.path)
        raise Http404
    return client


def _transfer(request: HttpRequest, user: User, pk: Any) -> Transfer:
    found = transfers_of(user).select_related("client", "requested_by").filter(pk=pk).first()
    if found is None:
        missed(user, action=str(request.method).lower(), path=request.path)
        raise Http404
    return found


@require_GET
@page(Action.SEE_CLIENT)
def clients(request: HttpRequest, user: User) -> HttpResponseBase:
    listing = ClientList(user, request.GET)
    return _render(request, "clients", user, list=listing, section="clients")


@require_GET
@page(Action.SEE_CLIENT)
def client(request: HttpRequest, user: User, pk: str) -> HttpResponseBase:
    """One machine: what it is, what it was asked for, and a form to ask for more."""
    return _client_page(request, user, _client(request, user, pk), RequestForm())


def _client_page(
    request: HttpRequest, user: User, client: Client, form: RequestForm, status: int = 200
) -> HttpResponse:
    sees = may(user, Action.SEE_TRANSFER)
    listing = TransferList(user, request.GET, client) if sees else None
    response = _render(
        request,
        "client",
        user,
        client=client,
        machine=Machine(client),
        online=Online(client, timezone.now()),
        list=listing,
        form=form,
        recent_paths=_recent_paths(client) if sees and may(user, Action.REQUEST_FILE) else (),
        section="clients",
    )
    response.status_code = status
    return response


def _recent_paths(client: Client) -> list[str]:
    """What was asked of it lately, each once, first the newest."""
    asked = client.transfers.exclude(path=None).order_by()
    latest = asked.values("path").annotate(last=Max("created_at")).order_by("-last")
    return [str(row["path"]) for row in latest[:RECENT_PATHS]]


@require_POST
@page(Action.REQUEST_FILE)
def request_of(request: HttpRequest, user: User, pk: str) -> HttpResponseBase:
    """Ask a client for a file, and lead to the transfer that brings it."""
    client = _client(request, user, pk)
    form = RequestForm(request.POST)
    if not form.is_valid():
        return _client_page(request, user, client, form, status=422)
    try:
        client.check_served()
    except ClientConflict as conflict:
        messages.error(request, conflict.detail)
        return redirect("console:client", pk=client.pk)
    values = form.cleaned_data
    transfer = request_file(client, values["path"], requested_by=user, reason=values["reason"])
    return redirect("console:transfer", pk=transfer.pk)


@require_GET
@page(Action.SEE_TRANSFER)
def transfers(request: HttpRequest, user: User) -> HttpResponseBase:
    listing = TransferList(user, request.GET)
    return _render(request, "transfers", user, list=listing, section="transfers")


@require_GET
@page(Action.SEE_TRANSFER)
def transfer(request: HttpRequest, user: User, pk: Any) -> HttpResponseBase:
    """One transfer: how it comes along, what happened, and what has landed."""
    found = _transfer(request, user, pk)
    return _render(request, "transfer", user, section="transfers", **of_transfer(found))


def of_transfer(found: Transfer) -> dict[str, Any]:
    """What the page of a transfer shows of it; the live part of the page asks for the same."""
    facts = facts_of(found)
    course = Course.objects.filter(pk=found.pk).first()
    return {
        "facts": facts,
        "transfer": found,
        "chart": Chart.of(course.points) if course else None,
        "history": history(found),
    }


@require_POST
@page(Action.STEER_TRANSFER)
def cancel(request: HttpRequest, user: User, pk: Any) -> HttpResponseBase:
    return _steer(request, user, pk, Transfer.cancel, "Cancelled")


@require_POST
@page(Action.STEER_TRANSFER)
def retry(request: HttpRequest, user: User, pk: Any) -> HttpResponseBase:
    return _steer(request, user, pk, Transfer.retry, "Asked for again:")


def _steer(
    request: HttpRequest, user: User, pk: Any, verb: Callable[[Transfer], None], said: str
) -> HttpResponseBase:
    """Do it, say what came of it, and lead back to where the button was."""
    found = _transfer(request, user, pk)
    try:
        verb(found)
    except StatusConflict as conflict:
        messages.error(request, str(conflict))
    else:
        messages.success(request, f"{said} {found}.")
    if request.headers.get("HX-Request"):  # the page stays, and what moves is pushed to it
        return render(request, "console/parts/messages.html")
    return redirect("console:transfer", pk=found.pk)
