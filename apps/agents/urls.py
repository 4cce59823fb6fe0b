from django.urls import path

from apps.agents import views

urlpatterns = [
    path("agents/", views.AgentsView.as_view()),
    path("tools/", views.ToolsView.as_view()),
    path("reports/<uuid:report_id>/", views.ReportView.as_view()),
    path("reports/<uuid:report_id>.json", views.ReportView.as_view()),
    path("reports/<uuid:report_id>.md", views.ReportMarkdownView.as_view()),
]
