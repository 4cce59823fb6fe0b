"""`manage.py scheduler`: the process that does periodic work."""

import signal
import threading
from typing import Any

import structlog
from django.db import close_old_connections
from django.db.utils import Error as DatabaseError

from apps.execution.sweep import sweep
from apps.operations.commands import NetraCommand

log = structlog.get_logger(__name__)

EVERY = 1.0  # seconds


class Command(NetraCommand):
    help = "Ring again for whatever waits, once a second, until stopped."

    def run(self, **options: Any) -> bool:
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        while not stopped.wait(EVERY):
            try:
                sweep()
            except DatabaseError as error:
                log.warning("Sweep failed; trying again", reason=str(error))
            close_old_connections()
        return True
