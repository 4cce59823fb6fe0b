from django.urls import path

from apps.optimization import views

urlpatterns = [
    path("datasets/", views.DatasetsView.as_view(), name="api_datasets"),
    path("datasets/<uuid:dataset_id>/", views.DatasetView.as_view(), name="api_dataset"),
    path("datasets/<uuid:dataset_id>/sufficiency/", views.SufficiencyView.as_view()),
    path("datasets/<uuid:dataset_id>/savings/", views.SavingsView.as_view()),
    path("datasets/<uuid:dataset_id>/prices/", views.PricesView.as_view()),
    path("models/alerts/", views.PriceAlertsView.as_view()),
    path("models/alerts/<uuid:alert_id>/dismiss/", views.DismissAlertView.as_view()),
    path("datasets/<uuid:dataset_id>/breakdown/", views.BreakdownView.as_view(), name="api_breakdown"),
]
