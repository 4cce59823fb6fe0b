"""Rates come from the public catalogue, unless the house knows better; an unknown model has none."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product

import pytest

from apps.llm import catalogue as catalogue_module
from apps.llm.catalogue import LIST_VERSION, LISTED, Catalogue, Override
from apps.llm.pricing import Rates, Usage, price

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def rates(model, provider="", at=NOW):
    return Catalogue().rates(model=model, provider=provider, at=at)


def override(cost, start=None, end=None, **more):
    price = Rates(input=Decimal(cost), output=Decimal(1), effective_from=start, effective_to=end)
    return Override(model=more.pop("model", "gpt-4o"), rates=price, **more)


def test_gpt_4o_costs_what_its_list_says():
    known = rates("gpt-4o")

    assert (known.input, known.cached_read, known.output) == (Decimal("2.5"), Decimal("1.25"), Decimal(10))
    assert (known.service["batch"].input, known.service["batch"].output) == (Decimal("1.25"), Decimal(5))
    assert known.provenance.source == "genai-prices"
    assert known.provenance.entry == "openai/gpt-4o"


def test_a_long_context_tier_is_read_from_the_catalogue():
    call = Usage(input_tokens=100_000, cached_read=90_000, cached_write=5_000, output_tokens=10_000)
    summed = Usage(input_tokens=1_000_000, cached_read=900_000, cached_write=50_000, output_tokens=100_000)

    assert price(call, rates("claude-sonnet-4-5")) * 10 == Decimal("2.1075")
    assert price(summed, rates("claude-sonnet-4-5")) == Decimal("3.465")


@pytest.mark.parametrize("model", ["", "a-model-of-our-own", "llama-in-the-cellar", "ghost/gpt", "🦙"])
def test_an_unknown_model_has_no_rates(model):
    assert rates(model) is None


def test_a_provider_that_is_not_known_is_not_priced_as_somebody_else():
    assert rates("gpt-4o", provider="hosted_vllm") is None


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("openai/gpt-4o", ""),
        ("azure/gpt-4o", ""),
        ("gpt-4o", "azure"),
        ("azure/gpt-4o", "azure"),
        ("gpt-4o-2024-08-06", "openai"),
        ("openai/gpt-4o", "openai"),
        ("openai::gpt-4o", ""),
        ("openai::gpt-4o", "openai"),
        ("openai::responses::gpt-4o", "openai"),
        ("azure::gpt-4o", ""),
    ],
)
def test_a_gateways_spelling_of_a_model_finds_the_same_price(model, provider):
    assert rates(model, provider).input == Decimal("2.5")


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("bedrock/anthropic.claude-3-5-sonnet-20241022-v2:0", ""),
        ("bedrock/us-east-1/anthropic.claude-3-5-sonnet-20241022-v2:0", "bedrock"),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", "bedrock"),
    ],
)
def test_bedrocks_spellings_find_bedrocks_price(model, provider):
    found = rates(model, provider)

    assert found.provenance.entry.startswith("aws/")
    assert found.input == Decimal(3)


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("models/gemini-2.5-flash", ""),
        ("models/gemini-2.5-flash", "google"),
        ("models/gemini-2.5-flash", "gcp.gen_ai"),
        ("gemini/models/gemini-2.5-flash", ""),
        ("publishers/google/models/gemini-2.5-flash", "vertex_ai"),
        ("projects/p/locations/us-central1/publishers/google/models/gemini-2.5-flash", ""),
        ("gcp_vertex_gemini::projects/p/locations/global/publishers/google/models/gemini-2.5-flash", ""),
        ("google_ai_studio_gemini::gemini-2.5-flash", "google_ai_studio_gemini"),
    ],
)
def test_googles_spellings_find_googles_price(model, provider):
    assert rates(model, provider).provenance.entry == "google/gemini-2.5-flash"


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("vllm::gpt-4o", ""),
        ("openai::gpt-4o", "hosted_vllm"),
        ("models/gemini-2.5-flash", "hosted_vllm"),
        ("models/gpt-4o", ""),
    ],
)
def test_a_spelling_that_names_a_provider_is_not_priced_as_somebody_else(model, provider):
    assert rates(model, provider) is None


def test_a_lent_models_batch_price_is_not_assumed():
    assert rates("gpt-4o", "azure").service == {}


def test_an_own_price_holds_between_its_dates_only():
    catalogue = Catalogue([override(7, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))])

    prices = [
        catalogue.rates(model="GPT-4o", provider="openai", at=datetime(2026, month, 1, tzinfo=UTC)).input
        for month in (1, 5, 6)
    ]

    assert prices == [Decimal(7), Decimal(7), Decimal("2.5")]


def test_the_organizations_own_price_wins_over_the_houses_and_a_named_provider_over_any():
    house, own = override(7, provider="openai"), override(8, own=True)
    exact = override(9, own=True, provider="openai")

    assert Catalogue([house, own]).rates(model="gpt-4o", provider="openai", at=NOW).input == 8
    assert Catalogue([exact, own]).rates(model="gpt-4o", provider="openai", at=NOW).input == 9
    assert Catalogue([exact, own]).rates(model="gpt-4o", provider="azure", at=NOW).input == 8


def test_a_price_for_an_unknown_model_makes_it_known():
    assert Catalogue([override(3, model="llama-in-the-cellar")]).rates(model="llama-in-the-cellar", at=NOW).input == 3


def test_a_price_by_time_of_day_is_recognised():
    at_night, at_day = datetime(2025, 6, 1, 20, tzinfo=UTC), datetime(2025, 6, 1, 12, tzinfo=UTC)
    catalogue = Catalogue()

    assert catalogue.priced_by_time_of_day(model="deepseek-chat", provider="deepseek")
    assert not catalogue.priced_by_time_of_day(model="gpt-4o")
    assert rates("deepseek-chat", "deepseek", at_night) is not None
    assert rates("deepseek-chat", "deepseek", at_day) is not None


def test_every_listed_model_has_usable_rates():
    entries = list(Catalogue([override(1, model="ours")]).entries(at=NOW))

    assert entries[0].model == "ours"
    assert len(entries) > 1000
    assert all(entry.rates.bands() for entry in entries)


def test_a_batch_price_that_was_listed_later_holds_before_if_the_standard_price_was_the_same():
    before = rates("gpt-4o", at=datetime(2026, 1, 5, tzinfo=UTC))

    assert before.service["batch"].input * 2 == before.input
    assert "first listed on 2026-10-14" in str(before.service["batch"].provenance)


def test_a_batch_price_that_is_only_announced_is_not_known_yet():
    early = Catalogue(today=date(2026, 10, 1))

    assert early.rates(model="gpt-4o", at=datetime(2026, 1, 5, tzinfo=UTC)).service == {}


def test_the_day_of_the_bundled_list_is_written_down():
    assert LIST_VERSION in LISTED, "The list changed: write down the newest change in it that is no announcement."


@pytest.mark.parametrize(
    ("model", "at", "assumed", "starts", "ends"),
    [
        pytest.param("gpt-4o", date(2024, 6, 1), True, None, None, id="the list names no start: today's price"),
        pytest.param("gpt-4o", date(2026, 11, 20), False, None, None, id="of the days of the list it is known"),
        pytest.param("mistral-large-4", date(2026, 10, 1), True, None, date(2026, 10, 20), id="before the first start"),
        pytest.param(
            "mistral-large-4", date(2026, 10, 20), False, date(2026, 10, 20), date(2026, 10, 29), id="from it"
        ),
        pytest.param("gemini-4-argon", date(2026, 11, 20), False, None, date(2026, 12, 1), id="a change is announced"),
    ],
)
def test_a_price_says_whether_the_list_knows_it_for_that_day(model, at, assumed, starts, ends):
    known = rates(model, at=datetime(at.year, at.month, at.day, 12, tzinfo=UTC))

    days = [moment and moment.date() for moment in (known.effective_from, known.effective_to)]
    assert (known.provenance.assumed, *days) == (assumed, starts, ends)
    assert ("assumed" in str(known.provenance)) is assumed


def test_the_version_of_a_catalogue_changes_with_each_own_price():
    versions = {
        Catalogue(own).version for own in ([], [override(3)], [override(4)], [override(3), override(4, own=True)])
    }

    assert len(versions) == 4


def test_a_price_is_looked_up_once(monkeypatch):
    asked = []
    monkeypatch.setattr(Catalogue, "_look_up", lambda *key: asked.append(key))
    catalogue = Catalogue()

    for _ in range(3):
        assert catalogue.rates(model="gpt-4o", at=NOW) is None
    assert len(asked) == 1


def test_rates_of_one_span_of_days_are_those_of_each_of_its_days():
    today, wrong = date(2026, 11, 20), []
    days = [datetime(2024, 6, 1, 12, tzinfo=UTC)] + [
        datetime(2026, 10, 8, 3, tzinfo=UTC) + timedelta(n) for n in range(60)
    ]
    dated = (
        "mistral-large-4",
        "gemini-4-argon",
        "gpt-4o",
        "deepseek-chat",
        "o4-mini",
        "gemini-3.8-flash-tts",
        "grok-4.3",
    )

    for model, day in product(dated, days):
        found = catalogue_module._find(model, "")
        if Catalogue(today=today).rates(model=model, at=day) != catalogue_module._rates(found, day, today):
            wrong.append((model, day))

    assert wrong == []
