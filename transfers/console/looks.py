"""What of each page can change by itself, as the page itself would show it.

Parts are HTML, made by the templates of the page, with the `id` of the element that each replaces (htmx'
out-of-band swaps).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.contrib.auth.models import User
from django.http import QueryDict
from django.template.loader import render_to_string
from django.urls import Resolver404, resolve
from django.utils import timezone

from transfers.access import Action, clients_of, may, transfers_of

from .lists import ClientList, Machine, TransferList
from .online import Online
from .pages import of_transfer, rights_of

Parts = dict[str, str]
"""HTML by the `id` of the element that it is the content of."""


@dataclass(frozen=True)
class Look:
    """What a page shows at one moment."""

    parts: Parts
    order: tuple[str, ...] | None = None
    """Which rows a list has: its body is sent as a whole only when these are others. None: no list."""
    rows: Callable[[], str] = str
    """The body of the list, with the parts of its rows."""


class Gone(Exception):
    """What the page shows is not there for this user, or not any more."""


def look(user: User, path: str, asked: QueryDict) -> Look:
    """What of the page at this address can change by itself. Raises Gone."""
    try:
        match = resolve(path)
    except Resolver404:
        raise Gone from None
    if match.view_name not in LOOKS:
        raise Gone
    action, see = LOOKS[match.view_name]
    if not may(user, action):
        raise Gone
    return see(user, asked, match.kwargs)


def _clients(user: User, asked: QueryDict, kwargs: Mapping[str, Any]) -> Look:
    listing = ClientList(user, asked)
    parts = {"pager": rendered("pager", list=listing)}
    there = listing.machines
    for machine in there:
        for cell in ("state", "sending", "about"):
            parts[f"{cell}-{machine.client.pk}"] = rendered(f"client_{cell}", machine=machine)
    return Look(
        parts,
        tuple(machine.client.pk for machine in there),
        lambda: rendered("client_rows", list=listing),
    )


def _client(user: User, asked: QueryDict, kwargs: Mapping[str, Any]) -> Look:
    client = clients_of(user).filter(pk=kwargs["pk"]).first()
    if client is None:
        raise Gone
    presence = {
        "presence": rendered("presence", machine=Machine(client)),
        "online": rendered("client_online", online=Online(client, timezone.now())),
    }
    if not may(user, Action.SEE_TRANSFER):
        return Look(presence)
    below = _list_of_transfers(user, TransferList(user, asked, client))
    return Look(presence | below.parts, below.order, below.rows)


def _transfers(user: User, asked: QueryDict, kwargs: Mapping[str, Any]) -> Look:
    return _list_of_transfers(user, TransferList(user, asked))


def _list_of_transfers(user: User, listing: TransferList) -> Look:
    """Cell by cell: who is about to press a button must not have it replaced under the finger."""
    rights = rights_of(user)
    parts = {"pager": rendered("pager", list=listing)}
    there = listing.facts
    for facts in there:
        for cell in ("name", "state", "progress", "actions"):
            key = f"{cell}-{facts.transfer.pk}"
            parts[key] = rendered(f"transfer_{cell}", facts=facts, **rights)
    return Look(
        parts,
        tuple(str(facts.transfer.pk) for facts in there),
        lambda: rendered("transfer_rows", list=listing, **rights),
    )


def _transfer(user: User, asked: QueryDict, kwargs: Mapping[str, Any]) -> Look:
    rows = transfers_of(user).select_related("client", "requested_by")
    found = rows.filter(pk=kwargs["pk"]).first()
    if found is None:
        raise Gone
    context = {**of_transfer(found), **rights_of(user)}
    names = ("title", "headline", "chart", "details", "history", "buttons")
    return Look({name: rendered(f"transfer_{name}", **context) for name in names})


def rendered(name: str, **context: Any) -> str:
    return render_to_string(f"console/parts/{name}.html", context)


LOOKS: dict[str, tuple[Action, Callable[[User, QueryDict, Mapping[str, Any]], Look]]] = {
    "console:clients": (Action.SEE_CLIENT, _clients),
    "console:client": (Action.SEE_CLIENT, _client),
    "console:transfers": (Action.SEE_TRANSFER, _transfers),
    "console:transfer": (Action.SEE_TRANSFER, _transfer),
}
"""The pages that move, by the names of their views: the right that each takes, and what moves."""


@dataclass
class Screen:
    """What a browser shows by now."""

    order: tuple[str, ...] | None = None
    parts: Parts = field(default_factory=dict)

    def update(self, now: Look) -> str:
        """What it takes to show this; empty where it shows it already."""
        changed = {}
        if now.order is not None and now.order != self.order:
            changed["rows"] = now.rows()
            inside = tuple(f"-{row}" for row in now.order)
            self.parts |= {name: html for name, html in now.parts.items() if name.endswith(inside)}
        changed |= {name: html for name, html in now.parts.items() if self.parts.get(name) != html}
        self.order, self.parts = now.order, dict(now.parts)
        return "".join(swap(name, html) for name, html in changed.items())


def swap(name: str, html: str) -> str:
    # `rows` is the inside of a table's body: no parser lets it stand in a `div`.
    tag = "tbody" if name == "rows" else "div"
    # By the attribute, not `#name`: there a dot in a client's id would begin a class.
    return f"<{tag} hx-swap-oob='innerHTML:[id=\"{name}\"]'>{html}</{tag}>"
