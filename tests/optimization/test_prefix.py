"""What a prefix cache would have read: a public trace, an obviously right cache, and what it is worth."""

import json
from collections import OrderedDict
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.llm.catalogue import Catalogue, Override
from apps.llm.pricing import Rates
from apps.optimization.joint import joint
from apps.optimization.management.commands.evaluate import PUBLIC
from apps.optimization.prefix.replay import FOREVER, Stream, replay
from apps.optimization.scenarios import Move, Scenario, what_if
from apps.optimization.simulators import Options, replay_of, simulate
from tests.optimization.conftest import call

MOONCAKE = PUBLIC / "mooncake_synthetic_trace.jsonl"


def stream(calls, *, size=512):
    """From (at, usable_at, input tokens, names of blocks)."""
    counts = np.array([len(names) for *_, names in calls], dtype=np.int64)
    tokens = [
        min(size, total - size * place) if total else size for *_, total, names in calls for place in range(len(names))
    ]
    return Stream(
        at=np.array([call[0] for call in calls], dtype=np.float64),
        usable_at=np.array([call[1] for call in calls], dtype=np.float64),
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        names=np.array([name for *_, names in calls for name in names], dtype=np.uint64),
        tokens=np.array(tokens, dtype=np.int64),
    )


@pytest.fixture(scope="module")
def mooncake():
    if not MOONCAKE.exists():
        pytest.skip(f"the public Mooncake trace is not in {PUBLIC}")
    rows = [json.loads(line) for line in MOONCAKE.read_text().splitlines()]
    calls = [(row["timestamp"] / 1000, 0.0, row["input_length"], row["hash_ids"]) for row in rows]
    return stream(calls), sum(row["input_length"] for row in rows)


@pytest.mark.parametrize(
    ("policy", "percent"),
    [({}, 65.12), ({"capacity": 50_000}, 65.12), ({"ttl": 300.0}, 59.51), ({"capacity": 1_000}, 8.4)],
    ids=["unbounded", "50,000 blocks", "five minutes", "1,000 blocks"],
)
def test_the_public_trace_is_read_from_the_cache_as_often_as_published(mooncake, policy, percent):
    calls, total = mooncake

    assert 100 * replay(calls, **policy).tokens.sum() / total == pytest.approx(percent, abs=0.05)


def obviously(calls, *, ttl, capacity):
    """The same with an ordered dictionary: name -> (last use, usable from)."""
    held, hits = OrderedDict(), []
    for at, usable_at, _, names in calls:
        hit, reading = 0, True
        for name in names:
            used, ready = held.get(name, (None, None))
            live = used is not None and at - used <= ttl
            reading = reading and live and ready <= at
            hit += reading
            held[name] = (at, min(ready, usable_at) if live else usable_at)
            held.move_to_end(name)
            if len(held) > capacity:
                held.popitem(last=False)
        hits.append(hit)
    return hits


@st.composite
def workloads(draw):
    calls, now = [], 0.0
    for _ in range(draw(st.integers(1, 12))):
        now += draw(st.integers(0, 5))
        names = draw(st.lists(st.integers(0, 8), max_size=6, unique=True))
        calls.append((now, now + draw(st.integers(0, 12)), 0, names))
    return calls


@settings(max_examples=200)
@given(calls=workloads(), ttl=st.sampled_from([0.0, 1.0, 4.0, FOREVER]), capacity=st.integers(1, 12))
def test_the_compiled_cache_does_what_an_obvious_one_does(calls, ttl, capacity):
    assert replay(stream(calls), ttl=ttl, capacity=capacity).blocks.tolist() == obviously(
        calls, ttl=ttl, capacity=capacity
    )


@settings(max_examples=50)
@given(calls=workloads(), ttl=st.integers(0, 6), capacity=st.integers(1, 12))
def test_a_longer_life_or_no_bound_never_reads_less(calls, ttl, capacity):
    found = lambda **policy: replay(stream(calls), **policy).tokens.sum()  # noqa: E731

    assert found(ttl=float(ttl)) <= found(ttl=float(ttl + 1)) <= found()
    assert found(capacity=capacity) <= found()


def test_a_block_is_read_only_once_its_writer_began_to_answer():
    asked = [(0.0, 5.0, 512, [7]), (4.0, 9.0, 512, [7]), (5.0, 9.0, 512, [7])]

    assert replay(stream(asked)).blocks.tolist() == [0, 0, 1]


def test_of_two_writers_the_one_that_answers_first_makes_a_block_readable():
    asked = [(0.0, 60.0, 512, [7]), (1.0, 2.0, 512, [7]), (3.0, 4.0, 512, [7])]

    assert replay(stream(asked)).blocks.tolist() == [0, 0, 1]


def test_what_makes_no_sense_is_refused():
    calls = stream([(0.0, 0.0, 512, [1])])

    with pytest.raises(ValueError, match="at least one"):
        replay(calls, capacity=0)
    with pytest.raises(ValueError, match="order of their times"):
        stream([(5.0, 5.0, 512, [1]), (1.0, 1.0, 512, [1])])


# --- What it is worth ------------------------------------------------------------------------------------------------

READS = Rates(input=Decimal(10), output=Decimal(0), cached_read=Decimal(1))
WRITES = Rates(input=Decimal(10), output=Decimal(0), cached_read=Decimal(1), cached_write=Decimal("12.5"))
OPENAI = Catalogue([Override(model="gpt-4o", rates=READS)])
ANTHROPIC = Catalogue([Override(model="claude-sonnet-4-5", rates=WRITES)])
BOOK = "".join(chr(97 + n * 7 % 26) for n in range(8192))  # of which a token is four characters


def reader(n, *, model="gpt-4o", text=BOOK, minutes=1, **more):
    """A question about the same 2,048 tokens, a minute after the last one."""
    at = f"2026-10-01T{n * minutes // 60:02}:{n * minutes % 60:02}:00Z"
    return call(model=model, timestamp=at, ended_at=at, prompt=text, input_tokens=2048, output_tokens=0, **more)


def test_what_prompts_have_in_common_is_read_after_the_first_time(write, calls_of):
    with calls_of(write("calls.csv", [reader(n) for n in range(11)]), OPENAI) as calls:
        found = simulate(calls, "prefix_cache")

    assert found.detail["read_tokens"] == 10 * 2048
    assert found.saving_usd == 10 * 2048 * Decimal(9) / 10**6


def test_what_was_read_already_is_no_saving(write, calls_of):
    rows = [reader(n, cached_tokens=0 if n == 0 else 2048) for n in range(11)]

    with calls_of(write("calls.csv", rows), OPENAI) as calls:
        found = simulate(calls, "prefix_cache")

    assert (found.saving_usd, found.why) == (
        0,
        "On 100.0% of the spend, where prompts are long enough, the provider's caches hold already what they can.",
    )


def test_where_nobody_says_what_was_read_already_the_saving_is_a_ceiling(write, calls_of):
    silent = [reader(n) for n in range(11)]
    # A source that leaves zeros out says it of one call and means all of them.
    telling = [row | {"cached_tokens": "0" if n == 0 else ""} for n, row in enumerate(silent)]

    with calls_of(write("silent.csv", silent), OPENAI) as calls:
        ceiling = simulate(calls, "prefix_cache")
    with calls_of(write("telling.csv", telling), OPENAI) as calls:
        proven = simulate(calls, "prefix_cache")

    assert (ceiling.up_to, ceiling.evidence, ceiling.missing) == (True, "E0", ("cached_tokens",))
    assert (proven.up_to, proven.evidence, proven.missing) == (False, "E2", ())
    assert ceiling.saving_usd == proven.saving_usd > 0


@pytest.mark.parametrize(
    "rows",
    [
        [reader(n, minutes=6) for n in range(9)],  # forgotten in between
        [reader(n, api_key=f"k{n}") for n in range(9)],
        [reader(n) | {"input_tokens": 1000} for n in range(9)],  # too short for a cache
        [reader(n, text=f"{n}" + BOOK) for n in range(9)],  # nothing in common from the start
    ],
    ids=["too late", "other keys", "too short", "other beginnings"],
)
def test_where_a_cache_cannot_help_nothing_is_saved(write, calls_of, rows):
    with calls_of(write("calls.csv", rows), OPENAI) as calls:
        assert simulate(calls, "prefix_cache").saving_usd == 0


def test_a_model_whose_cache_takes_longer_prompts_only_saves_nothing_on_these(write, calls_of):
    haiku = Catalogue([Override(model="claude-sonnet-4-5", rates=WRITES)])

    with calls_of(write("calls.csv", [reader(n, model="claude-haiku-4-5") for n in range(20)]), haiku) as calls:
        assert simulate(calls, "prefix_cache").saving_usd == 0


def test_what_one_models_cache_held_is_not_read_from_anothers(write, calls_of):
    """Six minutes apart, only the log says that anything was read; and the other model has seen none of it."""
    rows = [reader(n, cached_tokens=2048, minutes=6) for n in range(9)]

    with calls_of(write("calls.csv", rows), OPENAI) as calls:
        simulate(calls, "prefix_cache")
        replay_of("prefix_cache")(calls, "SELECT call, 'gpt-4o-mini' AS model, provider FROM calls", "behind")

        assert calls.rows("FROM behind") == []


def test_where_writing_costs_more_only_what_was_not_learnt_from_counts(write, calls_of):
    with calls_of(write("calls.csv", [reader(n, model="claude-sonnet-4-5") for n in range(20)]), ANTHROPIC) as calls:
        found = simulate(calls, "prefix_cache")

    # Of the second half, all ten are read: the first half has written what they share.
    assert found.saving_usd == 10 * 2048 * Decimal(9) / 10**6


def test_where_calls_come_too_late_for_five_minutes_an_hour_is_bought(write, calls_of):
    hour = Catalogue([Override(model="claude-sonnet-4-5", rates=replace(WRITES, cached_write_1h=Decimal(20)))])
    rows = [reader(n, model="claude-sonnet-4-5", minutes=10) for n in range(20)]

    with calls_of(write("calls.csv", rows), hour) as calls:
        found = simulate(calls, "prefix_cache")
    with calls_of(write("calls.csv", rows), ANTHROPIC) as calls:
        without = simulate(calls, "prefix_cache")

    assert found.saving_usd == 10 * 2048 * Decimal(9) / 10**6
    assert without.saving_usd == 0


def test_an_hour_is_paid_for_at_its_own_price(write, calls_of):
    hour = Catalogue([Override(model="claude-sonnet-4-5", rates=replace(WRITES, cached_write_1h=Decimal(20)))])
    # Pairs of calls about one text, ten minutes apart: the second reads what the first wrote.
    rows = [reader(n, model="claude-sonnet-4-5", minutes=10, text=f"{n // 2:04}" + BOOK[4:]) for n in range(40)]

    with calls_of(write("calls.csv", rows), hour) as calls:
        found = simulate(calls, "prefix_cache")

    # Reading saves 9 of 10 and writing for an hour costs 10 more: not worth it. At 1.25 times it would be.
    assert (found.saving_usd, found.detail["changed_calls"]) == (0, 0)


def test_a_model_that_would_pay_more_takes_nothing_from_what_another_saves(write, calls_of):
    both = Catalogue([Override(model="claude-sonnet-4-5", rates=WRITES), Override(model="gpt-4o", rates=READS)])
    # What was learnt on the first half no longer holds on the second: nobody asks twice there.
    dearer = [reader(n, model="claude-sonnet-4-5", text=BOOK if n < 10 else f"{n:04}" + BOOK[4:]) for n in range(20)]
    cheaper = [reader(n) for n in range(11)]

    again = [reader(n, text="Once more?", user="ann", temperature=0) for n in (99, 100)]

    with calls_of(write("calls.csv", [*dearer, *cheaper, *again]), both) as calls:
        found = simulate(calls, "prefix_cache")
        kept = simulate(calls, "exact_cache")
        together = joint(calls, [found, kept], ceilings=True)

    assert found.saving_usd == 10 * 2048 * Decimal(9) / 10**6
    assert kept.saving_usd > 0
    assert together.shares == {"prefix_cache": found.saving_usd, "exact_cache": kept.saving_usd}


def test_what_is_never_read_again_is_not_written(write, calls_of):
    rows = [reader(n, model="claude-sonnet-4-5", text=f"{n}" + BOOK) for n in range(20)]

    with calls_of(write("calls.csv", rows), ANTHROPIC) as calls:
        found = simulate(calls, "prefix_cache")

    assert (found.saving_usd, found.detail["changed_calls"]) == (0, 0)


def test_without_prompts_it_is_said_what_is_missing(write, calls_of):
    with calls_of(write("calls.csv", [call()])) as calls:
        found = simulate(calls, "prefix_cache")

    assert (found.saving_usd, found.missing) == (None, ("prompt",))


@pytest.mark.skipif(not MOONCAKE.exists(), reason=f"the public Mooncake trace is not in {PUBLIC}")
def test_the_public_trace_would_cost_half_on_gpt_5(calls_of):
    with calls_of(MOONCAKE, price_as="gpt-5") as calls:
        found = simulate(calls, "prefix_cache")

    # $82.45 -> $41.48 in the published replay, which knows neither steps nor a minimum.
    assert found.saving_usd == pytest.approx(Decimal("40.97"), abs=Decimal("0.1"))


def test_behind_a_route_nobody_uses_a_cache_that_costs_more_than_it_saves(write, calls_of):
    """The other model takes money for what it writes, and would rarely read it."""
    used = Rates(input=Decimal(20), output=Decimal(0), cached_read=Decimal(2))
    both = Catalogue([Override(model="gpt-4o", rates=used), Override(model="claude-sonnet-4-5", rates=WRITES)])
    rows = [reader(n, text=BOOK if n < 20 else f"{n:04}" + BOOK[4:], session=f"s{n}") for n in range(40)]
    options = Options(candidates=("claude-sonnet-4-5",))

    with calls_of(write("calls.csv", rows), both) as calls:
        prefix, route = (simulate(calls, name, options) for name in ("prefix_cache", "model_swap_ceiling"))
        alone = joint(calls, [route], ceilings=True)
        together = joint(calls, [prefix, route], ceilings=True)

    assert prefix.saving_usd > 0
    assert together.saving_usd >= alone.saving_usd > 0


def test_calls_that_somebody_moves_read_from_the_cache_of_their_new_model(write, calls_of):
    """The other half stays, and reads what its own model has cached."""
    tenth = Rates(input=Decimal(1), output=Decimal(0), cached_read=Decimal("0.1"))
    both = Catalogue([Override(model="gpt-4o", rates=READS), Override(model="gpt-4o-mini", rates=tenth)])
    rows = [reader(n, feature="chat" if n % 2 else "search", cached_tokens=0) for n in range(20)]

    with calls_of(write("calls.csv", rows), both) as calls:
        found = what_if(calls, Scenario(moves=(Move(feature="chat", to="gpt-4o-mini"),)))

    a_call = Decimal(2048) / 10**6
    assert found.moved_usd == 10 * a_call * 10 + 10 * a_call
    assert found.joint.shares == {"prefix_cache": 9 * a_call * 9 + 9 * a_call * Decimal("0.9")}
    assert found.saved_usd == found.moved_usd - found.joint.saving_usd
