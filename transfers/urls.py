"""The API's routes."""

from django.urls import include, path, re_path
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.permissions import AllowAny
from rest_framework.routers import SimpleRouter

from . import views

router = SimpleRouter()
router.register("clients", views.ClientViewSet)
router.register("transfers", views.TransferViewSet)

urlpatterns = [
    re_path(
        r"^download/(?P<client_id>[^/]+)/?$", views.TransferViewSet.as_view({"post": "download"})
    ),
    path("api/v1/", include(router.urls)),
    path("api/schema/", SpectacularAPIView.as_view(permission_classes=[AllowAny]), name="schema"),
    path(
        "api/docs/",
        SpectacularSwaggerView.as_view(permission_classes=[AllowAny], url_name="schema"),
    ),
    path("ws/agent/<client_id>/", csrf_exempt(views.agent_door)),
    path("healthz", views.healthz),
]
