"""`/metrics`, as Prometheus reads it: what this process has counted, and what the database says just now.

Each server process counts for itself, so each is scraped; what comes from the database is the same of all.
"""

from collections.abc import Iterator

from django.db.models import Count, Min, Q
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from rest_framework.request import Request
from rest_framework.views import APIView

from .access import MaySeeAll
from .counters import registry as counted
from .models import PENDING, Client, Status, Transfer


class Rows(Collector):
    """What the rows say."""

    def collect(self) -> Iterator[Metric]:
        yield from _clients()
        yield _transfers()
        yield _waiting()


def _clients() -> Iterator[Metric]:
    clients = "Clients that are registered, revoked ones too."
    yield GaugeMetricFamily("silentmode_clients", clients, Client.objects.count())
    there = "Clients that are online, with any server process."
    yield GaugeMetricFamily("silentmode_clients_online", there, Client.objects.online().count())


def _transfers() -> Metric:
    family = GaugeMetricFamily("silentmode_transfers", "Transfers, by status.", labels=("status",))
    rows = Transfer.objects.order_by().values_list("status").annotate(Count("pk"))
    counts = dict.fromkeys(Status.values, 0) | dict(rows)
    for status, count in counts.items():
        family.add_metric((status,), count)
    return family


def _waiting() -> Metric:
    """How long the oldest one has waited: with a client that is there, something is wrong before long."""
    family = GaugeMetricFamily(
        "silentmode_oldest_waiting_seconds",
        "Age of the oldest transfer that waits, by whether its client is online.",
        labels=("client",),
    )
    now = timezone.now()
    online = Q(client__in=Client.objects.online())
    waiting = Transfer.objects.filter(status__in=PENDING)
    oldest = waiting.aggregate(
        online=Min("created_at", filter=online), offline=Min("created_at", filter=~online)
    )
    for client, since in oldest.items():
        family.add_metric((client,), (now - since).total_seconds() if since else 0.0)
    return family


asked = CollectorRegistry()
asked.register(Rows())


class MetricsView(APIView):
    """The figures of this process and its database."""

    permission_classes = (MaySeeAll,)

    @extend_schema(exclude=True)  # of another world than the API: no JSON, no version
    def get(self, request: Request) -> HttpResponse:
        text = generate_latest(counted) + generate_latest(asked)
        return HttpResponse(text, content_type=CONTENT_TYPE_LATEST)
