"""HTTP: path -> app."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from apps.optimization.views import TracesView

api: list[URLPattern | URLResolver] = [
    path("", include("apps.realtime.urls")),
    path("", include("apps.conversations.urls")),
    path("", include("apps.execution.urls")),
    path("", include("apps.llm.urls")),
    path("", include("apps.optimization.urls")),
    path("", include("apps.agents.urls")),
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerSplitView.as_view(url_name="schema")),
]
urlpatterns = [
    path("api/", include(api)),
    path("v1/traces", TracesView.as_view(), name="traces"),
    path("accounts/", include("apps.accounts.urls")),
    path("admin/", admin.site.urls),
    path("", include("apps.operations.urls")),
    path("", include("apps.web.urls")),
]

handler400 = "apps.web.pages.bad_request"
handler403 = "apps.web.pages.forbidden"
handler404 = "apps.web.pages.not_found"
handler500 = "apps.web.pages.server_error"
