from django.urls import path

from apps.conversations import views

urlpatterns = [
    path("threads/", views.ThreadsView.as_view()),
    path("threads/<uuid:thread_id>/", views.ThreadView.as_view()),
    path("threads/<uuid:thread_id>/events/", views.EventsView.as_view()),
    path("runs/", views.RunsView.as_view()),
    path("runs/<uuid:run_id>/", views.RunView.as_view()),
]
