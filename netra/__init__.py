"""The project: wires the apps together and owns no behaviour."""

# Whoever enters, shared tasks must find the configured application instead of Celery's default one.
from netra.celery import app as celery_app

__all__ = ["celery_app"]
