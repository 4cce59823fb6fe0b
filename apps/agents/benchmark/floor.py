"""What the same machine gives without Netra: a Celery task that does nothing, and one that writes down a run by hand.

Run by `celery -A apps.agents.benchmark.floor worker` on the house's PostgreSQL and Redis, with its own queue and its
own tables. Both stores come from the variables that Celery and libpq read themselves (`CELERY_BROKER_URL`, `PG*`).
A floor has no web server, no authentication, no fence and no model: it is a limit, not a competitor.
"""

import json
import threading
from functools import cache
from typing import Any

import psycopg
import redis
from celery import Celery

QUEUE = "benchmark"
THOUGHTS = 3  # events between the claim and the end
TERMINAL = "agent_completed"

SCHEMA = """
create schema if not exists benchmark;
create table if not exists benchmark.thread (id uuid primary key, last_seq bigint not null default 0);
create table if not exists benchmark.run (
    id uuid primary key, thread_id uuid not null references benchmark.thread, state text not null default 'queued',
    started_at timestamptz, finished_at timestamptz
);
create table if not exists benchmark.event (
    thread_id uuid, seq bigint, run_id uuid not null, type text not null, data jsonb not null, at timestamptz not null,
    primary key (thread_id, seq)
);
"""
PREPARE = """
with t as (insert into benchmark.thread (id) select gen_random_uuid() from generate_series(1, %s) returning id)
insert into benchmark.run (id, thread_id) select gen_random_uuid(), id from t returning id, thread_id
"""
_CLAIM = """
update benchmark.run set state = 'running', started_at = clock_timestamp() where id = %s and state = 'queued'
returning thread_id
"""
_NUMBER = "update benchmark.thread set last_seq = last_seq + 1 where id = %s returning last_seq"
_INSERT = """
insert into benchmark.event (thread_id, seq, run_id, type, data, at) values (%s, %s, %s, %s, %s, clock_timestamp())
returning at
"""
_FINISH = "update benchmark.run set state = 'completed', finished_at = clock_timestamp() where id = %s"

# No fixups: Django's would close connections around each task, which nobody writing this by hand would want.
app = Celery("floor", fixups=[], set_as_current=False)
app.conf.update(task_ignore_result=True, task_default_queue=QUEUE, worker_hijack_root_logger=False)
_own = threading.local()


@app.task(name="benchmark.nothing")
def nothing(channel: str) -> None:
    """Tell whoever waits that the task has run."""
    _hints().publish(channel, f'{{"type": "{TERMINAL}"}}')


@app.task(name="benchmark.run")
def run(run_id: str) -> None:
    """A run's durable writes: claim, three appends and the end; five commits and four hints."""
    connection = _connection()
    with connection.transaction():
        claimed = connection.execute(_CLAIM, [run_id]).fetchone()
    if claimed is None:
        return
    for number in range(THOUGHTS):
        _append(connection, claimed[0], run_id, "agent_thinking", {"thought": f"Thought {number}", "progress": 0})
    with connection.transaction():
        event = _store(connection, claimed[0], run_id, TERMINAL, {"text": "Done."})
        connection.execute(_FINISH, [run_id])
    _publish(claimed[0], event)


def channel_of(thread: Any) -> str:
    """Where the hints of a thread are published."""
    return f"benchmark:{thread}"


def _append(connection: psycopg.Connection[Any], thread: Any, run_id: str, type_: str, data: dict[str, Any]) -> None:
    with connection.transaction():
        event = _store(connection, thread, run_id, type_, data)
    _publish(thread, event)


def _store(
    connection: psycopg.Connection[Any], thread: Any, run_id: str, type_: str, data: dict[str, Any]
) -> dict[str, Any]:
    """The thread's next number and the event under it; the caller commits."""
    (seq,) = connection.execute(_NUMBER, [thread]).fetchone() or (0,)
    (at,) = connection.execute(_INSERT, [thread, seq, run_id, type_, json.dumps(data)]).fetchone() or (None,)
    return {"type": type_, "thread": str(thread), "run": run_id, "seq": seq, "at": str(at), "data": data}


def _publish(thread: Any, event: dict[str, Any]) -> None:
    _hints().publish(channel_of(thread), json.dumps(event))


def _connection() -> psycopg.Connection[Any]:
    """This thread's connection."""
    if not hasattr(_own, "connection"):
        _own.connection = psycopg.connect("", autocommit=True)
    connection: psycopg.Connection[Any] = _own.connection
    return connection


@cache
def _hints() -> redis.Redis:
    return redis_at(app.conf.broker_url)


def redis_at(broker_url: str) -> redis.Redis:
    """A client for the Redis of a broker URL; kombu spells a socket in its own way."""
    return redis.Redis.from_url(broker_url.replace("redis+socket://", "unix://", 1))
