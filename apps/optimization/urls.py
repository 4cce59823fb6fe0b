from django.urls import path

from apps.optimization import views

urlpatterns = [
    path("datasets/", views.DatasetsView.as_view(), name="api_datasets"),
    path("datasets/preview/", views.PreviewView.as_view()),
    path("datasets/<uuid:dataset_id>/", views.DatasetView.as_view(), name="api_dataset"),
    path("datasets/<uuid:dataset_id>/files/", views.FilesView.as_view()),
    path("datasets/<uuid:dataset_id>/cancel/", views.CancelImportView.as_view()),
    path("datasets/<uuid:dataset_id>/resume/", views.ResumeImportView.as_view()),
    path("datasets/<uuid:dataset_id>/sufficiency/", views.SufficiencyView.as_view()),
    path("datasets/<uuid:dataset_id>/reconciliation/", views.ReconciliationView.as_view()),
    path("datasets/<uuid:dataset_id>/savings/", views.SavingsView.as_view()),
    path("datasets/<uuid:dataset_id>/prices/", views.PricesView.as_view()),
    path("models/alerts/", views.PriceAlertsView.as_view()),
    path("models/alerts/<uuid:alert_id>/dismiss/", views.DismissAlertView.as_view()),
    path("datasets/<uuid:dataset_id>/breakdown/", views.BreakdownView.as_view(), name="api_breakdown"),
    path("analyses/", views.AnalysesView.as_view()),
    path("analyses/<uuid:analysis_id>/", views.AnalysisView.as_view(), name="api_analysis"),
    path("analyses/<uuid:analysis_id>/again/", views.AnalysisAgainView.as_view()),
    path("analyses/<uuid:analysis_id>/cancel/", views.CancelAnalysisView.as_view()),
    path("metrics/", views.MetricsView.as_view()),
    path("recommendations/", views.RecommendationsView.as_view()),
    path("recommendations/<uuid:recommendation_id>/", views.RecommendationView.as_view()),
    path("recommendations/<uuid:recommendation_id>/outcome/", views.OutcomeView.as_view()),
]
