"""A bill beside calls: what differs has a name and an amount, and the amounts always add up."""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.llm.amounts import spell_dollars
from apps.optimization.bills import Sum
from apps.optimization.reconciliation import CannotReconcile, Captured, canonical, compared

FIRST = date(2026, 10, 1)
DAYS = [FIRST + timedelta(days=number) for number in range(5)]


def taken(day=FIRST, usd="10", model="gpt-4o", tokens=1000, unpriced=0):
    return Captured(day=day, model=model, calls=10, tokens=tokens, usd=Decimal(usd), unpriced=unpriced)


def charged(day=FIRST, amount="10", model="gpt-4o-2024-08-06", charge="input", tokens=None, currency="USD"):
    money = None if amount is None else Decimal(amount)
    return Sum(day=day, model=model, charge=charge, currency=currency, tokens=tokens, amount=money, rows=1)


def causes(found):
    return {each.cause: each.amount for each in found.differences}


def test_a_log_that_costs_what_was_billed_has_no_difference():
    found = compared([taken(day) for day in DAYS], [charged(day) for day in DAYS])

    assert (found.billed, found.captured, found.rate, found.differences) == (50, 50, 1.0, ())
    assert [(row.key, row.rate) for row in found.by_model] == [("gpt-4o", 1.0)]
    assert [row.key for row in found.by_day] == [str(day) for day in DAYS]


def test_charges_that_are_no_tokens_are_named_each():
    found = compared(
        [taken()], [charged(), charged(charge="web_search", amount="3"), charged(charge="tax", amount="2")]
    )

    assert [(each.cause, each.amount) for each in found.differences] == [("not_tokens", 2), ("not_tokens", 3)]
    assert "web searches" in found.differences[1].sentence
    assert found.rate == 1.0


def test_days_that_the_log_does_not_reach_are_named():
    found = compared([taken()], [charged(), charged(DAYS[3], "7")])

    assert causes(found) == {"outside_days": 7}
    assert "2026-10-01" in found.differences[0].sentence


def test_a_day_inside_the_log_without_calls_is_not_outside_of_it():
    found = compared(
        [taken(DAYS[0]), taken(DAYS[4])],
        [charged(DAYS[0]), charged(DAYS[2], "4"), charged(DAYS[4])],
    )

    assert causes(found) == {"unexplained": 4}


def test_models_that_only_one_side_names_are_named():
    found = compared([taken(), taken(model="mine")], [charged(), charged(model="o3", amount="6")])

    assert causes(found) == {"unknown_models": 6, "models_not_billed": -10}


def test_a_bill_without_models_is_compared_by_day():
    found = compared([taken(model="a", usd="4"), taken(model="b", usd="6")], [charged(model=None, charge="tokens")])

    assert (found.differences, found.rate) == ((), 1.0)


def test_calls_without_a_price_are_named_with_their_number():
    found = compared([taken(usd="0", unpriced=10)], [charged()])

    assert causes(found) == {"unpriced_calls": 10}
    assert "10 calls have no known price" in found.differences[0].sentence


def test_a_constant_share_of_every_day_is_a_sampled_log():
    bill = [charged(day, str(10 + number)) for number, day in enumerate(DAYS)]
    calls = [taken(day, str(Decimal(10 + number) / 10)) for number, day in enumerate(DAYS)]

    found = compared(calls, bill)

    assert causes(found) == {"sampling": found.billed - found.captured}
    assert "about 10%" in found.differences[0].sentence


def test_equal_tokens_at_another_constant_price_are_other_rates():
    found = compared([taken(day) for day in DAYS], [charged(day, "5", tokens=1000) for day in DAYS])

    assert causes(found) == {"rates": -25}
    assert "0.50 times" in found.differences[0].sentence


@pytest.mark.parametrize(("factor", "candidate"), [("0.9", "negotiated discount"), ("1.03", "surcharge")])
def test_the_same_factor_on_every_day_of_a_bill_without_tokens_is_told_with_its_evidence(factor, candidate):
    costs = [Decimal(10 + number) for number in range(5)]
    logged = [taken(day, usd, model) for day, usd in zip(DAYS, costs, strict=True) for model in ("gpt-4o", "o3")]
    bill = [charged(each.day, each.usd * Decimal(factor), each.model) for each in logged]

    found = compared(logged, bill)

    assert causes(found) == {"rates": 120 * (Decimal(factor) - 1)}
    ratio = f"{Decimal(factor):.3f}"
    assert f"{ratio} times what the calls cost ({ratio} to {ratio} over 5 days" in found.differences[0].sentence
    assert "alike for 2 models" in found.differences[0].sentence
    assert candidate in found.differences[0].sentence


def test_a_discount_on_one_model_is_told_of_that_model_only():
    logged = [taken(day, usd, model) for day in DAYS for model, usd in (("gpt-4o", "10"), ("o3", "20"))]
    bill = [charged(each.day, "8" if each.model == "gpt-4o" else "20", each.model) for each in logged]

    (difference,) = compared(logged, bill).differences

    assert (difference.cause, difference.amount) == ("rates", -10)
    assert difference.sentence.startswith("gpt-4o: every day was billed at 0.800")


def test_a_ratio_that_changes_from_day_to_day_is_no_discount():
    bill = [charged(day, amount) for day, amount in zip(DAYS, ["9", "9", "8.5", "9", "9"], strict=True)]

    assert causes(compared([taken(day) for day in DAYS], bill)) == {"unexplained": Decimal("-5.5")}
    assert causes(compared([taken(day) for day in DAYS[:2]], bill[:2])) == {"unexplained": -2}


def test_a_discount_is_told_where_the_log_begins_and_ends_in_the_middle_of_a_day():
    costs = ["4", "10", "12", "10", "7"]  # of ten on the first and on the last day, the log has a part

    found = compared(
        [taken(day, usd) for day, usd in zip(DAYS, costs, strict=True)],
        [charged(day, usd) for day, usd in zip(DAYS, ["9", "9", "10.8", "9", "9"], strict=True)],
    )

    assert causes(found)["rates"] == Decimal("-3.2")
    said = next(each.sentence for each in found.differences if each.cause == "rates")
    assert said.startswith("Every day but the first and the last was billed at 0.900 times")
    assert sum(each.amount for each in found.differences) == found.billed - found.captured


def test_days_that_shift_while_their_sum_agrees_are_a_time_zone():
    found = compared(
        [taken(day, usd) for day, usd in zip(DAYS, ["10", "20", "30", "20", "10"], strict=True)],
        [charged(day, usd) for day, usd in zip(DAYS, ["5", "15", "30", "25", "15"], strict=True)],
    )

    assert causes(found) == {"time_zone": 0}
    assert spell_dollars(10) in found.differences[0].sentence


def test_a_tenth_of_a_percent_is_rounding():
    assert causes(compared([taken(usd="9.995")], [charged()])) == {"rounding": Decimal("0.005")}


def test_what_a_bill_is_known_to_lack_is_the_first_difference_and_may_be_why_less_was_billed():
    logged = [taken(DAYS[0], "30"), taken(DAYS[1], "30"), taken(DAYS[1], "30", "o3")]

    found = compared(logged, [charged(DAYS[0])], lacks=("2 rows could not be read",))

    assert [each.cause for each in found.differences] == [
        "incomplete_bill",
        "days_not_billed",
        "unexplained",
    ]
    assert found.differences[0].sentence.startswith("Incomplete bill: 2 rows could not be read.")
    assert all("the bill is incomplete, which may be why" in each.sentence for each in found.differences[1:])
    assert sum(each.amount for each in found.differences) == found.billed - found.captured


def test_what_a_bill_lacks_does_not_explain_why_more_was_billed():
    found = compared([taken()], [charged(amount="20")], lacks=("its last page says that there are more",))

    assert causes(found) == {"incomplete_bill": 0, "unexplained": 10}
    assert "nothing in the data says why" in found.differences[1].sentence


def test_a_usage_report_is_compared_in_tokens():
    found = compared([taken(tokens=900)], [charged(amount=None, tokens=1000)])

    assert (found.unit, found.billed, found.captured, found.rate) == ("tokens", 1000, 900, 0.9)
    assert causes(found) == {"unexplained": 100}
    assert "100 tokens" in found.differences[0].sentence


def test_other_currencies_are_said_and_never_added():
    found = compared([taken()], [charged(), charged(amount="99", currency="EUR")])

    assert (found.billed, found.other_currencies) == (10, {"EUR": 99})
    assert any("99 EUR" in sentence for sentence in found.assumptions)


def test_calls_without_any_time_cannot_be_compared():
    with pytest.raises(CannotReconcile):
        compared([taken(None)], [charged()])


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("openai/gpt-4o-2024-08-06", "gpt-4o"),
        ("openai::gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("Claude Sonnet 4.5", "claude-sonnet-4-5"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku"),
        ("gpt-4.1", "gpt-4-1"),
        ("", None),
    ],
)
def test_models_are_known_by_any_of_their_names(name, means):
    assert canonical(name) == means


some_days = st.sampled_from(DAYS)
some_models = st.sampled_from(["a", "b", "c", None])
money = st.decimals(min_value=0, max_value=1000, places=6)


@given(
    st.lists(
        st.builds(taken, st.one_of(some_days, st.none()), money, some_models, st.integers(0, 9), st.integers(0, 2))
    ),
    st.lists(
        st.builds(
            charged,
            some_days,
            st.one_of(money, st.none()),
            some_models,
            st.sampled_from(["input", "output", "tokens", "tax", "credit", "other"]),
            st.one_of(st.none(), st.integers(0, 9)),
            st.sampled_from(["USD", "EUR"]),
        )
    ),
)
def test_what_was_billed_is_what_was_captured_and_all_differences(calls, bill):
    if not any(each.day for each in calls):
        calls = [*calls, taken()]

    found = compared(calls, bill)

    assert found.billed == found.captured + sum(each.amount for each in found.differences)
