"""The API's routes."""

from csp.constants import SELF
from csp.decorators import csp_update
from django.urls import include, path, re_path
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.permissions import AllowAny
from rest_framework.routers import SimpleRouter

from . import doors, enrolment, events, metrics, views

router = SimpleRouter()
router.register("clients", views.ClientViewSet)
router.register("transfers", views.TransferViewSet)

urlpatterns = [
    re_path(
        r"^download/(?P<client_id>[^/]+)/?$", views.TransferViewSet.as_view({"post": "download"})
    ),
    path("api/v1/events/", events.EventsView.as_view()),
    path("api/v1/enrol/", enrolment.EnrolView.as_view()),
    path("api/v1/", include(router.urls)),
    path("api/schema/", SpectacularAPIView.as_view(permission_classes=[AllowAny]), name="schema"),
    path(
        "api/docs/",
        csp_update(
            {"connect-src": [SELF], "img-src": ["data:"]}
        )(  # its calls; icons in its style sheet
            SpectacularSwaggerSplitView.as_view(  # the script apart from the page: nothing inline
                permission_classes=[AllowAny],
                url_name="schema",
                template_name="transfers/docs.html",
            )
        ),
    ),
    path("ws/agent/<client_id>/", csrf_exempt(doors.agent_door)),
    path("healthz", doors.healthz),
    path("metrics", metrics.MetricsView.as_view()),
]
