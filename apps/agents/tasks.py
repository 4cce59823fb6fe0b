"""Loads the agent library when an agent worker starts, not in its first run."""

from importlib import import_module
from typing import Any

from celery.signals import worker_init


@worker_init.connect
def load_library(sender: Any, **_: Any) -> None:
    """Only the worker that runs agents needs it."""
    if any(queue == "agents" for queue in sender.app.amqp.queues.consume_from):
        import_module("apps.agents.runtime")
