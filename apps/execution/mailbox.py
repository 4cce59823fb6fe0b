"""Where a step waits for calls that run in tool workers, without holding a thread."""

import asyncio
from weakref import WeakKeyDictionary

import structlog
from django.db import DatabaseError, InterfaceError, connection

from apps.operations.database import in_database

log = structlog.get_logger(__name__)

LOOK_EVERY = 0.1  # seconds; one query for all calls that this process waits for

_SETTLED = """
select id from conversations_toolcall where id = any(%s) and (finished_at is not null or state = 'unknown')
"""


class Mailbox:
    """The calls that one event loop waits for."""

    def __init__(self) -> None:
        self._awaited: dict[int, asyncio.Event] = {}
        self._looking: asyncio.Task[None] | None = None

    async def settled(self, call_id: int) -> None:
        """Return once the call is closed, or its fate unknown."""
        event = self._awaited.setdefault(call_id, asyncio.Event())
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            await event.wait()
        finally:
            self._awaited.pop(call_id, None)

    async def _look(self) -> None:
        while self._awaited:
            try:
                for call_id in await in_database(_settled, list(self._awaited)):
                    if call_id in self._awaited:
                        self._awaited[call_id].set()
            except (DatabaseError, InterfaceError) as error:
                log.warning("Cannot look after calls in tool workers; trying again", reason=str(error))
            await asyncio.sleep(LOOK_EVERY)


def _settled(calls: list[int]) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(_SETTLED, [calls])
        return [row[0] for row in cursor.fetchall()]


_mailboxes: "WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox]" = WeakKeyDictionary()


def mailbox() -> Mailbox:
    """The mailbox of the running event loop."""
    return _mailboxes.setdefault(asyncio.get_running_loop(), Mailbox())
