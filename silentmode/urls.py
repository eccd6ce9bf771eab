"""Where everything is on the web."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

handler400 = "transfers.views.bad_request"
handler500 = "transfers.views.server_error"
handler404 = "transfers.views.not_found"

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("", include("transfers.urls")),
]
