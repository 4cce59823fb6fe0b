"""Hints from whoever wrote something to the sockets that may show it. A lost hint costs latency, never data."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

log = structlog.get_logger(__name__)

PATIENCE = 0.05  # seconds that a writer waits for Redis
EVENTS_IN_HINT = 8 * 1024  # bytes; longer ones are read from the table

CONTROL = "netra:control"


def thread_channel(thread_id: UUID | str) -> str:
    return f"netra:thread:{thread_id}"


def user_channel(user_id: UUID | str) -> str:
    return f"netra:user:{user_id}"


def publish_events(*, thread_id: UUID, events: Sequence[Mapping[str, Any]]) -> None:
    """Tell the thread's sockets of stored events: the events themselves while they are small, else the last number."""
    payload = json.dumps({"events": list(events)})
    if len(payload) > EVENTS_IN_HINT:
        payload = json.dumps({"last_seq": events[-1]["seq"]})
    _publish(thread_channel(thread_id), payload)


def publish_delta(*, thread_id: UUID, frame: Mapping[str, Any]) -> None:
    """Send live text, which is not numbered, to the thread's sockets."""
    _publish(thread_channel(thread_id), json.dumps({"delta": dict(frame)}))


def publish_to_user(*, user_id: UUID, frame: Mapping[str, Any]) -> None:
    """Send an unnumbered frame, for example `dataset_progress`, to every socket of one user."""
    _publish(user_channel(user_id), json.dumps({"frame": dict(frame)}, default=str))


@cache
def _client() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=PATIENCE,
        socket_connect_timeout=PATIENCE,
        retry=Retry(NoBackoff(), 0),
    )


def _publish(channel: str, payload: str) -> None:
    try:
        _client().publish(channel, payload)
    except redis.RedisError as error:
        # The sockets find the gap by their position check.
        log.warning("Hint not published", channel=channel, reason=str(error))
