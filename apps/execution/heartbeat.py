"""Proof that this process lives: a beat a second, on a thread and a connection of its own, by the database's clock."""

import faulthandler
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from uuid import UUID

import psycopg
import structlog
from django.db import connection
from psycopg.types.json import Jsonb

log = structlog.get_logger(__name__)

EVERY = 1.0  # seconds
PATIENCE = 2  # seconds for the database to answer a beat
STANDARD_ERROR = 2  # Celery puts something else into sys.stderr
ENDED_AFTER = 20.0  # seconds of a process that is not well

_BEAT = """
insert into execution_workerprocess (id, kind, host, pid, started_at, beat_at, status)
values (%(id)s, %(kind)s, %(host)s, %(pid)s, clock_timestamp(), clock_timestamp(), %(status)s)
on conflict (id) do update set beat_at = clock_timestamp(), status = excluded.status
"""
_LEAVE = "delete from execution_workerprocess where id = %(id)s"


class Heartbeat:
    """Beats until stopped, and says with each beat what `status` answers, which is shown to operators.

    A process that lives but, as `is_well` says, does no work any more falls silent, and is ended after a while: nobody
    else could.
    """

    def __init__(
        self,
        worker: UUID,
        *,
        kind: str,
        status: Callable[[], Mapping[str, object]] = dict,
        is_well: Callable[[], bool] | None = None,
    ) -> None:
        self._row = {"id": worker, "kind": kind, "host": socket.gethostname(), "pid": os.getpid()}
        self._status = status
        self._is_well = is_well
        self._stopped = threading.Event()
        self._connection: psycopg.Connection | None = None
        self._thread = threading.Thread(target=self._beat_forever, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beat once, so that whoever looks knows this process before it holds anything; then go on."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Fall silent, for good, and say that nothing is held here any more."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE)
        # Not before: a beat that is under way sets the watch once more.
        faulthandler.cancel_dump_traceback_later()
        self._say(_LEAVE)
        self._close()

    def _beat_forever(self) -> None:
        while not self._stopped.wait(EVERY):
            self._beat()

    def _beat(self) -> None:
        if self._is_well is not None:
            if not self._is_well():
                log.error("The event loop stands still; this process falls silent, and others take its steps")
                return
            # In C and without the interpreter's lock: it works even when no Python code can run any more.
            faulthandler.dump_traceback_later(ENDED_AFTER, exit=True, file=sys.__stderr__ or STANDARD_ERROR)
        self._say(_BEAT, status=Jsonb(self._status()))

    def _say(self, statement: str, **more: object) -> None:
        was_connected = self._connection is not None
        try:
            if self._connection is None:
                self._connection = _connect()
            self._connection.execute(statement, self._row | more)
        except psycopg.Error as error:
            log.warning("Beat not heard by the database", reason=str(error))
            self._close()
            if was_connected:  # only this connection may have been lost, and a beat later there may be no other
                self._say(statement, **more)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _connect() -> psycopg.Connection:
    """Outside the pool, which work may exhaust."""
    timeout = f"-c statement_timeout={PATIENCE * 1000}"
    parameters = connection.get_connection_params() | {"connect_timeout": PATIENCE, "options": timeout}
    return psycopg.connect(**parameters, autocommit=True)
