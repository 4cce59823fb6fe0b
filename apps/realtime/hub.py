"""One Redis subscription per web process, shared by all its sockets."""

import asyncio
import json
import random
from collections.abc import Mapping
from contextvars import Context
from typing import Any, Protocol
from uuid import UUID

import structlog
from django.conf import settings
from django.db.utils import Error as DatabaseError
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from apps.operations.database import in_database
from apps.realtime.notifier import CONTROL
from apps.realtime.source import EventSource

log = structlog.get_logger(__name__)

POSITION_CHECK = 5.0  # seconds within which a lost hint is found
JOIN_PATIENCE = 1.0  # seconds to wait for Redis to confirm a subscription
LONGEST_WAIT = 2.0  # seconds between two attempts to reach Redis


class Listener(Protocol):
    """Someone who hears hints; called on the event loop, must not block."""

    def heard(self, channel: str, payload: Mapping[str, Any]) -> None: ...

    def positions(self) -> Mapping[UUID, int]:
        """Per thread the last number known here."""

    def fell_behind(self, thread: UUID) -> None:
        """The table holds more of `thread` than was heard."""

    def services_changed(self, *, down: list[str]) -> None: ...


class Hub:
    """Hands each hint to the listeners of its channel, and finds the hints that never came."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._redis = Redis.from_url(settings.REDIS_URL, retry=Retry(NoBackoff(), 0), socket_connect_timeout=2)
        self._pubsub: PubSub | None = None
        self._listeners: dict[str, set[Listener]] = {}
        self._joined: dict[str, asyncio.Event] = {}
        self._connected = asyncio.Event()
        self._down: list[str] = []
        # In a context of their own: their lines in the log do not belong to the request that happened to come first.
        work = (self._read_forever(), self._check_positions_forever())
        self._tasks = [asyncio.create_task(coroutine, context=Context()) for coroutine in work]

    async def join(self, channel: str, listener: Listener) -> None:
        """Hear `channel` from now on; returns once Redis confirmed, or after `JOIN_PATIENCE` when it is away."""
        self._listeners.setdefault(channel, set()).add(listener)
        joined = self._joined.setdefault(channel, asyncio.Event())
        try:
            async with asyncio.timeout(JOIN_PATIENCE):
                await self._connected.wait()
                if not joined.is_set() and self._pubsub is not None:
                    await self._pubsub.subscribe(channel)
                await joined.wait()
        except (TimeoutError, RedisError) as error:
            # The reader subscribes to all channels when Redis is back; until then the position check finds events.
            log.warning("Redis did not confirm a subscription", channel=channel, reason=repr(error))

    def count(self, channel: str) -> int:
        """How many listeners the channel has in this process."""
        return len(self._listeners.get(channel, ()))

    async def leave(self, channel: str, listener: Listener) -> None:
        """Stop hearing `channel`."""
        listeners = self._listeners.get(channel, set())
        listeners.discard(listener)
        if listeners or channel not in self._listeners:
            return
        del self._listeners[channel]
        self._joined.pop(channel, None)
        if self._pubsub is not None:
            try:
                await self._pubsub.unsubscribe(channel)
            except RedisError as error:
                log.info("Redis went away during an unsubscription", reason=repr(error))

    async def close(self) -> None:
        """Stop listening, for good."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    def everyone(self) -> set[Listener]:
        """All listeners, each once."""
        return set().union(*self._listeners.values())

    async def _read_forever(self) -> None:
        wait = 0.1
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(CONTROL, *self._listeners)
                    self._pubsub = pubsub
                    self._connected.set()
                    wait = 0.1
                    self._tell_services(down=[])
                    await self._read(pubsub)
            except (RedisError, OSError) as error:
                log.warning("Redis is away; events go on by position check", reason=repr(error))
            self._pubsub = None
            self._connected.clear()
            for joined in self._joined.values():
                joined.clear()
            self._tell_services(down=["redis"])
            await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311
            wait = min(wait * 2, LONGEST_WAIT)

    async def _read(self, pubsub: PubSub) -> None:
        while True:
            message = await pubsub.get_message(timeout=None)
            if message is None:
                continue
            channel = message["channel"].decode()
            if message["type"] == "subscribe" and channel in self._joined:
                self._joined[channel].set()
            elif message["type"] == "message":
                self._hand_out(channel, json.loads(message["data"]))

    def _hand_out(self, channel: str, payload: Mapping[str, Any]) -> None:
        for listener in tuple(self.everyone() if channel == CONTROL else self._listeners.get(channel, ())):
            listener.heard(channel, payload)

    def _tell_services(self, *, down: list[str]) -> None:
        if down == self._down:
            return
        self._down = down
        for listener in self.everyone():
            listener.services_changed(down=down)

    async def _check_positions_forever(self) -> None:
        while True:
            await asyncio.sleep(POSITION_CHECK)
            try:
                await self._check_positions()
            except DatabaseError as error:
                log.warning("Position check failed", reason=repr(error))

    async def _check_positions(self) -> None:
        known = [(listener, listener.positions()) for listener in self.everyone()]
        threads = list({thread for _, positions in known for thread in positions})
        if not threads:
            return
        stored = await in_database(self._source.positions, threads)
        for listener, positions in known:
            for thread, seq in positions.items():
                if stored.get(thread, 0) > seq:
                    listener.fell_behind(thread)


_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}


def hub_for(source: EventSource) -> Hub:
    """The hub of the running event loop, made at first use."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        _hubs[loop] = Hub(source)
    return _hubs[loop]
