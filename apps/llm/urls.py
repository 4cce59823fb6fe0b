from django.urls import path

from apps.llm import views

urlpatterns = [
    path("models/", views.ModelsView.as_view()),
    path("models/changes/", views.PriceChangesView.as_view()),
    path("usage/", views.UsageView.as_view()),
]
