"""Circuit breakers that all processes share: what one has suffered, the others are spared.

A check reads memory only. One thread per process tells Redis every 200 ms how calls ended, and hears of a change at
once by pub/sub, or within a second because it asks. Without Redis a process goes on with what it knew last and with
its own calls; no call fails because Redis is away. Back again, Redis' circuit counts; one that Redis has lost (wiped,
or restarted empty) is put back from the memory of the first process that asks.
"""

import asyncio
import math
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TypedDict
from uuid import uuid4

import redis
import structlog

from apps.errors import NetraError
from apps.resilience.circuit import (
    BreakerMisconfigured,
    BreakerSettings,
    Circuit,
    Counts,
    Ignored,
    Outcome,
    Request,
    State,
    decide,
    is_ignored,
)
from apps.resilience.store import Asked, Store

log = structlog.get_logger(__name__)

FLUSH_EVERY = 0.2  # seconds
POLL_EVERY = 0.8  # seconds; it falls due between two flushes, so nobody's knowledge is older than a second
RETRY_AFTER = 1.0  # seconds; what callers are told while others try the dependency out


class BreakerOpen(NetraError):
    """The call was not made: too many before it failed or were slow, or an operator forbade it.

    `retry_after` is None while an operator forbids it.
    """

    code = "breaker.open"
    status = 503
    retryable = True


class BreakersAway(NetraError):
    """Redis does not answer, so an operator's word cannot reach all processes."""

    code = "breaker.store_away"
    status = 503
    retryable = True


class Status(TypedDict):
    """A breaker at one moment; the counts are of its window."""

    name: str
    state: str
    version: int
    open_until: datetime | None
    calls: int
    failures: int
    slow: int
    failure_rate: float | None  # None without calls
    retry_after: float | None  # seconds, None where unknown


def _status(name: str, circuit: Circuit, now: int) -> Status:
    counts = circuit.totals(now)
    is_open = circuit.state is State.OPEN
    return Status(
        name=name,
        state=circuit.state.value,
        version=circuit.version,
        open_until=datetime.fromtimestamp(circuit.open_until / 1000, UTC) if is_open else None,
        calls=counts.calls,
        failures=counts.failures,
        slow=counts.slow,
        failure_rate=counts.failures / counts.calls if counts.calls else None,
        retry_after=max(0.0, (circuit.open_until - now) / 1000) if is_open else None,
    )


class Permit:
    """Leave to make one call; say once how it ended, whatever is said later is not heard.

    A permit that is never settled is lost: of a closed breaker without a trace, of a half-open one until it expires.
    """

    __slots__ = ("_breaker", "_settled", "_token", "_version")

    def __init__(self, breaker: "Breaker", version: int, token: str | None = None) -> None:
        self._breaker = breaker
        self._version = version
        self._token = token
        self._settled = False

    def succeeded(self, seconds: float) -> None:
        """The call ended well after `seconds`."""
        self._settle(failed=False, slow=self._breaker.settings.is_slow(seconds))

    def failed(self, seconds: float, error: BaseException | None = None) -> None:
        """The call failed after `seconds`; with an ignored error it is released."""
        if error is not None and is_ignored(error, self._breaker.settings.ignore):
            self.released()
        else:
            self._settle(failed=True, slow=self._breaker.settings.is_slow(seconds))

    def released(self) -> None:
        """The call says nothing about the dependency: it was cancelled, or never made, or the caller's own mistake."""
        if self._token and not self._settled:
            self._breaker.trials_ended.append((self._token, Outcome.RELEASED))
        self._settled = True

    def _settle(self, *, failed: bool, slow: bool) -> None:
        if self._settled:
            return
        self._settled = True
        if self._token:
            outcome = Outcome.FAILED if failed or slow else Outcome.SUCCEEDED
            self._breaker.trials_ended.append((self._token, outcome))
        else:
            self._breaker.calls_ended.append((self._version, failed, slow))


class Guard:
    """A permit for the length of a `with` or `async with` block: measures the time, and judges by what comes out."""

    def __init__(self, breaker: "Breaker", ignore: Ignored) -> None:
        self._breaker = breaker
        self._ignore = ignore

    def __enter__(self) -> Permit:
        self._permit = self._breaker.acquire()
        self._began_at = time.monotonic()
        return self._permit

    async def __aenter__(self) -> Permit:
        self._permit = await self._breaker.acquire_async()
        self._began_at = time.monotonic()
        return self._permit

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        seconds = time.monotonic() - self._began_at
        if error is None:
            self._permit.succeeded(seconds)
        elif not isinstance(error, Exception) or isinstance(error, BreakerOpen) or is_ignored(error, self._ignore):
            # Cancelled, the process is ending, or another breaker spared something further down.
            self._permit.released()
        else:
            self._permit.failed(seconds, error)

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.__exit__(kind, error, traceback)


class Breaker:
    """One breaker, as this process knows it; made by `Breakers.named`."""

    def __init__(self, breakers: "Breakers", name: str, settings: BreakerSettings) -> None:
        self.name = name
        self.settings = settings
        self.circuit = Circuit()  # replaced as a whole, never changed
        self.calls_ended: deque[tuple[int, bool, bool]] = deque()  # version, failed, slow
        self.trials_ended: deque[tuple[str, Outcome]] = deque()
        self._breakers = breakers
        self._no_trial_before = 0.0  # monotonic seconds

    @property
    def state(self) -> State:
        return self.circuit.state

    def status(self) -> Status:
        """What this process knows of the breaker."""
        return _status(self.name, self.circuit, self._breakers.now())

    def guard(self, *, ignore: Ignored = ()) -> Guard:
        """A context manager around one call: `with` from a thread, `async with` on an event loop.

        An error of `ignore`, or of the settings' own list, counts neither for nor against the dependency; nor does a
        cancellation. The block may settle the permit itself when a failure is no exception.

        Raises:
            BreakerOpen: on entering.
        """
        return Guard(self, ignore)

    def acquire(self) -> Permit:
        """A permit to make one call now. In half-open state it asks Redis, else it only looks into memory.

        Raises:
            BreakerOpen: the call must not be made.
        """
        return self._from_memory() or self._trial()

    async def acquire_async(self) -> Permit:
        """As `acquire`, without blocking the event loop; a cancelled caller takes no permit away.

        Raises:
            BreakerOpen: the call must not be made.
        """
        permit = self._from_memory()
        if permit is not None:
            return permit
        asked = asyncio.get_running_loop().run_in_executor(None, self._trial)
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(_give_back)
            raise

    def collected(self) -> Request:
        """What has ended since the last call of this, for the thread that tells Redis."""
        calls = failures = slow = 0
        version = self.circuit.version
        for _ in range(len(self.calls_ended)):
            counted_under, failed, was_slow = self.calls_ended.popleft()
            if counted_under == version:  # what began before a change of state says nothing about the time after it
                calls, failures, slow = calls + 1, failures + failed, slow + was_slow
        settled = dict(self.trials_ended.popleft() for _ in range(len(self.trials_ended)))
        return Request(version=version, counts=Counts(calls, failures, slow) if calls else None, settled=settled)

    def _from_memory(self) -> Permit | None:
        """A permit or a refusal without asking; None where only a trial call could be made."""
        self._breakers.ensure_running()
        circuit = self.circuit
        if circuit.passes:
            return Permit(self, circuit.version)
        self._refuse_if_open(circuit)
        return None

    def _trial(self) -> Permit:
        if time.monotonic() < self._no_trial_before:
            raise self._tried_out()
        token = uuid4().hex
        circuit, granted = self._breakers.ask(self, Request(take=token))
        if granted:
            return Permit(self, circuit.version, token)
        if circuit.passes:
            return Permit(self, circuit.version)
        self._no_trial_before = time.monotonic() + FLUSH_EVERY  # one question for all who come meanwhile
        self._refuse_if_open(circuit)
        raise self._tried_out()

    def _refuse_if_open(self, circuit: Circuit) -> None:
        if circuit.state is State.FORCED_OPEN:
            raise BreakerOpen(f"An operator has switched {self.name} off.")
        wait = (circuit.open_until - self._breakers.now()) / 1000
        if circuit.state is State.OPEN and wait > 0:
            raise BreakerOpen(f"{self.name} keeps failing; it is tried again in {math.ceil(wait)} s.", retry_after=wait)

    def _tried_out(self) -> BreakerOpen:
        return BreakerOpen(f"{self.name} was failing and is just being tried out.", retry_after=RETRY_AFTER)


def _give_back(asked: "asyncio.Future[Permit]") -> None:
    if asked.exception() is None:
        asked.result().released()


class Breakers:
    """All breakers of a process, and the thread that keeps them in step with Redis.

    The thread starts with the first call that asks, and again in a forked child. A name stands for one dependency out
    of a limited number ("tool:shout", "model:openai:gpt-5"); every process that uses it knows it from then on.
    """

    def __init__(self, redis_url: str, settings: BreakerSettings | None = None) -> None:
        self._url = redis_url
        self._settings = settings or BreakerSettings()
        self._breakers: dict[str, Breaker] = {}
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

    def named(self, name: str, settings: BreakerSettings | None = None) -> Breaker:
        """The breaker of that name, made at first use with `settings` or else those of all.

        It knows the state of the cluster a moment after its first use; until then it passes.

        Raises:
            BreakerMisconfigured: it was named before with other settings.
        """
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._breakers.setdefault(name, Breaker(self, name, settings or self._settings))
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
        return [_status(name, circuit, now) for name, circuit in circuits.items()]

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

    def _move(self, name: str, state: State) -> None:
        breaker = self._breakers.get(name) or Breaker(self, name, self._settings)
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

    def ask(self, breaker: Breaker, request: Request) -> tuple[Circuit, bool]:
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

    def _with_news(self, *, all_of_them: bool, changed: Iterable[str]) -> list[Breaker]:
        return [
            breaker
            for breaker in tuple(self._breakers.values())
            if all_of_them or breaker.calls_ended or breaker.trials_ended or breaker.name in changed
        ]

    def _exchange(self, breakers: list[Breaker], *, knock: bool) -> None:
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

    def _adopt(self, now: int, breakers: list[Breaker], circuits: list[Circuit]) -> None:
        self._ahead = now / 1000 - time.monotonic()
        if not self.shared:
            log.info("Redis is back; breakers are shared again")
            self.shared = True
        with self._lock:
            for breaker, circuit in zip(breakers, circuits, strict=True):
                self._replace(breaker, circuit)

    def _decide_alone(self, breaker: Breaker, request: Request) -> tuple[Circuit, bool]:
        with self._lock:
            chance = random.random()  # noqa: S311
            circuit, granted = decide(breaker.circuit, request, breaker.settings, now=self.now(), chance=chance)
            self._replace(breaker, circuit)
        return circuit, granted

    def _replace(self, breaker: Breaker, circuit: Circuit) -> None:
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


def _asked(breaker: Breaker, request: Request) -> Asked:
    return Asked(name=breaker.name, request=request, settings=breaker.settings, known=breaker.circuit)


_all: "weakref.WeakSet[Breakers]" = weakref.WeakSet()


def _begin_in_child() -> None:
    for breakers in _all:
        breakers._begin_life()


os.register_at_fork(after_in_child=_begin_in_child)
