"""One breaker as a process sees it: permits to call, refusals, and what ended, collected in memory."""

import asyncio
import math
import time
from collections import deque
from datetime import UTC, datetime
from typing import Protocol, TypedDict
from uuid import uuid4

from apps.errors import NetraError
from apps.resilience.circuit import BreakerSettings, Circuit, Counts, Ignored, Outcome, Request, State, is_ignored

NOT_AGAIN_FOR = 0.2  # seconds after a refused question for a trial in which nobody of this process asks again
RETRY_AFTER = 1.0  # seconds; what callers are told while others try the dependency out


class BreakerOpen(NetraError):
    """The call was not made: too many before it failed or were slow, or an operator forbade it.

    `retry_after` is None while an operator forbids it.
    """

    code = "breaker.open"
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


def status_of(name: str, circuit: Circuit, now: int) -> Status:
    """What `circuit` says at `now`, in milliseconds."""
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


class Cluster(Protocol):
    """What a breaker needs to know of all the others."""

    def ensure_running(self) -> None:
        """Be in step with the cluster from now on."""

    def now(self) -> int:
        """The time in Redis, as far as this process can tell, in milliseconds."""

    def introduce(self, breaker: "CircuitBreaker") -> None:
        """Have the breaker know what the cluster knows, if that can be asked."""

    def ask(self, breaker: "CircuitBreaker", request: Request) -> tuple[Circuit, bool]:
        """The circuit after `request`, and whether the trial call may begin. May take a round trip."""


class Permit:
    """Leave to make one call; say once how it ended, whatever is said later is not heard.

    A permit that is never settled is lost: of a closed breaker without a trace, of a half-open one until it expires.
    """

    __slots__ = ("_breaker", "_settled", "_token", "_version")

    def __init__(self, breaker: "CircuitBreaker", version: int, token: str | None = None) -> None:
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

    def __init__(self, breaker: "CircuitBreaker", ignore: Ignored) -> None:
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


class CircuitBreaker:
    """One breaker, as this process knows it; made by `Breakers.named`."""

    def __init__(self, cluster: Cluster, name: str, settings: BreakerSettings) -> None:
        self.name = name
        self.settings = settings
        self.circuit = Circuit()  # replaced as a whole, never changed
        self.seen = 0  # version that Redis had last
        self.met = False  # whether the cluster has been asked, or could not be
        self.calls_ended: deque[tuple[int, bool, bool]] = deque()  # version, failed, slow
        self.trials_ended: deque[tuple[str, Outcome]] = deque()
        self._cluster = cluster
        self._no_trial_before = 0.0  # monotonic seconds

    @property
    def state(self) -> State:
        """What this process knows of it."""
        self._cluster.ensure_running()
        return self.circuit.state

    def status(self) -> Status:
        """All that this process knows of it."""
        self._cluster.ensure_running()
        return status_of(self.name, self.circuit, self._cluster.now())

    def guard(self, *, ignore: Ignored = ()) -> Guard:
        """A context manager around one call: `with` from a thread, `async with` on an event loop.

        An error of `ignore`, or of the settings' own list, counts neither for nor against the dependency; nor does a
        cancellation. The block may settle the permit itself when a failure is no exception.

        Raises:
            BreakerOpen: on entering.
        """
        return Guard(self, ignore)

    def check(self) -> None:
        """Refuse what memory alone would refuse, and take no permit: for a caller whose call another process makes.

        Raises:
            BreakerOpen: the call need not be handed on.
        """
        self._meet()
        self._from_memory()

    def acquire(self) -> Permit:
        """A permit to make one call now. At first use and in half-open state it asks Redis, else it only looks into
        memory.

        Raises:
            BreakerOpen: the call must not be made.
        """
        self._meet()
        return self._from_memory() or self._trial()

    async def acquire_async(self) -> Permit:
        """As `acquire`, without blocking the event loop; a cancelled caller takes no permit away.

        Raises:
            BreakerOpen: the call must not be made.
        """
        if not self.met:
            await asyncio.get_running_loop().run_in_executor(None, self._meet)
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

    def _meet(self) -> None:
        """Learn what the others know already: one that has just begun must let through nothing that is switched off."""
        if not self.met:
            self._cluster.introduce(self)

    def _from_memory(self) -> Permit | None:
        """A permit or a refusal without asking; None where only a trial call could be made."""
        self._cluster.ensure_running()
        circuit = self.circuit
        if circuit.passes:
            return Permit(self, circuit.version)
        self._refuse_if_open(circuit)
        return None

    def _trial(self) -> Permit:
        if time.monotonic() < self._no_trial_before:
            raise self._tried_out()
        token = uuid4().hex
        circuit, granted = self._cluster.ask(self, Request(take=token))
        if granted:
            return Permit(self, circuit.version, token)
        if circuit.passes:
            return Permit(self, circuit.version)
        self._no_trial_before = time.monotonic() + NOT_AGAIN_FOR
        self._refuse_if_open(circuit)
        raise self._tried_out()

    def _refuse_if_open(self, circuit: Circuit) -> None:
        if circuit.state is State.FORCED_OPEN:
            raise BreakerOpen(f"An operator has switched {self.name} off.")
        wait = (circuit.open_until - self._cluster.now()) / 1000
        if circuit.state is State.OPEN and wait > 0:
            raise BreakerOpen(f"{self.name} keeps failing; it is tried again in {math.ceil(wait)} s.", retry_after=wait)

    def _tried_out(self) -> BreakerOpen:
        return BreakerOpen(f"{self.name} was failing and is just being tried out.", retry_after=RETRY_AFTER)


def _give_back(asked: "asyncio.Future[Permit]") -> None:
    if asked.exception() is None:
        asked.result().released()
