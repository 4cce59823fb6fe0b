"""Circuit breakers that all processes share: what one has suffered, the others are spared.

A check reads memory only. One thread per process tells Redis every 200 ms how calls ended, and hears of a change at
once by pub/sub, or within a second because it asks. Without Redis a process goes on with what it knew last and with
its own calls; no call fails because Redis is away. Back again, Redis' circuit counts. One that Redis has lost (wiped,
restarted empty, a replica that was behind) is put back from the memory of the first process that asks for it.
"""

import os
import random
import threading
import time
import weakref
from collections.abc import Iterable

import redis
import structlog

from apps.errors import NetraError
from apps.resilience.breaker import CircuitBreaker, Status, status_of
from apps.resilience.circuit import BreakerMisconfigured, BreakerSettings, Circuit, Request, State, decide
from apps.resilience.store import Asked, Store

log = structlog.get_logger(__name__)

_chance = random.Random()  # noqa: S311  # of our own: the program's sequence stays as its seed says

FLUSH_EVERY = 0.2  # seconds
POLL_EVERY = 0.8  # seconds; it falls due between two flushes, so nobody's knowledge is older than a second


class BreakersAway(NetraError):
    """Redis does not answer, so an operator's word cannot reach all processes."""

    code = "breaker.store_away"
    status = 503
    retryable = True


class Breakers:
    """All breakers of a process, and the thread that keeps them in step with Redis.

    The thread starts with the first call that asks, and again in a forked child. A name stands for one dependency out
    of a limited number ("tool:shout", "model:openai:gpt-5"); every process that uses it knows it from then on.
    """

    def __init__(self, redis_url: str, settings: BreakerSettings | None = None) -> None:
        self._url = redis_url
        self._settings = settings or BreakerSettings()
        self._breakers: dict[str, CircuitBreaker] = {}
        self._ahead = time.time() - time.monotonic()  # seconds; until Redis tells its own time
        self._begin_life()
        _all.add(self)

    def _begin_life(self) -> None:
        """In this process: locks, threads and connections of the parent are of no use after a fork."""
        self.shared = True  # False while Redis is away
        self._store = Store(self._url)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        for breaker in self._breakers.values():  # what was collected so far is the parent's to tell
            breaker.calls_ended.clear()
            breaker.trials_ended.clear()

    def named(self, name: str, settings: BreakerSettings | None = None) -> CircuitBreaker:
        """The breaker of that name, made at first use with `settings` or else those of all.

        Its first use asks Redis for the state of the cluster.

        Raises:
            BreakerMisconfigured: it was named before with other settings.
        """
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._breakers.setdefault(name, CircuitBreaker(self, name, settings or self._settings))
        if settings is not None and settings != breaker.settings:
            raise BreakerMisconfigured(f"The breaker {name} has been named before with other settings.")
        return breaker

    def now(self) -> int:
        """The time in Redis, as far as this process can tell, in milliseconds."""
        return int((time.monotonic() + self._ahead) * 1000)

    # --- For operators -----------------------------------------------------------------------------------------------

    def statuses(self) -> list[Status]:
        """Every breaker that Redis knows, by name.

        Raises:
            BreakersAway: Redis does not answer.
        """
        try:
            now, circuits = self._store.read_all()
        except redis.RedisError as error:
            raise BreakersAway("The breakers cannot be read: Redis does not answer.") from error
        return [status_of(name, circuit, now) for name, circuit in circuits.items()]

    def force_open(self, name: str) -> None:
        """Refuse every call, in all processes, until `reset`.

        Raises:
            BreakersAway: Redis does not answer; nothing has changed.
        """
        self._move(name, State.FORCED_OPEN)

    def disable(self, name: str) -> None:
        """Let every call through uncounted, in all processes, until `reset`.

        Raises:
            BreakersAway: Redis does not answer; nothing has changed.
        """
        self._move(name, State.DISABLED)

    def reset(self, name: str) -> None:
        """Close it, with nothing counted, whatever its state is.

        Raises:
            BreakersAway: Redis does not answer; nothing has changed.
        """
        self._move(name, State.CLOSED)

    def forget(self, name: str) -> None:
        """Remove it from Redis; a process that still uses it puts it back.

        Raises:
            BreakersAway: Redis does not answer; nothing has changed.
        """
        try:
            self._store.remove(name)
        except redis.RedisError as error:
            raise BreakersAway(f"The breaker {name} cannot be removed: Redis does not answer.") from error

    def _move(self, name: str, state: State) -> None:
        breaker = self._breakers.get(name) or CircuitBreaker(self, name, self._settings)
        try:
            self._store.exchange([_asked(breaker, Request(move=state))])
        except redis.RedisError as error:
            raise BreakersAway(f"The breaker {name} cannot be changed: Redis does not answer.") from error

    # --- In step with Redis ------------------------------------------------------------------------------------------

    def ensure_running(self) -> None:
        """Start the thread, unless it runs in this process."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self._stopping = threading.Event()
                thread = threading.Thread(target=self._run, args=[self._stopping], name="breakers", daemon=True)
                thread.start()
                self._thread = thread

    def close(self) -> None:
        """Tell Redis the rest and end the thread; a later call would start it again."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stopping.set()
        if thread is not None:
            thread.join()
        self._store.close()

    def introduce(self, breaker: CircuitBreaker) -> None:
        """Have the breaker know what the cluster knows; while Redis is away, it goes by itself."""
        self.ensure_running()
        circuit, _ = self.ask(breaker, Request())
        with self._lock:
            # The thread may have been quicker, and know more by now.
            if not breaker.met:
                breaker.met = True
                self._replace(breaker, circuit)

    def ask(self, breaker: CircuitBreaker, request: Request) -> tuple[Circuit, bool]:
        """The circuit after `request`, and whether the trial call may begin: by Redis, or alone while it is away."""
        if self.shared:
            try:
                _, [answer] = self._store.exchange([_asked(breaker, request)])
            except redis.RedisError as error:
                self._lost(error)
            else:
                # Only the thread replaces what is known: answers to several threads may overtake each other.
                return answer
        return self._decide_alone(breaker, request)

    def _run(self, stopping: threading.Event) -> None:
        changed: set[str] = set()
        poll_at = 0.0
        while not stopping.is_set():
            due = time.monotonic() >= poll_at
            if due:
                poll_at = time.monotonic() + POLL_EVERY
            self._exchange(self._with_news(all_of_them=due, changed=changed), knock=due)
            changed = self._listen(stopping)
        self._exchange(self._with_news(all_of_them=False, changed=set()), knock=False)

    def _with_news(self, *, all_of_them: bool, changed: Iterable[str]) -> list[CircuitBreaker]:
        return [
            breaker
            for breaker in tuple(self._breakers.values())
            if all_of_them or breaker.calls_ended or breaker.trials_ended or breaker.name in changed
        ]

    def _exchange(self, breakers: list[CircuitBreaker], *, knock: bool) -> None:
        """Tell Redis what has ended, and hear what holds now; `knock` also when it was away."""
        requests = [(breaker, breaker.collected()) for breaker in breakers]
        if requests and (self.shared or knock):
            try:
                now, answers = self._store.exchange([_asked(breaker, request) for breaker, request in requests])
            except redis.RedisError as error:
                self._lost(error)
            else:
                self._adopt(now, breakers, [circuit for circuit, _ in answers])
                return
        for breaker, request in requests:
            self._decide_alone(breaker, request)

    def _adopt(self, now: int, breakers: list[CircuitBreaker], circuits: list[Circuit]) -> None:
        self._ahead = now / 1000 - time.monotonic()
        if not self.shared:
            log.info("Redis is back; breakers are shared again")
            self.shared = True
        with self._lock:
            for breaker, circuit in zip(breakers, circuits, strict=True):
                breaker.seen, breaker.met = circuit.version, True
                self._replace(breaker, circuit)

    def _decide_alone(self, breaker: CircuitBreaker, request: Request) -> tuple[Circuit, bool]:
        with self._lock:
            chance = _chance.random()
            circuit, granted = decide(breaker.circuit, request, breaker.settings, now=self.now(), chance=chance)
            self._replace(breaker, circuit)
        return circuit, granted

    def _replace(self, breaker: CircuitBreaker, circuit: Circuit) -> None:
        if circuit.state is not breaker.circuit.state:
            log.warning("Breaker changed", breaker=breaker.name, was=breaker.circuit.state, now=circuit.state)
        breaker.circuit = circuit

    def _listen(self, stopping: threading.Event) -> set[str]:
        """Names of breakers that others have changed, once there are any or FLUSH_EVERY is over."""
        if self.shared:
            try:
                return self._store.changes(within=FLUSH_EVERY)
            except redis.RedisError as error:
                self._lost(error)
        stopping.wait(FLUSH_EVERY)
        return set()

    def _lost(self, error: redis.RedisError) -> None:
        if self.shared:
            log.warning("Redis is away; each process goes on with its own breakers", reason=repr(error))
        self.shared = False


def _asked(breaker: CircuitBreaker, request: Request) -> Asked:
    return Asked(
        name=breaker.name, request=request, settings=breaker.settings, known=breaker.circuit, seen=breaker.seen
    )


_all: "weakref.WeakSet[Breakers]" = weakref.WeakSet()


def _begin_in_child() -> None:
    for breakers in _all:
        breakers._begin_life()


os.register_at_fork(after_in_child=_begin_in_child)
