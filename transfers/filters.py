"""What the API's lists can be narrowed by."""

from django.db.models import QuerySet
from django.http import HttpRequest
from django_filters import rest_framework as filters

from .access import clients_of
from .models import Client, Status, Transfer


def _known_to(request: HttpRequest | None) -> "QuerySet[Client]":
    # Not all: or the refusal of an unknown client would tell which there are outside of a scope.
    return clients_of(request.user) if request is not None else Client.objects.none()


class TransferFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    client = filters.ModelChoiceFilter(queryset=_known_to)
    status = filters.ChoiceFilter(choices=Status.choices)

    class Meta:
        model = Transfer
        fields = ("client", "status")
