"""`python -m apps.agents.benchmark.engine_clients`: people who need no web process, in a process of their own.

Reads `{"users", "runs"}` on standard input and prints `{"seconds", "first_event", "whole", "events"}` as `clients.py`
does. Each user starts a run of `NETRA_WORKFLOW` through the service that REST and sockets call, and waits for the hint
that it has ended. Threads are made before the clock starts.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, cast
from uuid import UUID

import django
import redis
from django.conf import settings
from django.db import connection, transaction

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
    with transaction.atomic():
        shares = [[create_thread(principal=person).pk for _ in range(runs // len(people))] for person in people]

    def go_on(person: Principal, threads: Sequence[UUID]) -> None:
        hints = cast(Any, redis.Redis.from_url(settings.REDIS_URL, socket_timeout=PATIENCE)).pubsub()
        heard = hints.listen()
        try:
            for thread in threads:
                hints.subscribe(thread_channel(thread))
                next(heard)  # it is subscribed; nobody speaks on the channels of runs that have ended
                sent_at = time.monotonic()
                start_run(principal=person, thread_id=thread, text="Do nothing.")
                ended = _ended(heard)
                if ended != "agent_completed":
                    raise BrokenRun(f"A run ended with {ended}")
                taken.whole.append(time.monotonic() - sent_at)
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


def _ended(heard: Iterator[dict[str, Any]]) -> str:
    """The type of the terminal event, once it is heard."""
    messages = (json.loads(message["data"]) for message in heard if message["type"] == "message")
    types = (event["type"] for hint in messages for event in hint["events"])
    return next(str(type_) for type_ in types if type_ in TERMINAL)


if __name__ == "__main__":
    django.setup()
    try:
        json.dump(asdict(closed_loop(**json.load(sys.stdin))), sys.stdout)
    except BrokenRun as broken:
        sys.exit(str(broken))
