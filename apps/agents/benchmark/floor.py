"""What the same machine gives without Netra: Celery tasks that do nothing, or write by hand what Netra writes.

Run by `celery -A apps.agents.benchmark.floor worker` on the house's PostgreSQL and Redis, with its own queue, and with
tables of its own that have the columns and indexes of the house's. Both stores come from the variables that Celery and
libpq read themselves (`CELERY_BROKER_URL`, `PG*`). A floor has no web server, no authentication, no fence, no
checks and no model: it is a limit, not a competitor.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from uuid import UUID

import psycopg
import redis
from celery import Celery
from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb
from uuid6 import uuid7

QUEUE = "benchmark"
STARTED, TERMINAL = "agent_started", "agent_completed"
THOUGHT = "The question names a key, and the tool looks up values by key. Nothing else in the request bears on it."
ORGANIZATION = UUID(int=1)

SCHEMA = """
create schema if not exists benchmark;
create table if not exists benchmark.thread (like conversations_thread including all);
create table if not exists benchmark.message (like conversations_message including all);
create table if not exists benchmark.run (like conversations_run including all);
create table if not exists benchmark.step (like conversations_step including all);
create table if not exists benchmark.event (like conversations_event including all);
create table if not exists benchmark.tool_call (like conversations_toolcall including all);
create table if not exists benchmark.model_call (like llm_modelcall including all);
create table if not exists benchmark.person (id uuid primary key, runnable boolean not null default false,
    served_at timestamptz not null default now());
create index if not exists person_runnable on benchmark.person (served_at) where runnable;
"""
_THREAD = """
insert into benchmark.thread (id, title, created_at, updated_at, organization_id, user_id)
values (%s, '', clock_timestamp(), clock_timestamp(), %s, %s)
"""
_RUN = """
insert into benchmark.run (id, state, workflow, goal, key, request_digest, queued_seq, created_at, usage, error_code,
    error_detail, support_id, organization_id, user_id, thread_id)
values (%s, 'queued', 'benchmark', %s, %s, %s, 2, clock_timestamp(), '{}', '', '', '', %s, %s, %s)
"""
_MESSAGE = """
insert into benchmark.message (id, role, text, attempt, created_at, run_id, thread_id)
values (%s, %s, %s, 1, clock_timestamp(), %s, %s)
"""
_STEP = """
insert into benchmark.step (name, agent, position, depends_on, state, attempt, summary, started_at, run_id,
    barren_losses, journaled, losses, patience, reason)
values ('read', 'benchmark', 0, '{}', 'running', 1, '', clock_timestamp(), %s, 0, 0, 0, 120, '')
"""
_CLAIM = """
update benchmark.run set state = 'running', started_at = clock_timestamp() where id = %s and state = 'queued'
returning id
"""
_APPEND = """
with numbered as (
    update benchmark.thread set last_seq = last_seq + 1, updated_at = clock_timestamp() where id = %s returning last_seq
)
insert into benchmark.event (thread_id, seq, run_id, step, attempt, type, data, at)
select %s, last_seq, %s, 'read', 1, %s, %s, clock_timestamp() from numbered returning seq, at
"""
_ASK = """
insert into benchmark.model_call (id, user_id, run, step, attempt, provider, model, started_at, organization_id, key,
    state)
values (%s, %s, %s, 'read', 1, '127.0.0.1', 'benchmark', clock_timestamp(), %s, %s, 'asked')
"""
_ANSWERED = """
update benchmark.model_call set state = 'answered', answer = %s, finished_at = clock_timestamp(), seconds = 0.01,
    input_tokens = 120, output_tokens = 60 where id = %s
"""
_OPEN_CALL = """
insert into benchmark.tool_call (step, call, tool, effect, arguments, idempotency_key, state, attempt, error_code,
    summary, created_at, started_at, run_id, losses, place, user_id)
values ('read', %s, 'look_up', 'pure', %s, %s, 'started', 1, '', '', clock_timestamp(), clock_timestamp(), %s, 0,
    'inline', %s)
"""
_CLOSE_CALL = """
update benchmark.tool_call set state = 'succeeded', result = %s, summary = '6', finished_at = clock_timestamp()
where run_id = %s and step = 'read' and call = %s
"""
_CLOSE_STEP = """
update benchmark.step set state = 'completed', artifact = %s, summary = 'Done.', finished_at = clock_timestamp()
where run_id = %s and name = 'read'
"""
_FINISH = """
update benchmark.run set state = 'completed', finished_at = clock_timestamp(), usage = %s where id = %s
"""
_SERVE = "update benchmark.person set served_at = clock_timestamp(), runnable = %s where id = %s"
_RUNNABLE = "update benchmark.person set runnable = true where id = %s"

# No fixups: Django's would close connections around each task, which nobody writing this by hand would want.
app = Celery("floor", fixups=[], set_as_current=False)
app.conf.update(task_ignore_result=True, task_default_queue=QUEUE, worker_hijack_root_logger=False)
_own = threading.local()


# --- The tasks: each gets the ids of a run, its thread and its person ------------------------------------------------


@app.task(name="benchmark.nothing")
def nothing(run: str, thread: str, person: str) -> None:
    """Tell whoever waits that the task has run."""
    _hints().publish(channel_of(thread), json.dumps({"events": [{"type": TERMINAL}]}))


@app.task(name="benchmark.recipe")
def recipe(run: str, thread: str, person: str) -> None:
    """The least that keeps a run's record: claim, three appends, the end; five commits, four hints."""
    work = Work(run, thread, person)
    with work.commit() as connection:
        connection.execute(_CLAIM, [run])
    for _ in range(3):
        work.think()
    with work.commit() as connection:
        work.append(TERMINAL, {"text": "Done."})
        connection.execute(_FINISH, [Jsonb({}), run])


@app.task(name="benchmark.bare")
def bare(run: str, thread: str, person: str) -> None:
    """The writes of a run of one step that does nothing: three commits. The thread is there."""
    work = Work(run, thread, person)
    work.file()
    work.admit()
    work.settle()


@app.task(name="benchmark.whole")
def whole(run: str, thread: str, person: str) -> None:
    """The writes of a run with a thread of its own, two answers of a model and a tool call: ten commits."""
    work = Work(run, thread, person)
    with work.commit() as connection:
        connection.execute(_THREAD, [thread, ORGANIZATION, person])
    work.file()
    work.admit()
    work.ask("first", thoughts=2)
    work.call_tool("call")
    work.ask("second", thoughts=1)
    work.settle()


@app.task(name="benchmark.tool")
def tool(run: str, thread: str, person: str) -> None:
    """The writes of one tool call: two commits. The thread is there."""
    Work(run, thread, person).call_tool("call")


@app.task(name="benchmark.workflow")
def workflow(run: str, thread: str, person: str) -> None:
    """The writes of a run of one step, filed and admitted in one commit, settled in another. The thread is there."""
    work = Work(run, thread, person)
    with work.commit():
        work.file()
        work.admit()
    work.settle()


PREPARED = {nothing.name: (), recipe.name: (_THREAD, _RUN), bare.name: (_THREAD,), whole.name: ()} | {
    tool.name: (_THREAD,),
    workflow.name: (_THREAD,),
}


def prepare(connection: "psycopg.Connection[Any]", task: str, *, people: int, runs: int) -> list[tuple[str, str, str]]:
    """Ids for `runs` runs of `task`, with the rows that it expects: per run its id, its thread and its person."""
    persons = [str(uuid7()) for _ in range(people)]
    prepared = [(str(uuid7()), str(uuid7()), persons[number % people]) for number in range(runs)]
    with connection.cursor() as cursor:
        cursor.execute(SCHEMA)
        cursor.executemany("insert into benchmark.person (id) values (%s)", [[person] for person in persons])
        if _THREAD in PREPARED[task]:
            cursor.executemany(_THREAD, [[thread, ORGANIZATION, person] for _, thread, person in prepared])
        if _RUN in PREPARED[task]:
            cursor.executemany(_RUN, [_run(*ids) for ids in prepared])
    connection.commit()
    return prepared


# --- What a run writes -----------------------------------------------------------------------------------------------


class Work:
    """One run's writes, on this thread's connection."""

    def __init__(self, run: str, thread: str, person: str) -> None:
        self._run, self._thread, self._person = run, thread, person
        self._connection = _connection()
        self._told: list[dict[str, Any]] = []

    @contextmanager
    def commit(self) -> "Iterator[psycopg.Connection[Any]]":
        """One transaction, and then a hint with its events; within another one, a part of it."""
        if self._connection.info.transaction_status != TransactionStatus.IDLE:
            yield self._connection
            return
        with self._connection.transaction():
            yield self._connection
        if self._told:
            _hints().publish(channel_of(self._thread), json.dumps({"events": self._told}))
            self._told = []

    def append(self, type_: str, data: dict[str, Any]) -> None:
        """The thread's next number and the event under it."""
        row = [self._thread, self._thread, self._run, type_, Jsonb(data)]
        seq, at = self._connection.execute(_APPEND, row).fetchone() or (0, None)
        named = {"type": type_, "thread": self._thread, "run": self._run, "step": "read", "attempt": 1}
        self._told.append(named | {"seq": seq, "at": str(at), "data": data})

    def file(self) -> None:
        text = "What is the margin?"
        with self.commit() as connection:
            connection.execute(_RUN, _run(self._run, self._thread, self._person))
            connection.execute(_MESSAGE, [uuid7(), "user", text, self._run, self._thread])
            connection.execute(_RUNNABLE, [self._person])
            self.append("message_created", {"message": self._run, "role": "user", "text": text})
            self.append("run_queued", {"position": 1})

    def admit(self) -> None:
        with self.commit() as connection:
            connection.execute(_CLAIM, [self._run])
            connection.execute(_SERVE, [False, self._person])
            connection.execute(_STEP, [self._run])
            self.append(STARTED, {"agent": "benchmark", "workflow": "benchmark", "goal": "What is the margin?"})
            self.append("step_started", {"agent": "benchmark"})

    def ask(self, key: str, *, thoughts: int) -> None:
        """Book a question, and keep its answer with the thoughts in it."""
        call = uuid7()
        with self.commit() as connection:
            connection.execute(_ASK, [call, self._person, self._run, ORGANIZATION, key])
        with self.commit() as connection:
            connection.execute(_ANSWERED, [json.dumps({"parts": [{"content": THOUGHT * 4}], "usage": {}}), call])
            for _ in range(thoughts):
                self.think()

    def think(self) -> None:
        with self.commit():
            self.append("agent_thinking", {"thought": THOUGHT, "progress": 0})

    def call_tool(self, call: str) -> None:
        asked = {"key": "margin"}
        with self.commit() as connection:
            self.append("tool_executing", {"call": call, "tool": "look_up", "arguments": asked})
            connection.execute(_OPEN_CALL, [call, Jsonb(asked), self._run, self._run, self._person])
        with self.commit() as connection:
            self.append("tool_completed", {"call": call, "tool": "look_up", "status": "succeeded", "summary": "6"})
            connection.execute(_CLOSE_CALL, [Jsonb({"value": 6}), self._run, call])

    def settle(self) -> None:
        usage = {"model_calls": 2, "input_tokens": 240, "output_tokens": 120}
        with self.commit() as connection:
            connection.execute(_CLOSE_STEP, [Jsonb({"value": 6, "reason": "looked up"}), self._run])
            connection.execute(_MESSAGE, [uuid7(), "assistant", "The value is 6.", self._run, self._thread])
            connection.execute(_FINISH, [Jsonb(usage), self._run])
            self.append("step_completed", {"agent": "benchmark", "status": "completed", "summary": "Done."})
            self.append(TERMINAL, {"text": "The value is 6.", "usage": usage})


def channel_of(thread: str) -> str:
    """Where the hints of a thread are published."""
    return f"benchmark:{thread}"


def _run(run: str, thread: str, person: str) -> list[Any]:
    return [run, "What is the margin?", run, run, ORGANIZATION, person, thread]


def _connection() -> "psycopg.Connection[Any]":
    """This thread's connection; its statements are prepared once they have come a few times."""
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
