"""The same events as server-sent events."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog
from django.db import InterfaceError, OperationalError

from apps.errors import NetraError
from apps.operations.database import in_database
from apps.realtime.hub import hub_for
from apps.realtime.notifier import thread_channel
from apps.realtime.source import EventSource

READ_AT_ONCE = 200  # events
KEEP_ALIVE = 10.0  # seconds between two comments on a silent stream
RECHECK = 10.0  # seconds between two looks at whether the client may still listen

STREAMS = 50  # of one user in one process

log = structlog.get_logger(__name__)
_open: Counter[UUID] = Counter()  # streams by user; changed on the event loop only


class TooManyStreams(NetraError):
    """One user follows only so many threads at once."""

    code = "stream.too_many"
    status = 429


def require_room(user: UUID) -> None:
    """Let `user` open another stream; some more get through when they ask at the same moment.

    Raises:
        TooManyStreams: there are enough.
    """
    if _open[user] >= STREAMS:
        raise TooManyStreams(f"You have {STREAMS} streams open; close one first.", retry_after=KEEP_ALIVE)


async def event_stream(
    source: EventSource, thread: UUID, *, user: UUID, after: int, recheck: Callable[[], object]
) -> AsyncIterator[bytes]:
    """Events above `after`, then new ones as they come, until `user` leaves. `id` is the event's number.

    `recheck` blocks, and raises a NetraError once the client may not listen any more; the stream then ends, as it does
    when the database is away for long.
    """
    listener = _Waiter(thread, after)
    hub, channel = hub_for(source), thread_channel(thread)
    checked_at = time.monotonic()
    _open[user] += 1
    try:
        await hub.join(channel, listener)
        # The head of an answer travels with its first words: a client that waits for events is to know that it may.
        said = b": here\n\n"
        while True:
            listener.news.clear()
            events = listener.take_heard()
            if events is None:
                events = await in_database(source.read, thread, listener.after, READ_AT_ONCE)
                if len(events) == READ_AT_ONCE:
                    listener.fell_behind(thread)
            if said := said + b"".join(_frame(event) for event in events):
                yield said
            said = b""
            if events:
                listener.after = events[-1]["seq"]
            if time.monotonic() - checked_at > RECHECK:
                checked_at = time.monotonic()
                await in_database(recheck)
            if not events and not await listener.wait(KEEP_ALIVE):
                said = b": still here\n\n"
    except NetraError as error:
        log.info("Stream ended", reason=error.code)
    except (OperationalError, InterfaceError) as error:
        # The client comes back with the last number it knows.
        log.warning("Stream ended: the database is away", reason=str(error))
    finally:
        _open[user] -= 1
        if not _open[user]:
            del _open[user]
        await hub.leave(channel, listener)


def _frame(event: Mapping[str, Any]) -> bytes:
    return f"id: {event['seq']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


class _Waiter:
    """Remembers what was heard; what was not, or too much, stands in the table."""

    def __init__(self, thread: UUID, after: int) -> None:
        self._thread, self.after, self.news = thread, after, asyncio.Event()
        self._heard: list[Mapping[str, Any]] | None = None  # None: only the table knows

    def take_heard(self) -> Sequence[Mapping[str, Any]] | None:
        """The events that come next, if they were all heard; None when the table has to be asked."""
        heard, self._heard = self._heard, []
        if heard is None:
            return None
        heard = [event for event in heard if event["seq"] > self.after]
        follow = all(event["seq"] == number for number, event in enumerate(heard, self.after + 1))
        return heard if follow else None

    async def wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.news.wait()
        except TimeoutError:
            return False
        return True

    def heard(self, channel: str, payload: Mapping[str, Any]) -> None:
        if "delta" in payload:
            return
        if self._heard is not None and "events" in payload and len(self._heard) < READ_AT_ONCE:
            self._heard.extend(payload["events"])
        else:
            self._heard = None
        self.news.set()

    def positions(self) -> Mapping[UUID, int]:
        return {self._thread: self.after}

    def fell_behind(self, thread: UUID) -> None:
        self._heard = None
        self.news.set()

    def services_changed(self, *, down: list[str]) -> None:
        self._heard = None
        self.news.set()
