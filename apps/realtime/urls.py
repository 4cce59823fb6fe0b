from django.urls import path

from apps.realtime import views

urlpatterns = [path("ws-ticket/", views.TicketView.as_view())]
