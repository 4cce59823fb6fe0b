"""`manage.py scheduler`: the process that does periodic work."""

import signal
import threading
import time
from typing import Any

import structlog
from django.db import close_old_connections
from django.db.utils import Error as DatabaseError

from apps.operations import periodic
from apps.operations.commands import NetraCommand

log = structlog.get_logger(__name__)

LOOK_EVERY = 0.5  # seconds


class Command(NetraCommand):
    help = "Do what is due, again and again, until stopped."

    def run(self, **options: Any) -> bool:
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        due = dict.fromkeys(periodic.duties, 0.0)
        while not stopped.wait(LOOK_EVERY):
            for duty, at in due.items():
                if time.monotonic() >= at:
                    due[duty] = time.monotonic() + duty.every
                    self._do(duty)
            close_old_connections()
        return True

    def _do(self, duty: periodic.Duty) -> None:
        try:
            periodic.do_now(duty)
        except DatabaseError as error:
            log.warning("Duty failed; trying again", duty=duty.name, reason=str(error))
