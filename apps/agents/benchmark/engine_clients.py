"""`python -m apps.agents.benchmark.engine_clients`: people who start runs without a web process, in a process of their own.

Reads `{"users", "runs"}` on standard input and prints `{"seconds", "first_event", "whole", "events"}` as `clients.py`
does. Each user starts a run of `NETRA_WORKFLOW` through the service that REST and sockets call, and waits for the hint
that it has ended. Threads are made before the clock starts.
"""

import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from uuid import UUID

import django
import redis
from django.conf import settings
from django.db import connection

from apps.agents.benchmark.clients import PATIENCE, TERMINAL, BrokenRun, Taken


def closed_loop(users: list[str], runs: int) -> Taken:
    """`runs` runs, shared out among all users at once.

    Raises:
        BrokenRun: one of them went wrong.
    """
    from apps.accounts.models import User
    from apps.accounts.tenancy import Principal, principal_for
    from apps.conversations.services import create_thread
    from apps.execution.services import start_run
    from apps.realtime.notifier import thread_channel

    taken, wrong = Taken(), []
    people = [principal_for(user=User.objects.get(pk=user)) for user in users]
    shares = [[create_thread(principal=person).pk for _ in range(runs // len(people))] for person in people]

    def go_on(person: Principal, threads: Sequence[UUID]) -> None:
        hints = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=PATIENCE).pubsub()
        try:
            for thread in threads:
                hints.subscribe(thread_channel(thread))
                hints.get_message(timeout=None)
                sent_at = time.monotonic()
                start_run(principal=person, thread_id=thread, text="Do nothing.")
                ended = _ended(hints)
                if ended != "agent_completed":
                    raise BrokenRun(f"A run ended with {ended}")
                taken.whole.append(time.monotonic() - sent_at)
                hints.unsubscribe(thread_channel(thread))
        except (BrokenRun, redis.RedisError) as error:
            wrong.append(error)
        finally:
            connection.close()
            hints.close()

    threads = [threading.Thread(target=go_on, args=share) for share in zip(people, shares, strict=True)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.seconds = time.monotonic() - began
    if wrong:
        raise BrokenRun(f"{len(wrong)} clients broke off; the first: {wrong[0]!r}")
    return taken


def _ended(hints: "redis.client.PubSub") -> str:
    """The type of the terminal event, once it is heard."""
    while True:
        message = hints.get_message(timeout=None)
        if message is not None and message["type"] == "message":
            types = {event["type"] for event in json.loads(message["data"])["events"]}
            if ended := types & TERMINAL:
                return str(ended.pop())


if __name__ == "__main__":
    django.setup()
    try:
        json.dump(asdict(closed_loop(**json.load(sys.stdin))), sys.stdout)
    except BrokenRun as broken:
        sys.exit(str(broken))
