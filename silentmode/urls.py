"""Where everything is on the web."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from transfers.login import login

handler400 = "transfers.refusals.bad_request"
handler500 = "transfers.refusals.server_error"
handler404 = "transfers.refusals.not_found"

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/login/", login),
    path("admin/", admin.site.urls),
    path("", include("transfers.urls")),
]
