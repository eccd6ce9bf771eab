"""Which rows a list has: what the address of a page asks for, within what its user may see.

A page and what is pushed to it ask here alike, so that both show the same rows.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from django.contrib.auth.models import User
from django.db.models import F, Model, Q, QuerySet
from django.http import QueryDict
from django.utils import timezone

from transfers.access import Action, clients_of, may, transfers_of
from transfers.facts import Facts
from transfers.models import ACTIVE, Client, ClientStatus, Label, Status, Transfer

SIZES = (50, 100, 200)
"""Rows of a page."""

MOST_COUNTED = 10_000
"""Beyond that a list says "more than": to count 100,000 rows takes longer than to show 50."""

MOST_SEARCHED = 200
"""Characters of a search."""

Row = TypeVar("Row", bound=Model)


@dataclass(frozen=True)
class Sort:
    """A way to order a list: what it is called, and which way the column goes that it is of."""

    name: str
    order: Sequence[Any]
    direction: str
    """As `aria-sort` says it."""


@dataclass(frozen=True)
class Heading:
    """Of a column."""

    name: str
    address: str = ""
    """Of the list ordered by it, or the other way round where it is; empty: it is not ordered by that."""
    direction: str = ""
    """Where it is ordered by this column."""


class Listing(Generic[Row]):
    """One page of a list."""

    states: ClassVar[Mapping[str, str]]
    """What the list can be narrowed to, and what that is called."""
    sorts: ClassVar[Mapping[str, Sort]]
    """What the list can be sorted by; the first is the order that it has unasked."""
    columns: ClassVar[Mapping[str, Sequence[str]]]
    """Its headings, and the sorts that each goes through."""

    def __init__(self, user: User, asked: QueryDict) -> None:
        self.user = user
        self.q = asked.get("q", "").replace("\0", "").strip()[:MOST_SEARCHED]
        self.state = asked.get("state", "") if asked.get("state") in self.states else ""
        sort = asked.get("sort", "")
        self.sort = sort if sort in self.sorts else next(iter(self.sorts))
        size = asked.get("size", "")
        self.size = int(size) if size in map(str, SIZES) else SIZES[0]
        page = asked.get("page", "1")
        self.number = (
            max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 7 else 1
        )

    @property
    def headings(self) -> Iterable[Heading]:
        """Of its columns, with what a click on each leads to."""
        for name, sorts in self.columns.items():
            if self.sort in sorts:
                following = sorts[(sorts.index(self.sort) + 1) % len(sorts)]
                direction = self.sorts[self.sort].direction
                yield Heading(name, self.address(sort=following), direction)
            else:
                yield Heading(name, self.address(sort=sorts[0]) if sorts else "")

    def query(self) -> "QuerySet[Row]":
        """All rows of the list, in their order."""
        raise NotImplementedError

    @cached_property
    def _window(self) -> list[Row]:
        """The rows of the page, and one more where there are any after it."""
        first = (self.number - 1) * self.size
        return list(self.query()[first : first + self.size + 1])

    @property
    def rows(self) -> list[Row]:
        return self._window[: self.size]

    @property
    def has_next(self) -> bool:
        return len(self._window) > self.size

    @cached_property
    def count(self) -> int:
        """Of all rows, or one more than `MOST_COUNTED`."""
        if not self.has_next and (self.rows or self.number == 1):
            return (self.number - 1) * self.size + len(self.rows)
        return self.query().order_by()[: MOST_COUNTED + 1].count()

    @property
    def is_beyond_count(self) -> bool:
        return self.count > MOST_COUNTED

    @property
    def most_counted(self) -> int:
        return MOST_COUNTED

    @property
    def sizes(self) -> Iterable[int]:
        return SIZES

    @property
    def is_narrowed(self) -> bool:
        return bool(self.q or self.state)

    @property
    def previous_page(self) -> str:
        """The address of the page before this one; empty on the first."""
        return self.address(page=self.number - 1) if self.number > 1 else ""

    @property
    def next_page(self) -> str:
        """The address of the page after this one; empty on the last."""
        return self.address(page=self.number + 1) if self.has_next else ""

    def address(self, **other: Any) -> str:
        """The query of this page's address, with other values for some of its parts."""
        query = QueryDict(mutable=True)
        values = {"q": self.q, "state": self.state, "sort": self.sort, "size": self.size, **other}
        defaults = {"sort": next(iter(self.sorts)), "size": SIZES[0], "page": 1}
        for name, value in values.items():
            if value and value != defaults.get(name):
                query[name] = str(value)
        return f"?{query.urlencode()}"


class TransferList(Listing[Transfer]):
    """Transfers: of everybody, or of one client."""

    states: ClassVar[Mapping[str, str]] = {
        "": "All",
        "live": "Under way or waiting",
        "landed": "Landed",
        "failed": "Failed",
        "ended": "Cancelled or expired",
    }
    sorts: ClassVar[Mapping[str, Sort]] = {
        "new": Sort("Newest first", ("-created_at", "-id"), "descending"),
        "old": Sort("Oldest first", ("created_at", "id"), "ascending"),
    }
    # By what no index is of, a list of 100,000 would take its time.
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "File": (),
        "Client": (),
        "State": (),
        "Progress": (),
        "Asked": ("new", "old"),
    }

    def __init__(self, user: User, asked: QueryDict, client: Client | None = None) -> None:
        super().__init__(user, asked)
        self.client = client

    def query(self) -> "QuerySet[Transfer]":
        transfers = transfers_of(self.user).select_related("client", "requested_by")
        if self.client is not None:
            transfers = transfers.filter(client=self.client)
        match self.state:
            case "live":
                transfers = transfers.live()  # type: ignore[attr-defined]  # of TransferQuerySet
            case "landed":
                transfers = transfers.filter(status=Status.COMPLETED)
            case "failed":
                transfers = transfers.filter(status=Status.FAILED)
            case "ended":
                transfers = transfers.filter(status__in=(Status.CANCELLED, Status.EXPIRED))
        if self.q:
            transfers = transfers.filter(_matching(self.q))
        return transfers.order_by(*self.sorts[self.sort].order)

    @cached_property
    def facts(self) -> list[Facts]:
        now = timezone.now()
        return [Facts(row, now) for row in self.rows]


def _matching(text: str) -> Q:
    try:
        return Q(pk=uuid.UUID(text))
    except ValueError:
        pass
    if len(text) == 64 and set(text.lower()) <= set("0123456789abcdef"):
        return Q(sha256=text.lower())
    return Q(client__id__icontains=text) | Q(name__icontains=text) | Q(path__icontains=text)


class ClientList(Listing[Client]):
    """The machines."""

    states: ClassVar[Mapping[str, str]] = {
        "": "All",
        "online": "Online",
        "offline": "Offline",
        "invited": "Not enrolled yet",
        "pending": "Waiting to be approved",
        "revoked": "Revoked",
    }
    sorts: ClassVar[Mapping[str, Sort]] = {
        "name": Sort("Name", ("pk",), "ascending"),
        "eman": Sort("Name, backwards", ("-pk",), "descending"),
        "seen": Sort("Last seen", (F("last_seen").desc(nulls_last=True), "pk"), "descending"),
        "unseen": Sort("Longest unseen", (F("last_seen").asc(nulls_last=True), "pk"), "ascending"),
        "platform": Sort("Platform", ("platform", "pk"), "ascending"),
        "version": Sort("Agent version", ("agent_version", "pk"), "other"),
        "new": Sort("Newest", ("-created_at", "pk"), "descending"),
    }
    columns: ClassVar[Mapping[str, Sequence[str]]] = {
        "Client": ("name", "eman"),
        "State": (),
        "Sending now": (),
        "Last seen": ("seen", "unseen"),
        "Machine": ("platform", "version"),
        "Labels": (),
    }

    def __init__(self, user: User, asked: QueryDict) -> None:
        super().__init__(user, asked)
        self.label = asked.get("label", "").replace("\0", "")[:64]

    @property
    def is_narrowed(self) -> bool:
        return super().is_narrowed or bool(self.label)

    def address(self, **other: Any) -> str:
        return super().address(**{"label": self.label, **other})

    def query(self) -> "QuerySet[Client]":
        clients = clients_of(self.user).prefetch_related("labels")
        match self.state:
            case "":
                pass
            case "online":
                clients = clients.online()
            case "offline":
                clients = clients.offline()
            case status:
                clients = clients.with_status(status)
        if self.label:
            clients = clients.filter(labels=self.label)
        if self.q:
            clients = clients.filter(Q(pk__icontains=self.q) | Q(hostname__icontains=self.q))
        return clients.order_by(*self.sorts[self.sort].order)

    @cached_property
    def labels(self) -> list[str]:
        """Those that clients of this user have."""
        return list(
            Label.objects.filter(clients__in=clients_of(self.user))
            .distinct()
            .values_list("pk", flat=True)
        )

    @cached_property
    def machines(self) -> "list[Machine]":
        return machines(self.user, self.rows)


class Machine:
    """A client's row."""

    def __init__(self, client: Client, sending: Sequence[Facts] = ()) -> None:
        self.client = client
        self.sending = sending

    @property
    def state(self) -> str:
        """As a list of clients can be narrowed to it."""
        status = self.client.status
        if status is not ClientStatus.ACTIVE:
            return status.value
        return "online" if self.client.online else "offline"

    @property
    def word(self) -> str:
        return ClientList.states[self.state]

    @property
    def tone(self) -> str:
        return {"online": "good", "revoked": "bad", "pending": "busy"}.get(self.state, "calm")


def machines(user: User, clients: Sequence[Client]) -> list[Machine]:
    """These, with what each is sending now."""
    now = timezone.now()
    sending: dict[str, list[Facts]] = {}
    rows = transfers_of(user).filter(status__in=ACTIVE, client__in=[row.pk for row in clients])
    seen = rows.order_by("started_at", "pk") if may(user, Action.SEE_TRANSFER) else ()
    for transfer in seen:
        sending.setdefault(transfer.client_id, []).append(Facts(transfer, now))
    return [Machine(row, sending.get(row.pk, [])) for row in clients]
