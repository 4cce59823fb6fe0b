"""The rules of a breaker, tried with histories that nobody thought of."""

import json
import os

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from apps.resilience.circuit import (
    BUCKETS,
    BreakerMisconfigured,
    BreakerSettings,
    Circuit,
    Counts,
    Outcome,
    Request,
    State,
    decide,
    milliseconds,
    open_milliseconds,
)
from apps.resilience.store import DECIDE, arguments

START = 1_790_000_000_000
COUNTS = st.integers(1, 20).flatmap(
    lambda calls: st.builds(Counts, st.just(calls), st.integers(0, calls), st.integers(0, calls))
)
CHANCES = st.floats(0, 1, exclude_max=True)
SETTINGS = st.builds(
    BreakerSettings,
    window_seconds=st.sampled_from([0.5, 7.0, 60.0]),
    minimum_calls=st.integers(1, 10),
    minimum_failures=st.integers(1, 10),
    failure_rate=st.sampled_from([0.1, 1 / 3, 0.5, 1.0]),
    slow_rate=st.sampled_from([0.3, 1.0]),
    open_seconds=st.sampled_from([0.5, 3.7]),
    longest_open_seconds=st.sampled_from([4.0, 60.0]),
    trial_calls=st.integers(1, 4),
    trial_seconds=st.sampled_from([1.0, 9.0]),
    half_open_seconds=st.sampled_from([5.0, 30.0]),
)
# Milliseconds, among them those at which something ends by the settings above.
PAUSES = st.sampled_from([0, 0, 1, 40, 500, 1_000, 3_700, 5_000, 7_000, 9_000, 30_000, 60_000])


class Life(RuleBasedStateMachine):
    """One circuit, asked by a cluster; beside it, the plain bookkeeping of what it should know."""

    def __init__(self):
        super().__init__()
        self.settings = BreakerSettings(open_seconds=1, trial_calls=3, trial_seconds=5, half_open_seconds=30)
        self.circuit = Circuit()
        self.now = START
        self.counted: list[tuple[int, Counts]] = []
        self.under_way: dict[str, int] = {}
        self.succeeded = 0

    def ask(self, chance: float = 0.5, **request) -> bool:
        before = self.circuit
        wanted = Request(version=before.version, **request)
        self.circuit, granted = decide(before, wanted, self.settings, now=self.now, chance=chance)
        if self.circuit.state is not before.state:
            assert self.circuit.version > before.version
            self.moved(before.state)
        return granted

    def moved(self, before: State) -> None:
        after = self.circuit
        if after.state is State.OPEN:
            longest = milliseconds(self.settings.longest_open_seconds)
            assert milliseconds(self.settings.open_seconds) <= after.open_until - self.now <= longest
        else:
            self.counted = []
        if before is State.HALF_OPEN and after.state is State.CLOSED:
            assert self.succeeded == self.settings.trial_calls
        self.under_way, self.succeeded = {}, 0

    @rule(pause=PAUSES)
    def wait(self, pause):
        self.now += pause
        self.under_way = {token: until for token, until in self.under_way.items() if until > self.now}
        self.ask()

    @rule(counts=COUNTS, chance=CHANCES)
    def calls_end(self, counts, chance):
        if self.circuit.state is State.CLOSED:
            self.counted.append((self.now, counts))
        self.ask(chance, counts=counts)

    @rule(token=st.uuids())
    def someone_asks_for_a_trial(self, token):
        if self.ask(take=str(token)):
            assert self.circuit.state is State.HALF_OPEN
            self.under_way[str(token)] = self.now + milliseconds(self.settings.trial_seconds)

    @rule(data=st.data(), outcome=st.sampled_from(Outcome), chance=CHANCES)
    def a_trial_ends(self, data, outcome, chance):
        if self.under_way:
            token = data.draw(st.sampled_from(sorted(self.under_way)))
            del self.under_way[token]
            self.succeeded += outcome is Outcome.SUCCEEDED
            self.ask(chance, settled={token: outcome})

    @rule(token=st.uuids())
    def somebody_speaks_of_a_trial_that_nobody_granted(self, token):
        before = self.circuit
        self.ask(settled={str(token): Outcome.FAILED})
        assert self.circuit == before

    @invariant()
    def rates_are_shares(self):
        calls, failures, slow = self.circuit.totals(self.now)
        assert 0 <= failures <= calls
        assert 0 <= slow <= calls

    @invariant()
    def exactly_what_ended_within_the_window_counts(self):
        newest = self.circuit.bucket(self.now)
        inside = [counts for at, counts in self.counted if newest - self.circuit.bucket(at) < BUCKETS]
        assert self.circuit.totals(self.now) == Counts(*map(sum, zip(*inside, strict=True)))

    @invariant()
    def no_more_trials_than_allowed(self):
        assert len(self.under_way) <= self.settings.trial_calls
        assert len(self.under_way) + self.succeeded <= self.settings.trial_calls

    @invariant()
    def what_is_under_way_is_known(self):
        assert self.under_way == self.circuit.trials
        assert self.succeeded == self.circuit.successes


TestLife = Life.TestCase


@given(openings=st.integers(1, 5_000), settings=SETTINGS, chance=CHANCES)
def test_an_opening_lasts_between_the_first_and_the_longest(openings, settings, chance):
    lasts = open_milliseconds(openings, settings, chance=chance)
    assert milliseconds(settings.open_seconds) <= lasts <= milliseconds(settings.longest_open_seconds)


def test_openings_in_a_row_grow_and_the_first_is_exact():
    settings = BreakerSettings(open_seconds=60, longest_open_seconds=600)
    least = [open_milliseconds(openings, settings, chance=0.0) for openings in range(1, 7)]
    assert least == [60_000, 60_000, 120_000, 240_000, 300_000, 300_000]
    assert open_milliseconds(1, settings, chance=0.999) == 60_000


def test_it_opens_at_five_failures_that_are_half_of_the_calls():
    def state_after(calls: int, failures: int) -> State:
        request = Request(counts=Counts(calls, failures, 0))
        return decide(Circuit(), request, BreakerSettings(), now=START, chance=0.5)[0].state

    assert state_after(5, 5) is State.OPEN
    assert state_after(10, 5) is State.OPEN
    assert state_after(4, 4) is State.CLOSED
    assert state_after(11, 5) is State.CLOSED


def test_it_opens_when_all_of_enough_calls_were_slow():
    def state_after(calls: int, slow: int) -> State:
        request = Request(counts=Counts(calls, 0, slow))
        return decide(Circuit(), request, BreakerSettings(), now=START, chance=0.5)[0].state

    assert state_after(5, 5) is State.OPEN
    assert state_after(4, 4) is State.CLOSED
    assert state_after(6, 5) is State.CLOSED


def test_calls_that_began_before_a_change_of_state_are_not_counted_after_it():
    stale = Request(version=0, counts=Counts(5, 5, 0))
    circuit, _ = decide(Circuit(version=2), stale, BreakerSettings(), now=START, chance=0.5)
    assert circuit == Circuit(version=2)


def test_a_half_open_time_without_a_decision_ends_in_an_opening_that_is_no_longer_one():
    settings = BreakerSettings(half_open_seconds=100)
    half_open = Circuit(state=State.HALF_OPEN, version=2, openings=1, successes=1, tried_at=START)
    circuit, granted = decide(half_open, Request(take="late"), settings, now=START + 100_000, chance=0.9)
    assert (circuit.state, circuit.openings, granted) == (State.OPEN, 1, False)
    assert circuit.open_until == START + 160_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"minimum_calls": 0},
        {"trial_calls": 0},
        {"failure_rate": 0.0},
        {"slow_rate": 1.1},
        {"open_seconds": 0.0},
        {"window_seconds": float("nan")},
        {"open_seconds": 60.0, "longest_open_seconds": 30.0},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(BreakerMisconfigured, match=list(wrong)[-1]):
        BreakerSettings(**wrong)


# --- The same in Lua -------------------------------------------------------------------------------------------------

TOKENS = st.sampled_from("abc")
ENDINGS = st.sampled_from([Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.RELEASED, Outcome.FAILED])
BORDERS = st.sampled_from([Counts(10, 5, 3), Counts(3, 1, 0), Counts(5, 5, 0), Counts(10, 1, 3), Counts(1, 0, 1)])
ASKED = st.one_of(
    st.fixed_dictionaries({"counts": COUNTS | BORDERS, "stale": st.sampled_from([False, False, True])}),
    st.fixed_dictionaries({"take": TOKENS}),
    st.fixed_dictionaries({"take": TOKENS}),
    st.fixed_dictionaries({"settled": st.dictionaries(TOKENS, ENDINGS)}),
    st.fixed_dictionaries({"settled": st.dictionaries(TOKENS, ENDINGS)}),
    st.fixed_dictionaries({"move": st.sampled_from([State.CLOSED, State.FORCED_OPEN, State.DISABLED])}),
    st.just({}),
)
HISTORIES = st.lists(st.tuples(PAUSES, CHANCES, ASKED), min_size=10, max_size=40)
FAILING, WELL = Counts(5, 5, 0), Counts(5, 0, 0)
WALK = [  # through every state, for random histories seldom go that far
    (0, 0.1, {"counts": WELL}),
    (60_000, 0.1, {"counts": WELL}),
    (0, 0.1, {"counts": FAILING}),
    (70_000, 0.1, {"take": "a"}),
    (40, 0.1, {"take": "b"}),
    (40, 0.1, {"take": "c"}),
    (40, 0.9, {"settled": {"a": Outcome.FAILED, "b": Outcome.SUCCEEDED}}),
    (120_000, 0.1, {"take": "a"}),
    (10_000, 0.1, {"take": "b"}),
    (40, 0.1, {"take": "c"}),
    (40, 0.1, {"settled": {"b": Outcome.RELEASED}}),
    (169_920, 0.7, {}),
    (120_000, 0.1, {"take": "a"}),
    (90_000, 0.1, {"take": "c"}),
    (40, 0.1, {"take": "b", "settled": {"c": Outcome.SUCCEEDED}}),
    (40, 0.1, {"take": "a"}),
    (40, 0.1, {"settled": {"b": Outcome.SUCCEEDED}}),
    (500, 0.1, {"counts": WELL}),
    (4_000, 0.1, {"counts": FAILING, "stale": True}),
    (500, 0.1, {"move": State.DISABLED}),
    (500, 0.1, {"counts": FAILING}),
]


@pytest.fixture(scope="module")
def lua():
    client = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
    script = client.register_script(
        DECIDE
        + """
        local c = cjson.decode(ARGV[1])
        local granted = decide(c, cjson.decode(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
        return {cjson.encode(c), granted and 1 or 0}"""
    )
    yield script
    client.close()


@settings(deadline=None)  # up to 40 round trips each, on a machine that does other things, too
@given(rules=SETTINGS, history=HISTORIES)
@example(rules=BreakerSettings(), history=WALK)
def test_redis_decides_as_python_does(lua, rules, history):
    circuit, text, now = Circuit(), json.dumps(vars(Circuit())), START
    for pause, chance, asked in history:
        now += pause
        stale = asked.get("stale", False)
        request = Request(
            version=circuit.version - stale, **{name: value for name, value in asked.items() if name != "stale"}
        )
        circuit, granted = decide(circuit, request, rules, now=now, chance=chance)
        text, granted_there = lua(args=[text, json.dumps(arguments(request, rules)), now, repr(chance)])
        assert (Circuit.from_json(text), bool(granted_there)) == (circuit, granted)
