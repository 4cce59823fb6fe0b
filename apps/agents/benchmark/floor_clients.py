"""`python -m apps.agents.benchmark.floor_clients`: the clients of the floors, in a process of their own.

Reads `{"task", "clients", "runs", "direct"}` on standard input and prints `{"seconds", "first_event", "whole",
"events"}` as `clients.py` does. Each client sends a task and waits for the last hint of its run; with `direct` it does
the work of the task itself, without Celery. Ids, and the rows that a task expects, are made before the clock starts.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import psycopg

from apps.agents.benchmark import floor
from apps.agents.benchmark.clients import Taken

Ids = tuple[str, str, str]


def closed_loop(task: str, clients: int, runs: int, direct: bool = False) -> Taken:
    """`runs` runs of the floor's `task` by `clients` clients at once."""
    with psycopg.connect("") as connection:
        ids = floor.prepare(connection, task, people=clients, runs=runs)
    # Each client is one person, as with Netra.
    shares = [iter(ids[number::clients]) for number in range(clients)]
    taken, go_on = Taken(), _do if direct else _send
    people = [threading.Thread(target=go_on, args=[floor.app.tasks[task], share, taken]) for share in shares]
    began = time.monotonic()
    for person in people:
        person.start()
    for person in people:
        person.join()
    taken.seconds = time.monotonic() - began
    return taken


def _do(task: Any, share: Iterator[Ids], taken: Taken) -> None:
    for ids in share:
        began = time.monotonic()
        task(*ids)
        taken.whole.append(time.monotonic() - began)


def _send(task: Any, share: Iterator[Ids], taken: Taken) -> None:
    with floor.redis_at(floor.app.conf.broker_url) as redis, redis.pubsub() as hints:
        messages = hints.listen()
        for run, thread, person in share:
            hints.subscribe(floor.channel_of(thread))
            next(messages)  # it is subscribed; nobody speaks on the channels of runs that have ended
            sent_at = time.monotonic()
            task.delay(run, thread, person)
            heard = 0
            for type_ in _types(messages):
                heard += 1
                if type_ == floor.STARTED:
                    taken.first_event.append(time.monotonic() - sent_at)
                if type_ == floor.TERMINAL:
                    break
            taken.whole.append(time.monotonic() - sent_at)
            taken.events.append(heard)


def _types(messages: Iterator[dict[str, Any]]) -> Iterator[str]:
    """The types of the events of a subscription, as they are heard."""
    hints = (json.loads(message["data"]) for message in messages if message["type"] == "message")
    return (event["type"] for hint in hints for event in hint["events"])


if __name__ == "__main__":
    json.dump(asdict(closed_loop(**json.load(sys.stdin))), sys.stdout)
