"""Where everything is on the web."""

from django.contrib import admin
from django.urls import include, path

from transfers.login import login, logout

handler400 = "transfers.refusals.bad_request"
handler500 = "transfers.refusals.server_error"
handler403 = "transfers.refusals.forbidden"
handler404 = "transfers.refusals.not_found"

urlpatterns = [
    path("login/", login, name="login"),
    path("logout/", logout, name="logout"),
    path("admin/login/", login),
    path("admin/logout/", logout),
    path("admin/", admin.site.urls),
    path("", include("transfers.urls")),
    path("", include("transfers.console.urls")),
]
