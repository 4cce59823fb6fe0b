"""Health, without a prefix and without a final slash, as load balancers expect it."""

from django.urls import path

from apps.operations import views

urlpatterns = [
    path("livez", views.livez, name="livez"),
    path("readyz", views.readyz, name="readyz"),
    path("health", views.health, name="health"),
]
