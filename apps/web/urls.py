"""Mounted at /: the pages."""

from django.urls import path
from django.views.generic import RedirectView

from apps.web import savings_views, views

app_name = "web"
urlpatterns = [
    path("", views.chat, name="chat"),
    path("t/<uuid:thread_id>/", views.chat, name="thread"),
    path("threads/", views.threads, name="threads"),
    path("messages/<uuid:message_id>/", views.message, name="message"),
    path("reports/<uuid:report_id>/", views.report, name="report"),
    path("reports/<uuid:report_id>/body/", views.report_body, name="report_body"),
    path("api/reports/<uuid:report_id>.html", RedirectView.as_view(pattern_name="web:report")),
    path("runs/", views.runs, name="runs"),
    path("data/", views.data, name="data"),
    path("data/list/", views.data_list, name="data_list"),
    path("data/<uuid:dataset_id>/", views.dataset, name="dataset"),
    path("data/<uuid:dataset_id>/delete/", views.delete_dataset, name="delete_dataset"),
    path("data/<uuid:dataset_id>/change/", views.change_dataset, name="change_dataset"),
    path("data/<uuid:dataset_id>/cancel/", views.cancel_import, name="cancel_import"),
    path("data/<uuid:dataset_id>/resume/", views.resume_import, name="resume_import"),
    path("data/<uuid:dataset_id>/savings/", savings_views.savings, name="savings"),
    path("data/<uuid:dataset_id>/savings/compute/", savings_views.compute, name="compute_savings"),
    path("analyses/<uuid:analysis_id>/stop/", savings_views.stop, name="stop_analysis"),
    path("data/<uuid:dataset_id>/ask/", savings_views.ask, name="ask"),
    path("data/<uuid:dataset_id>/reconciliation/", savings_views.reconciliation, name="reconciliation"),
    path("analyses/<uuid:analysis_id>/", savings_views.analysis, name="analysis"),
    path("analyses/<uuid:analysis_id>/again/", savings_views.ask_again, name="ask_again"),
    path("alerts/<uuid:alert_id>/dismiss/", savings_views.dismiss_alert, name="dismiss_alert"),
    path("savings/", savings_views.newest, name="newest_savings"),
    path("recommendations/<uuid:recommendation_id>/decide/", savings_views.decide, name="decide"),
    path("favicon.ico", RedirectView.as_view(url="/static/web/icon.svg", permanent=True)),
]
