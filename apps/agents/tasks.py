"""Loads the agent library when an agent worker starts, not in its first run."""

import threading
from importlib import import_module
from typing import Any

from celery.signals import worker_ready


@worker_ready.connect
def load_library(sender: Any, **_: Any) -> None:
    """Only the worker that runs agents needs it; looking after lost runs does not wait for it."""
    if any(queue.name == "agents" for queue in sender.task_consumer.queues):
        threading.Thread(target=import_module, args=["apps.agents.runtime"], name="agent library", daemon=True).start()
