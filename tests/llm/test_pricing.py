"""One arithmetic prices a call, in Python and in SQL."""

import json
from dataclasses import asdict, replace
from decimal import Decimal

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.llm.pricing import (
    MAX_RATE,
    MAX_TOKENS,
    STAGES,
    TREATMENT,
    ImpossibleRate,
    ImpossibleUsage,
    Prefix,
    Rates,
    Tier,
    TierPriceUnknown,
    Treatment,
    Usage,
    cost_pico,
    dollars,
    price,
)
from apps.optimization.tariffs import ARITHMETIC, Key, costs_sql, create_tariff, treated_keys_sql

SONNET = Rates(
    input=Decimal(3),
    cached_read=Decimal("0.3"),
    cached_write=Decimal("3.75"),
    cached_write_1h=Decimal(6),
    output=Decimal(15),
    tiers=(
        Tier(
            above=200_000,
            input=Decimal(6),
            cached_read=Decimal("0.6"),
            cached_write=Decimal("7.5"),
            cached_write_1h=Decimal(12),
            output=Decimal("22.5"),
        ),
    ),
)
GPT_4O = Rates(input=Decimal("2.5"), cached_read=Decimal("1.25"), output=Decimal(10))


def usage(read=0, write=0, write_1h=0, fresh=0, output=0):
    return Usage(
        input_tokens=read + write + fresh,
        cached_read=read,
        cached_write=write,
        cached_write_1h=write_1h,
        output_tokens=output,
    )


def test_ten_calls_are_priced_one_by_one_and_not_as_their_sum():
    call = usage(fresh=5_000, write=5_000, read=90_000, output=10_000)
    summed = usage(fresh=50_000, write=50_000, read=900_000, output=100_000)

    assert sum(price(call, SONNET) for _ in range(10)) == Decimal("2.1075")
    assert price(summed, SONNET) == Decimal("3.465")


@pytest.mark.parametrize(
    ("call", "rates", "expected"),
    [
        pytest.param(usage(fresh=1_000_000), GPT_4O, "2.5", id="1M input = 2.5"),
        pytest.param(usage(output=100_000), GPT_4O, "1", id="0.1M output = 1"),
        pytest.param(usage(read=400, fresh=600, output=100), GPT_4O, "0.003", id="600*2.5 + 400*1.25 + 100*10"),
        pytest.param(usage(fresh=200_000), SONNET, "0.6", id="at the threshold the base rate holds"),
        pytest.param(usage(fresh=200_001), SONNET, "1.200006", id="one token above, the whole call switches"),
        pytest.param(usage(write=1000, write_1h=1000), SONNET, "0.006", id="an hour's write"),
        pytest.param(usage(write=1000, write_1h=400), SONNET, "0.00465", id="600 at 3.75 + 400 at 6"),
        pytest.param(usage(), SONNET, "0", id="an empty call costs nothing"),
    ],
)
def test_a_call_costs_its_tokens_times_their_rates(call, rates, expected):
    assert price(call, rates) == Decimal(expected)


def test_a_missing_cached_rate_is_the_input_rate_and_is_said():
    rates = Rates(input=Decimal(2), output=Decimal(4))

    assert price(usage(read=500, write=500), rates) == price(usage(fresh=1000), rates)
    assert rates.fallbacks[:3] == ("cached_read", "cached_write", "cached_write_1h")


def test_sound_and_reasoning_pay_rates_of_their_own_where_there_are_some():
    call = Usage(input_tokens=1000, input_audio=400, output_tokens=500, output_audio=100, reasoning=300)
    text = Rates(input=Decimal(2), output=Decimal(8))
    sound = replace(text, input_audio=Decimal(32), output_audio=Decimal(64), reasoning=Decimal(3))

    assert price(call, text) == Decimal("0.006")  # 1000 x 2 + 500 x 8
    assert price(call, sound) == Decimal("0.0221")  # 600 x 2 + 400 x 32 + 100 x 8 + 100 x 64 + 300 x 3


def test_sound_counts_as_uncached_as_far_as_it_can():
    call = Usage(input_tokens=1000, cached_read=800, input_audio=300, output_tokens=0)
    rates = Rates(
        input=Decimal(4),
        cached_read=Decimal("0.4"),
        input_audio=Decimal(32),
        cached_audio_read=Decimal("0.5"),
        output=Decimal(1),
    )

    assert price(call, rates) == Decimal("0.00673")  # 200 x 32 + 100 x 0.5 + 700 x 0.4


def test_a_fee_for_the_call_is_paid_once():
    assert price(usage(fresh=1000), Rates(input=Decimal(1), output=Decimal(1), fee=Decimal("0.012"))) == Decimal(
        "0.013"
    )


@pytest.mark.parametrize("tier", ["batch", "flex", "priority", "scale"])
def test_a_tier_pays_its_rates_and_an_unknown_tiers_price_is_not_guessed(tier):
    known = Rates(input=Decimal(2), output=Decimal(4), service={tier: Rates(input=Decimal(1), output=Decimal(2))})

    assert price(usage(fresh=1000, output=1000), known, tier=tier) == Decimal("0.003")
    with pytest.raises(TierPriceUnknown, match=f"No {tier} price"):
        price(usage(fresh=1), GPT_4O, tier=tier)


def test_scaling_halves_every_rate_and_every_tier():
    call = usage(fresh=150_000, read=60_000, write=10_000, output=500)

    assert price(call, SONNET.scaled(Decimal("0.5"))) * 2 == price(call, SONNET)


@pytest.mark.parametrize("rate", ["-1", "NaN", "Infinity", "40000.01"])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(ImpossibleRate, match="input rate"):
        Rates(input=Decimal(rate), output=Decimal(1))


@pytest.mark.parametrize(
    "counts",
    [
        {"input_tokens": -1, "output_tokens": 0},
        {"input_tokens": MAX_TOKENS + 1, "output_tokens": 0},
        {"input_tokens": 10, "cached_read": 6, "cached_write": 5, "output_tokens": 0},
        {"input_tokens": 10, "cached_write": 1, "cached_write_1h": 2, "output_tokens": 0},
        {"input_tokens": 10, "input_audio": 11, "output_tokens": 0},
        {"input_tokens": 0, "output_tokens": 5, "reasoning": 6},
        {"input_tokens": 0, "output_tokens": 5, "output_audio": 6},
    ],
)
def test_impossible_token_counts_are_refused(counts):
    with pytest.raises(ImpossibleUsage, match=r"tokens|Token"):
        Usage(**counts)


def test_the_dearest_call_still_fits_in_64_bits():
    dearest = Rates(input=MAX_RATE, output=MAX_RATE)

    assert cost_pico(Usage(input_tokens=MAX_TOKENS, output_tokens=MAX_TOKENS), dearest) < 2**63


def test_dollars_never_use_an_exponent():
    assert [str(dollars(n)) for n in (10**13, 1, -25 * 10**11, 0)] == ["10", "1E-12", "-2.5", "0"]


rate = st.decimals(min_value=0, max_value=MAX_RATE, places=6)
maybe_rate = st.none() | rate
step = {
    "input": rate,
    "output": rate,
    "cached_read": maybe_rate,
    "cached_write": maybe_rate,
    "cached_write_1h": maybe_rate,
    "input_audio": maybe_rate,
    "cached_audio_read": maybe_rate,
    "output_audio": maybe_rate,
    "reasoning": maybe_rate,
}
tiers = st.lists(st.integers(0, 400_000), max_size=3, unique=True).flatmap(
    lambda starts: st.tuples(*(st.builds(Tier, above=st.just(start), **step) for start in starts))
)
fee = st.decimals(min_value=0, max_value=1000, places=6)
one_tier = st.builds(Rates, tiers=tiers, fee=fee, **step)
all_rates = st.builds(
    Rates, tiers=tiers, fee=fee, service=st.dictionaries(st.sampled_from(["batch", "flex"]), one_tier), **step
)


@st.composite
def calls(draw):
    size = draw(st.integers(0, 1_000_000) | st.integers(0, MAX_TOKENS))
    read = draw(st.integers(0, size))
    write = draw(st.integers(0, size - read))
    output = draw(st.integers(0, MAX_TOKENS))
    return Usage(
        input_tokens=size,
        cached_read=read,
        cached_write=write,
        cached_write_1h=draw(st.integers(0, write)),
        output_tokens=output,
        reasoning=draw(st.integers(0, output)),
        input_audio=draw(st.integers(0, size)),
        output_audio=draw(st.integers(0, output)),
    )


tokens = st.integers(0, 1_000_000)
coalitions = st.frozensets(st.sampled_from(STAGES))
treatments = st.builds(
    Treatment,
    dropped=st.booleans(),
    answered=st.booleans(),
    rates=st.none() | all_rates,
    less_input=tokens,
    less_output=tokens,
    prefix=st.none() | st.builds(Prefix, cached_read=tokens, cached_write=tokens, cached_write_1h=tokens),
    batched=st.booleans(),
)


def cost_or_unknown(*arguments, **more):
    try:
        return cost_pico(*arguments, **more)
    except TierPriceUnknown:
        return None


COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_read": "cached_read_tokens",
    "cached_write": "cached_write_tokens",
    "cached_write_1h": "cached_write_1h_tokens",
    "reasoning": "reasoning_tokens",
    "input_audio": "input_audio_tokens",
    "output_audio": "output_audio_tokens",
}
CALL = {"model": "VARCHAR", "provider": "VARCHAR", "price_moment": "TIMESTAMP", "service_tier": "VARCHAR"} | {
    "batch": "BOOLEAN",
    "billed": "BOOLEAN",
    **dict.fromkeys(COUNTS.values(), "BIGINT"),
}


@pytest.fixture(scope="module")
def database():
    with duckdb.connect() as connection:
        yield connection


def create_treated(database, call, treatment, tier):
    """The table `treated` of one call of the model `own`, and of what would be changed about it."""
    prefix = treatment.prefix
    row = {COUNTS[name]: count for name, count in asdict(call).items()} | {
        "model": "own",
        "price_moment": "2026-11-01",
        "service_tier": tier,
        "billed": True,
        "treatment": {
            "dropped": treatment.dropped or None,
            "answered": treatment.answered or None,
            "model": "other" if treatment.rates else None,
            "less_input": treatment.less_input or None,
            "less_output": treatment.less_output or None,
            "cached_read_tokens": prefix and prefix.cached_read,
            "cached_write_tokens": prefix and prefix.cached_write,
            "cached_write_1h_tokens": prefix and prefix.cached_write_1h,
            "batched": treatment.batched or None,
        },
    }
    database.execute(
        "CREATE OR REPLACE TEMP TABLE treated AS SELECT unnest(from_json(?::JSON, ?), recursive := false)",
        [json.dumps([row]), json.dumps([CALL | {"treatment": dict(TREATMENT)}])],
    )
    database.execute("CREATE OR REPLACE TEMP TABLE treated AS SELECT unnest(struct) FROM treated t(struct)")


@given(
    call=calls(),
    rates=all_rates,
    treatment=treatments,
    tier=st.sampled_from([None, "flex"]),
    asked=st.lists(coalitions, min_size=1, max_size=4),
)
@settings(max_examples=60)
def test_sql_and_python_agree_to_the_last_pico_dollar(database, call, rates, treatment, tier, asked):
    create_treated(database, call, treatment, tier)
    database.execute("DROP TABLE IF EXISTS tariff")
    keys = database.execute(treated_keys_sql("treated")).fetchall()
    listed = {"own": rates, "other": treatment.rates}
    create_tariff(
        database,
        "tariff",
        [Key(model=m, provider=p, moment=at, tier=t) for m, p, at, t in keys],
        lambda k: listed[k.model],
    )

    [costs] = database.execute(f"SELECT COLUMNS('cost_.*') FROM ({costs_sql('treated', 'tariff', asked)})").fetchall()

    assert list(costs) == [
        cost_or_unknown(call, rates, tier=tier or "standard", treatment=treatment, stages=stages) for stages in asked
    ]


def test_what_is_not_billed_costs_nothing_and_an_unknown_model_costs_unknown(database):
    create_treated(database, usage(fresh=1000), Treatment(rates=CHEAP), None)
    create_tariff(database, "known", [], lambda key: None)
    on = frozenset({"route"})

    def cost(treated):
        return database.execute(f"SELECT cost_0 FROM ({costs_sql(treated, 'known', [on])})").fetchall()

    assert cost("treated") == [(None,)]
    assert cost("(SELECT * REPLACE (false AS billed) FROM treated)") == [(0,)]


def test_the_other_model_is_priced_at_its_own_provider(database):
    create_treated(database, usage(fresh=1000), Treatment(rates=CHEAP), None)
    elsewhere = "(SELECT * REPLACE ('here' AS provider) FROM treated)"
    keys = database.execute(treated_keys_sql(elsewhere)).fetchall()

    assert {(model, provider) for model, provider, *_ in keys} == {("own", "here"), ("other", "")}


def test_only_sixteen_coalitions_need_prices():
    assert len(set(ARITHMETIC)) == 16
    assert all(not stages & {"drop", "answer"} for stages in ARITHMETIC)


@given(call=calls(), rates=all_rates)
@settings(deadline=None)
def test_dollars_and_pico_dollars_are_the_same_money(call, rates):
    assert price(call, rates) * 10**12 == cost_pico(call, rates)


# --- Laws of treatments ----------------------------------------------------------------------------------------------


@given(call=calls(), rates=all_rates, treatment=treatments, stages=coalitions)
@settings(deadline=None)
def test_no_call_costs_less_than_nothing_and_what_is_not_asked_costs_nothing(call, rates, treatment, stages):
    cost = cost_pico(call, rates, treatment=treatment, stages=stages)

    assert cost >= 0
    assert cost_pico(call, rates, treatment=replace(treatment, dropped=True), stages=stages | {"drop"}) == 0
    assert cost_pico(call, rates, treatment=replace(treatment, answered=True), stages=stages | {"answer"}) == 0


@given(call=calls(), rates=all_rates, treatment=treatments, stages=coalitions)
@settings(deadline=None)
def test_a_stage_that_changes_nothing_about_a_call_changes_nothing_of_its_cost(call, rates, treatment, stages):
    untouched = Treatment()
    only = {
        "drop": replace(treatment, dropped=False),
        "answer": replace(treatment, answered=False),
        "route": replace(treatment, rates=None),
        "trim": replace(treatment, less_input=0, less_output=0),
        "prefix": replace(treatment, prefix=None),
        "batch": replace(treatment, batched=False),
    }

    assert cost_pico(call, rates, treatment=untouched, stages=stages) == cost_pico(call, rates)
    for stage, change in only.items():
        without, within = stages - {stage}, stages | {stage}
        assert cost_pico(call, rates, treatment=change, stages=within) == cost_pico(
            call, rates, treatment=change, stages=without
        )


@st.composite
def ordered_rates(draw):
    """Without tiers; reading from a cache is not dearer than not reading, batch is cheaper than standard."""
    dear = draw(st.decimals(min_value=1, max_value=100, places=2))
    rates = Rates(
        input=dear,
        cached_read=dear / 10,
        cached_write=dear * Decimal("1.25"),
        cached_write_1h=dear * 2,
        output=dear * 5,
        input_audio=dear * 8,
    )
    return replace(rates, service={"batch": rates.scaled(Decimal("0.5"))})


@given(call=calls(), rates=ordered_rates(), treatment=treatments, stages=coalitions)
@settings(deadline=None)
def test_without_tiers_trimming_batching_dropping_and_answering_never_cost_more(call, rates, treatment, stages):
    change = replace(treatment, rates=None)

    for stage in ("drop", "answer", "trim", "batch"):
        dearer = cost_pico(call, rates, treatment=change, stages=stages - {stage})
        assert cost_pico(call, rates, treatment=change, stages=stages | {stage}) <= dearer


# --- Treatments by hand ----------------------------------------------------------------------------------------------


CHEAP = Rates(input=Decimal(1), cached_read=Decimal("0.1"), output=Decimal(2))
SONNET_BATCHED = replace(SONNET, service={"batch": SONNET.scaled(Decimal("0.5"))})


@pytest.mark.parametrize(
    ("treatment", "stages", "expected"),
    [
        pytest.param(Treatment(), {"drop", "batch"}, "0.00645", id="nothing: 1000 x 3 + 500 x 0.3 + 220 x 15"),
        pytest.param(Treatment(dropped=True), {"drop"}, "0", id="never made"),
        pytest.param(Treatment(dropped=True), {"answer"}, "0.00645", id="a stage that is off does nothing"),
        pytest.param(Treatment(rates=CHEAP), {"route"}, "0.00194", id="the old cache is lost: 1500 x 1 + 220 x 2"),
        pytest.param(
            Treatment(rates=CHEAP, prefix=Prefix(cached_read=1000)),
            {"route", "prefix"},
            "0.00104",
            id="unless the new one has one: 500 x 1 + 1000 x 0.1 + 220 x 2",
        ),
        pytest.param(Treatment(less_input=600, less_output=20), {"trim"}, "0.0057", id="900 x 3 + 200 x 15"),
        pytest.param(Treatment(less_input=1200), {"trim"}, "0.0042", id="more than was cached: 300 x 3 + 220 x 15"),
        pytest.param(Treatment(less_input=9999), {"trim"}, "0.0033", id="more than there is: 220 x 15"),
        pytest.param(
            Treatment(prefix=Prefix(cached_read=1000, cached_write=400, cached_write_1h=100)),
            {"prefix"},
            "0.005625",
            id="100 x 3 + 1000 x 0.3 + 300 x 3.75 + 100 x 6 + 220 x 15",
        ),
        pytest.param(
            Treatment(less_input=300, prefix=Prefix(cached_read=1000, cached_write=400)),
            {"trim", "prefix"},
            "0.00531",
            id="the trimmed was read: 100 x 3 + 700 x 0.3 + 400 x 3.75 + 220 x 15",
        ),
        pytest.param(Treatment(batched=True), {"batch"}, "0.003225", id="half of it"),
        pytest.param(
            Treatment(rates=CHEAP, batched=True), {"route", "batch"}, "0.00194", id="no batch price: not batched"
        ),
    ],
)
def test_a_treated_call_costs_what_is_left_of_it(treatment, stages, expected):
    call = usage(fresh=1000, read=500, output=220)

    assert price(call, SONNET_BATCHED, treatment=treatment, stages=frozenset(stages)) == Decimal(expected)


def test_trimming_below_a_threshold_leaves_the_long_context_price():
    call, trimmed = usage(fresh=200_001), Treatment(less_input=1)

    assert price(call, SONNET) == Decimal("1.200006")
    assert price(call, SONNET, treatment=trimmed, stages=frozenset({"trim"})) == Decimal("0.6")


@pytest.mark.parametrize("change", [lambda: Treatment(less_input=-1), lambda: Prefix(cached_read=-1)])
def test_a_treatment_cannot_add_tokens(change):
    with pytest.raises(ImpossibleUsage, match="less than nothing"):
        change()
