"""A process that calls a sick dependency and is told line by line what to do.

`python -m tests.resilience.caller URL SETTINGS`; each line is a JSON list, a word and what it needs; each answer
is a line of JSON.
"""

import json
import os
import sys

import structlog

from apps.resilience.breaker import BreakerOpen
from apps.resilience.breakers import Breakers
from apps.resilience.circuit import BreakerSettings, State
from tests.houses import becomes

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
breakers = Breakers(sys.argv[1], BreakerSettings(**json.loads(sys.argv[2])))
permits = []


def take(name: str) -> bool:
    """Whether one more call may be made; its permit is kept."""
    try:
        permits.append(breakers.named(name).acquire())
    except BreakerOpen:
        return False
    return True


def end(outcome: str) -> int:
    """End all calls that are under way, and answer how many that were."""
    count = len(permits)
    while permits:
        permit = permits.pop()
        permit.released() if outcome == "released" else getattr(permit, outcome)(0.1)
    return count


def fail(name: str, times: int) -> int:
    """Make so many calls that fail, and answer how many were allowed."""
    allowed = sum(take(name) for _ in range(times))
    end("failed")
    return allowed


def state(name: str) -> str:
    return breakers.named(name).state


def shared() -> bool:
    return breakers.shared


def fork(name: str) -> int:
    """Let a forked child fail until the breaker opens; the answer is its exit code."""
    child = os.fork()
    if child == 0:
        fail(name, 5)
        becomes(lambda: breakers.named(name).state is State.OPEN)
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_with_news(name: str, times: int) -> int:
    """Fork while so many failures are still untold; both then tell what they have."""
    for _ in range(times):
        take(name)
    breakers.close()
    end("failed")
    child = os.fork()
    breakers.named(name).acquire().released()
    breakers.close()
    if child == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


words = {each.__name__: each for each in (take, end, fail, state, shared, fork, fork_with_news)}
for line in sys.stdin:
    word, *given = json.loads(line)
    print(json.dumps(words[word](*given)), flush=True)
breakers.close()
