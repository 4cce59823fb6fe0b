"""What a circuit breaker decides. Clock, chance and Redis stay outside, so that every rule can be tried by itself.

The circuit that counts lives in Redis, where `store.py` decides in Lua exactly as `decide` does here; a property test
holds the two together. Each process keeps a copy, and goes on with `decide` alone while Redis is away.

Times and durations are whole milliseconds of the Redis clock, unless their name says seconds.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple, Self

from apps.errors import NetraError

BUCKETS = 12  # of a window; the oldest leaves as a whole, so a window covers between 11/12 and all of its length

Ignored = tuple[type[BaseException], ...] | Callable[[BaseException], bool]


class BreakerMisconfigured(NetraError):
    """Settings that no breaker can work with."""

    code = "breaker.misconfigured"


class State(StrEnum):
    """What a breaker does with a call."""

    CLOSED = "closed"  # lets it through and counts it
    OPEN = "open"  # refuses it until a time
    HALF_OPEN = "half_open"  # lets a few through, cluster-wide, to see whether it can close
    FORCED_OPEN = "forced_open"  # refuses it: an operator said so
    DISABLED = "disabled"  # lets it through uncounted: an operator said so


class Outcome(StrEnum):
    """What became of a trial call."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RELEASED = "released"  # says nothing about the dependency: cancelled, or the caller's own mistake


class Counts(NamedTuple):
    """Calls that ended; a call may be both a failure and slow."""

    calls: int = 0
    failures: int = 0
    slow: int = 0


@dataclass(frozen=True, kw_only=True)
class BreakerSettings:
    """When a breaker opens, for how long, and what closes it.

    It opens when the window holds `minimum_calls`, and either `minimum_failures` that are at least `failure_rate` of
    the calls, or slow calls that are at least `slow_rate` of them. With the defaults that means five failures making
    up half of the calls, or nothing but slow calls. What is slow by nature, the answer of a model for example, needs
    a larger `slow_seconds`, or None: no call is slow.

    A trial call that is slow counts as failed, or a breaker that slowness opened would close on the first slow answer.

    Raises:
        BreakerMisconfigured: a count below 1, a duration that is not positive, a rate outside (0, 1].
    """

    window_seconds: float = 60.0
    minimum_calls: int = 5
    minimum_failures: int = 5
    failure_rate: float = 0.5
    slow_seconds: float | None = 5.0
    slow_rate: float = 1.0
    open_seconds: float = 60.0  # the first time; see `open_milliseconds` for the next
    longest_open_seconds: float = 600.0
    trial_calls: int = 2  # successes that close it, and how many trial calls may be under way in the whole cluster
    trial_seconds: float = 90.0  # after which a trial call counts as lost; longer than any call may take
    half_open_seconds: float = 180.0  # from the first trial call to a decision, else it opens again
    ignore: Ignored = ()  # errors that count as neither: of these types, or for which the predicate holds

    def __post_init__(self) -> None:
        for name in ("minimum_calls", "minimum_failures", "trial_calls"):
            self._demand(name, getattr(self, name) >= 1, "at least 1")
        for name in ("failure_rate", "slow_rate"):
            self._demand(name, 0 < getattr(self, name) <= 1, "above 0 and at most 1")
        for name in (each.name for each in fields(self) if each.name.endswith("_seconds")):
            value = getattr(self, name)
            self._demand(name, value is None or 0.001 <= value < 1e9, "between 0.001 and 1e9 seconds")
        self._demand("longest_open_seconds", self.longest_open_seconds >= self.open_seconds, "at least open_seconds")

    def _demand(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise BreakerMisconfigured(f"{name} of a breaker must be {wanted}; it is {getattr(self, name)!r}.")

    def is_slow(self, seconds: float) -> bool:
        return self.slow_seconds is not None and seconds >= self.slow_seconds


def is_ignored(error: BaseException, ignored: Ignored) -> bool:
    return isinstance(error, ignored) if isinstance(ignored, tuple) else ignored(error)


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def open_milliseconds(openings: int, settings: BreakerSettings, *, chance: float) -> int:
    """How long the n-th opening in a row lasts; `chance` is drawn from [0, 1).

    Exponential with equal jitter: between half and all of `open * 2 ** (n - 1)`, never below the first nor above the
    longest. (Exponential Backoff and Jitter, AWS Architecture Blog, 2015.)
    """
    first, longest = milliseconds(settings.open_seconds), milliseconds(settings.longest_open_seconds)
    full = min(longest, first * 2 ** min(openings - 1, 30))
    return int(max(first, full / 2 + chance * (full / 2)))


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """The whole state of one breaker, as Redis stores it. `version` grows with each change of state."""

    state: State = State.CLOSED
    version: int = 0
    openings: int = 0  # in a row, without a close between them
    open_until: int = 0
    successes: int = 0  # of trial calls
    trials: Mapping[str, int] = field(default_factory=dict)  # token of a trial call under way -> when it is lost
    tried_at: int = 0  # when the first trial call began; 0: there was none
    window: int = 60_000
    buckets: Mapping[int, Counts] = field(default_factory=dict)  # number since the epoch -> what ended in it

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what Redis stores. A field of another release is passed over.

        Raises:
            ValueError, TypeError, KeyError: it makes no sense.
        """
        stored: dict[str, Any] = json.loads(text)
        values = {each.name: stored[each.name] for each in fields(cls)}
        values["state"] = State(values["state"])
        values["buckets"] = {int(number): Counts(*counts) for number, counts in values["buckets"].items()}
        return cls(**values)

    @property
    def passes(self) -> bool:
        """Whether calls go through without being asked about."""
        return self.state in (State.CLOSED, State.DISABLED)

    def bucket(self, now: int) -> int:
        return now * BUCKETS // self.window

    def totals(self, now: int) -> Counts:
        """What ended within the window."""
        return Counts(*(sum(column) for column in zip(*self._live_buckets(now).values(), strict=True)))

    def counted(self, counts: Counts, now: int) -> Self:
        """With `counts` in the current bucket, and without the buckets that have left the window."""
        current = self.bucket(now)
        buckets = self._live_buckets(now)
        old = buckets.get(current, Counts())
        buckets[current] = Counts(*(sum(pair) for pair in zip(old, counts, strict=True)))
        return replace(self, buckets=buckets)

    def moved(self, state: State, *, openings: int, open_until: int = 0) -> Self:
        """In another state with nobody trying; an open one keeps showing what opened it, any other counts afresh."""
        return type(self)(
            state=state,
            version=self.version + 1,
            openings=openings,
            open_until=open_until,
            window=self.window,
            buckets=self.buckets if state is State.OPEN else {},
        )

    def _live_buckets(self, now: int) -> dict[int, Counts]:
        current = self.bucket(now)
        return {number: counts for number, counts in self.buckets.items() if current - BUCKETS < number <= current}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a process has to tell a circuit, or wants of it; an empty one only lets time act."""

    version: int = 0  # of the circuit under which `counts` were collected
    counts: Counts | None = None
    settled: Mapping[str, Outcome] = field(default_factory=dict)  # token -> what became of the trial call
    take: str | None = None  # token for a trial call
    move: State | None = None  # by an operator


def decide(
    circuit: Circuit, request: Request, settings: BreakerSettings, *, now: int, chance: float
) -> tuple[Circuit, bool]:
    """The circuit after `request`, and whether the trial call that it asks for may begin."""
    circuit = _after_time(circuit, settings, now=now, chance=chance)
    if request.counts and circuit.state is State.CLOSED and circuit.version == request.version:
        circuit = circuit.counted(request.counts, now)
        if _is_sick(circuit.totals(now), settings):
            circuit = _opened(circuit, settings, openings=1, now=now, chance=chance)
    for token, outcome in request.settled.items():
        circuit = _settled(circuit, token, outcome, settings, now=now, chance=chance)
    granted = request.take is not None and _has_place(circuit, settings)
    if granted:
        trials = {**circuit.trials, str(request.take): now + milliseconds(settings.trial_seconds)}
        circuit = replace(circuit, trials=trials, tried_at=circuit.tried_at or now)
    if request.move is not None:
        circuit = circuit.moved(request.move, openings=0)
    return circuit, granted


def _after_time(circuit: Circuit, settings: BreakerSettings, *, now: int, chance: float) -> Circuit:
    """Open becomes half-open, lost trial calls free their places, and half-open does not last for ever."""
    if circuit.window != milliseconds(settings.window_seconds):
        circuit = replace(circuit, window=milliseconds(settings.window_seconds), buckets={})
    if circuit.state is State.OPEN and now >= circuit.open_until:
        return circuit.moved(State.HALF_OPEN, openings=circuit.openings)
    if circuit.state is not State.HALF_OPEN:
        return circuit
    if circuit.tried_at and now >= circuit.tried_at + milliseconds(settings.half_open_seconds):
        # No proof of a failure, so this opening is not a longer one.
        return _opened(circuit, settings, openings=circuit.openings, now=now, chance=chance)
    return replace(circuit, trials={token: until for token, until in circuit.trials.items() if until > now})


def _is_sick(counts: Counts, settings: BreakerSettings) -> bool:
    calls, failures, slow = counts
    if calls < settings.minimum_calls:
        return False
    failing = failures >= settings.minimum_failures and failures / calls >= settings.failure_rate
    return failing or slow / calls >= settings.slow_rate


def _opened(circuit: Circuit, settings: BreakerSettings, *, openings: int, now: int, chance: float) -> Circuit:
    until = now + open_milliseconds(openings, settings, chance=chance)
    return circuit.moved(State.OPEN, openings=openings, open_until=until)


def _settled(
    circuit: Circuit, token: str, outcome: Outcome, settings: BreakerSettings, *, now: int, chance: float
) -> Circuit:
    if token not in circuit.trials:  # lost meanwhile, or of an earlier half-open time
        return circuit
    if outcome is Outcome.FAILED:
        return _opened(circuit, settings, openings=circuit.openings + 1, now=now, chance=chance)
    successes = circuit.successes + (outcome is Outcome.SUCCEEDED)
    if successes >= settings.trial_calls:
        return circuit.moved(State.CLOSED, openings=0)
    trials = {other: until for other, until in circuit.trials.items() if other != token}
    return replace(circuit, trials=trials, successes=successes)


def _has_place(circuit: Circuit, settings: BreakerSettings) -> bool:
    """Whether one more trial call may begin: no more than are needed to close are ever under way."""
    return circuit.state is State.HALF_OPEN and len(circuit.trials) + circuit.successes < settings.trial_calls
