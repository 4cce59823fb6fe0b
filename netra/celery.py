"""The worker application; queues and routes live in the settings."""

import os

from celery import Celery

# Before the app is made: a shared task met on another thread must find a configured default app.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "netra.settings")

app = Celery("netra")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.set_default()
