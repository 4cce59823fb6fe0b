from django.urls import path

from apps.execution import views

urlpatterns = [
    path("threads/<uuid:thread_id>/messages/", views.MessagesView.as_view()),
    path("runs/<uuid:run_id>/answer/", views.AnswerRunView.as_view()),
    path("runs/<uuid:run_id>/cancel/", views.CancelRunView.as_view()),
    path("runs/<uuid:run_id>/trace/", views.TraceView.as_view()),
]
