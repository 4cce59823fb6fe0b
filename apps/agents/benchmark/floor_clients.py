"""`python -m apps.agents.benchmark.floor_clients`: the clients of the floors, in a process of their own.

Reads `{"task", "clients", "runs"}` on standard input and prints `{"seconds", "first_event", "whole", "events"}` as
`clients.py` does. Each client sends a task and waits for the last hint of its run. Threads and runs are made before
the clock starts.
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


def closed_loop(task: str, clients: int, runs: int) -> Taken:
    """`runs` runs of the floor's `task` by `clients` clients at once."""
    with psycopg.connect("") as connection:
        prepared = iter(connection.execute(floor.PREPARE, [runs]).fetchall())
    taken = Taken()
    people = [threading.Thread(target=_go_on, args=[floor.app.tasks[task], prepared, taken]) for _ in range(clients)]
    began = time.monotonic()
    for person in people:
        person.start()
    for person in people:
        person.join()
    taken.seconds = time.monotonic() - began
    return taken


def _go_on(task: Any, prepared: Iterator[tuple[object, object]], taken: Taken) -> None:
    with floor.redis_at(floor.app.conf.broker_url) as redis, redis.pubsub() as hints:
        for run, thread in prepared:
            channel = floor.channel_of(thread)
            hints.subscribe(channel)
            hints.get_message(timeout=None)
            sent_at = time.monotonic()
            task.delay(channel if task.name == floor.nothing.name else str(run))
            heard: list[str] = []
            while not heard or heard[-1] != floor.TERMINAL:
                message = hints.get_message(timeout=None)
                if message is None or message["type"] != "message":
                    continue
                if not heard:
                    taken.first_event.append(time.monotonic() - sent_at)
                heard.append(json.loads(message["data"])["type"])
            taken.whole.append(time.monotonic() - sent_at)
            taken.events.append(len(heard))
            hints.unsubscribe(channel)


if __name__ == "__main__":
    json.dump(asdict(closed_loop(**json.load(sys.stdin))), sys.stdout)
