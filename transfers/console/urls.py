"""The console's addresses."""

from django.urls import path, re_path
from django.views.generic import RedirectView

from . import pages

app_name = "console"

CLIENT = r"^clients/(?P<pk>[^/]{1,64})/"

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="console:clients")),
    path("clients/", pages.clients, name="clients"),
    re_path(rf"{CLIENT}$", pages.client, name="client"),
    re_path(rf"{CLIENT}request/$", pages.request_of, name="request"),
    path("transfers/", pages.transfers, name="transfers"),
    path("transfers/<uuid:pk>/", pages.transfer, name="transfer"),
    path("transfers/<uuid:pk>/cancel/", pages.cancel, name="cancel"),
    path("transfers/<uuid:pk>/retry/", pages.retry, name="retry"),
]
