"""One arithmetic prices a call, in Python and in SQL."""

from decimal import Decimal

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.llm.pricing import (
    MAX_RATE,
    MAX_TOKENS,
    BatchPriceUnknown,
    ImpossibleRate,
    ImpossibleUsage,
    Rates,
    Tier,
    Usage,
    band_sql,
    cost_pico,
    cost_sql,
    dollars,
    price,
)

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
    assert rates.fallbacks == ("cached_read", "cached_write", "cached_write_1h")


def test_a_batch_call_pays_the_batch_rates_and_an_unknown_batch_price_is_not_guessed():
    known = Rates(input=Decimal(2), output=Decimal(4), batch=Rates(input=Decimal(1), output=Decimal(2)))

    assert price(usage(fresh=1000, output=1000), known, batch=True) == Decimal("0.003")
    with pytest.raises(BatchPriceUnknown, match="No batch price"):
        price(usage(fresh=1), GPT_4O, batch=True)


def test_scaling_halves_every_rate_and_every_tier():
    call = usage(fresh=150_000, read=60_000, write=10_000, output=500)

    assert price(call, SONNET.scaled(Decimal("0.5"))) * 2 == price(call, SONNET)


@pytest.mark.parametrize("rate", ["-1", "NaN", "Infinity", "10000.01"])
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
}
tiers = st.lists(st.integers(0, 400_000), max_size=3, unique=True).flatmap(
    lambda starts: st.tuples(*(st.builds(Tier, above=st.just(start), **step) for start in starts))
)
all_rates = st.builds(Rates, tiers=tiers, **step)


@st.composite
def calls(draw):
    size = draw(st.integers(0, 1_000_000) | st.integers(0, MAX_TOKENS))
    read = draw(st.integers(0, size))
    write = draw(st.integers(0, size - read))
    return Usage(
        input_tokens=size,
        cached_read=read,
        cached_write=write,
        cached_write_1h=draw(st.integers(0, write)),
        output_tokens=draw(st.integers(0, MAX_TOKENS)),
    )


@given(call=calls(), rates=all_rates)
@settings(deadline=None)
def test_sql_and_python_agree_to_the_last_pico_dollar(call, rates):
    bands = ", ".join(
        f"({b.above}, {b.up_to}, {b.input}, {b.cached_read}, {b.cached_write}, {b.cached_write_1h}, {b.output})"
        for b in rates.bands()
    )
    columns = "above, up_to, input, cached_read, cached_write, cached_write_1h, output"
    query = f"""
        WITH c AS (SELECT ?::BIGINT input_tokens, ?::BIGINT cached_read_tokens, ?::BIGINT cached_write_tokens,
                          ?::BIGINT cached_write_1h_tokens, ?::BIGINT output_tokens),
             b AS (SELECT COLUMNS(*)::BIGINT FROM (VALUES {bands}) AS t({columns}))
        SELECT {cost_sql("c", "b")} FROM c JOIN b ON {band_sql("c", "b")}
    """
    counts = [call.input_tokens, call.cached_read, call.cached_write, call.cached_write_1h, call.output_tokens]

    assert duckdb.execute(query, counts).fetchall() == [(cost_pico(call, rates),)]


@given(call=calls(), rates=all_rates)
@settings(deadline=None)
def test_dollars_and_pico_dollars_are_the_same_money(call, rates):
    assert price(call, rates) * 10**12 == cost_pico(call, rates)
