"""How long a run stands still when its worker is killed, as a client sees it."""

import os
import random
import signal
import time
from contextlib import ExitStack
from typing import Any

import psycopg

from apps.agents.benchmark.clients import Client
from apps.agents.benchmark.processes import UP_WITHIN, BrokenRound, second_worker
from apps.operations import benchmarks
from apps.operations.processes import becomes_true

TEXT = "[wait 30000 ms] What is the margin?"
# Older than the house's supervisor remembers deaths: each kill is the first one for it.
_LIVING = """
select count(*) from execution_workerprocess where kind = 'agents'
    and beat_at > clock_timestamp() - interval '2 seconds' and started_at < clock_timestamp() - interval '6 seconds'
"""
_HOLDER = """
select process.pid from conversations_step step join execution_workerprocess process on process.id = step.worker
where step.run_id = %s and step.state = 'running'
"""


def kill_again_and_again(key: str, *, times: int, spare: bool) -> list[float]:
    """Per kill the seconds from it to the first event of the next attempt; with `spare`, another worker is alive."""
    client = Client(benchmarks.house()["url"].rstrip("/"), key)
    with psycopg.connect(benchmarks.house()["database_url"], autocommit=True) as database:
        return [_kill(client, database, spare=spare) for _ in range(times)]


def _kill(client: Client, database: "psycopg.Connection[Any]", *, spare: bool) -> float:
    with ExitStack() as stack:
        if spare:
            stack.enter_context(second_worker())
        _wait_for_workers(database, 2 if spare else 1)
        thread = client.post("/api/threads/", {})["id"]
        run = client.post(f"/api/threads/{thread}/messages/", {"text": TEXT})["run"]
        events = client.events(thread)
        _read_until(events, "step_started")
        time.sleep(random.random())  # noqa: S311  # a kill may come at any moment of the beat
        [pid] = database.execute(_HOLDER, [run]).fetchone() or [0]
        if not pid:
            raise BrokenRound(f"Nobody holds run {run}.")
        os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        recovering = _read_until(events, "run_recovering")
        seconds = time.monotonic() - killed_at
        if recovering["attempt"] != 2:
            raise BrokenRound(f"After the kill came {recovering}")
        client.post(f"/api/runs/{run}/cancel/", {})
        return seconds


def _wait_for_workers(database: "psycopg.Connection[Any]", number: int) -> None:
    def are_there() -> bool:
        return (database.execute(_LIVING).fetchone() or (0,))[0] == number

    if not becomes_true(are_there, within=UP_WITHIN):
        raise BrokenRound(f"There should be {number} agent workers.")


def _read_until(events: Any, type_: str) -> dict[str, Any]:
    for event in events:
        if event["type"] == type_:
            return dict(event)
    raise BrokenRound(f"The stream ended before {type_}.")
