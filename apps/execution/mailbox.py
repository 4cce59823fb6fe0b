"""Where a step waits for calls that run in tool workers, without holding a thread."""

import asyncio
from weakref import WeakKeyDictionary

import structlog
from django.db import DatabaseError, InterfaceError

from apps.execution.registry import Interruption, Postponed
from apps.operations.database import in_database
from apps.statements import fetch

log = structlog.get_logger(__name__)

LOOK_EVERY = 0.1  # seconds; one query for all calls that this process waits for

# A call that is intended and has an error was put off by a tool worker until it is rung for again.
_SETTLED = """
select id, case when state = 'intended' then extract(epoch from rung_at - clock_timestamp())::float8 end, summary
from conversations_toolcall
where id = any(%(calls)s) and (finished_at is not null or state = 'unknown'
    or state = 'intended' and error_code <> '' and rung_at > clock_timestamp())
"""


class Mailbox:
    """The calls that one event loop waits for."""

    def __init__(self) -> None:
        # Two attempts of a step may wait for one call, until the earlier one is called off.
        self._awaited: dict[asyncio.Future[Postponed | None], int] = {}
        self._looking: asyncio.Task[None] | None = None

    async def settled(self, call_id: int) -> None:
        """Return once the call is closed, or its fate unknown.

        Raises:
            Interruption: its breaker opened before it began; the step waits, and holds no worker meanwhile.
        """
        heard: asyncio.Future[Postponed | None] = asyncio.get_running_loop().create_future()
        self._awaited[heard] = call_id
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            put_off = await heard
        finally:
            del self._awaited[heard]
        if put_off is not None:
            raise Interruption(put_off)

    async def _look(self) -> None:
        while self._awaited:
            try:
                news = await in_database(_settled, list(self._awaited.values()))
                for heard, call_id in self._awaited.items():
                    if call_id in news and not heard.done():
                        heard.set_result(news[call_id])
            except (DatabaseError, InterfaceError) as error:
                log.warning("Cannot look after calls in tool workers; trying again", reason=str(error))
            await asyncio.sleep(LOOK_EVERY)


def _settled(calls: list[int]) -> dict[int, Postponed | None]:
    """What there is to know of `calls`: None where one has come to its end."""
    rows = fetch(_SETTLED, {"calls": calls})
    return {
        call: None if seconds is None else Postponed(seconds=max(seconds, 1.0), reason=reason)
        for call, seconds, reason in rows
    }


_mailboxes: "WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox]" = WeakKeyDictionary()


def mailbox() -> Mailbox:
    """The mailbox of the running event loop."""
    return _mailboxes.setdefault(asyncio.get_running_loop(), Mailbox())
