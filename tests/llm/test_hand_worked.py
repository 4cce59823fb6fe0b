"""Calls worked out by hand, line by line, as their exports tell them: the arithmetic here is what a person can follow.

A line is (kind, tokens, dollars per 1,000,000 tokens, dollars). Each line is checked against itself and its rate
against the catalogue; then the call is priced in Python, and once more by importing it from a file, where its source's
own way to count cached tokens has to be understood first.
"""

import csv
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from apps.llm.catalogue import Catalogue, Override
from apps.llm.pricing import Provenance, Rates, Usage, price
from apps.optimization.calls import reading
from apps.optimization.conversion import Order, convert

NOW = datetime(2026, 11, 20, tzinfo=UTC)
DAY = "2026-11-15T12:00:00Z"
LINES_OF_USAGE = {
    "input": ("input_tokens",),
    "cached_read": ("input_tokens", "cached_read"),
    "cached_write": ("input_tokens", "cached_write"),
    "cached_write_1h": ("input_tokens", "cached_write", "cached_write_1h"),
    "output": ("output_tokens",),
    "reasoning": ("output_tokens", "reasoning"),
    "input_audio": ("input_tokens", "input_audio"),
    "cached_audio_read": ("input_tokens", "cached_read", "input_audio"),
    "output_audio": ("output_tokens", "output_audio"),
}


def own_price(model, dollars, start, end, source):
    midnight = [datetime.fromisoformat(f"{day}T00:00Z") for day in (start, end)]
    rates = Rates(
        input=Decimal(dollars),
        output=Decimal(dollars) * 4,
        provenance=Provenance(source=source),
        effective_from=midnight[0],
        effective_to=midnight[1],
    )
    return Override(model=model, rates=rates, own=True)


CATALOGUE = Catalogue(
    [own_price("gpt-4o-mini", "0.10", "2026-11-10", "2026-11-16", "contract of November")], today=NOW.date()
)


@dataclass(frozen=True, kw_only=True)
class Worked:
    """A call, as its source tells it, and what it costs."""

    what: str
    model: str
    told: dict  # the token columns of the source
    lines: tuple = ()
    total: str | None  # dollars; None: unknown
    provider: str = ""
    tier: str = "standard"
    above: int | None = None  # the long-context threshold that it exceeds
    at: str = DAY
    more: dict = field(default_factory=dict)  # other columns of the source


COUNTED_IN = [  # OpenAI, Google and most gateways: the prompt counts what was cached
    Worked(
        what="OpenAI counts cached tokens in the prompt",
        model="gpt-4o",
        told={"prompt_tokens": 100_000, "cached_tokens": 60_000, "completion_tokens": 8_000},
        lines=(
            ("input", 40_000, "2.50", "0.10"),
            ("cached_read", 60_000, "1.25", "0.075"),
            ("output", 8_000, "10.00", "0.08"),
        ),
        total="0.255",
    ),
    Worked(
        what="reasoning is part of the output and pays as output",
        model="o4-mini",
        told={"prompt_tokens": 10_000, "completion_tokens": 25_000, "reasoning_tokens": 20_000},
        lines=(
            ("input", 10_000, "1.10", "0.011"),
            ("output", 5_000, "4.40", "0.022"),
            ("reasoning", 20_000, "4.40", "0.088"),
        ),
        total="0.121",
    ),
    Worked(
        what="OpenAI's long context: one token above 272,000 and the whole call pays more, the output too",
        model="gpt-5.4",
        told={"prompt_tokens": 272_001, "cached_tokens": 200_000, "completion_tokens": 4_000},
        above=272_000,
        lines=(
            ("input", 72_001, "5.00", "0.360005"),
            ("cached_read", 200_000, "0.50", "0.10"),
            ("output", 4_000, "22.50", "0.09"),
        ),
        total="0.550005",
    ),
    Worked(
        what="at the threshold the long context has not begun",
        model="gpt-5.4",
        told={"prompt_tokens": 272_000, "cached_tokens": 200_000, "completion_tokens": 4_000},
        lines=(
            ("input", 72_000, "2.50", "0.18"),
            ("cached_read", 200_000, "0.25", "0.05"),
            ("output", 4_000, "15.00", "0.06"),
        ),
        total="0.29",
    ),
    Worked(
        what="batch is half of everything, also where the tier says default",
        model="gpt-4o",
        told={"prompt_tokens": 200_000, "completion_tokens": 10_000},
        tier="batch",
        more={"batch": "true", "service_tier": "default"},
        lines=(("input", 200_000, "1.25", "0.25"), ("output", 10_000, "5.00", "0.05")),
        total="0.30",
    ),
    Worked(
        what="a batch call that read from the cache pays the batch price of cached tokens",
        model="gpt-5",
        told={"prompt_tokens": 100_000, "cached_tokens": 80_000, "completion_tokens": 10_000},
        tier="batch",
        more={"batch": "true"},
        lines=(
            ("input", 20_000, "0.625", "0.0125"),
            ("cached_read", 80_000, "0.0625", "0.005"),
            ("output", 10_000, "5.00", "0.05"),
        ),
        total="0.0675",
    ),
    Worked(
        what="flex",
        model="o4-mini",
        told={"prompt_tokens": 60_000, "cached_tokens": 50_000, "completion_tokens": 10_000},
        tier="flex",
        more={"service_tier": "flex"},
        lines=(
            ("input", 10_000, "0.55", "0.0055"),
            ("cached_read", 50_000, "0.138", "0.0069"),
            ("output", 10_000, "2.20", "0.022"),
        ),
        total="0.0344",
    ),
    Worked(
        what="priority costs more",
        model="gpt-4o",
        told={"prompt_tokens": 50_000, "cached_tokens": 40_000, "completion_tokens": 2_000},
        tier="priority",
        more={"service_tier": "priority"},
        lines=(
            ("input", 10_000, "4.25", "0.0425"),
            ("cached_read", 40_000, "2.125", "0.085"),
            ("output", 2_000, "17.00", "0.034"),
        ),
        total="0.1615",
    ),
    Worked(
        what="a tier without a listed price is unknown, not standard",
        model="gpt-4o",
        told={"prompt_tokens": 1_000, "completion_tokens": 1_000},
        tier="scale",
        more={"service_tier": "scale"},
        total=None,
    ),
    Worked(
        what="Google's cached content",
        model="gemini-2.5-pro",
        provider="vertex_ai",
        told={"prompt_tokens": 180_000, "cached_tokens": 160_000, "completion_tokens": 5_000},
        lines=(
            ("input", 20_000, "1.25", "0.025"),
            ("cached_read", 160_000, "0.125", "0.02"),
            ("output", 5_000, "10.00", "0.05"),
        ),
        total="0.095",
    ),
    Worked(
        what="Google hears: sound has a rate of its own",
        model="gemini-2.5-flash",
        provider="gemini",
        told={"prompt_tokens": 50_000, "input_audio_tokens": 30_000, "completion_tokens": 4_000},
        lines=(
            ("input", 20_000, "0.30", "0.006"),
            ("input_audio", 30_000, "1.00", "0.03"),
            ("output", 4_000, "2.50", "0.01"),
        ),
        total="0.046",
    ),
    Worked(
        what="OpenAI hears and speaks",
        model="gpt-realtime",
        told={
            "prompt_tokens": 10_000,
            "input_audio_tokens": 8_000,
            "completion_tokens": 3_000,
            "output_audio_tokens": 2_500,
        },
        lines=(
            ("input", 2_000, "4.00", "0.008"),
            ("input_audio", 8_000, "32.00", "0.256"),
            ("output", 500, "16.00", "0.008"),
            ("output_audio", 2_500, "64.00", "0.16"),
        ),
        total="0.432",
    ),
    Worked(
        what="a gateway's name for a model on Azure",
        model="azure/gpt-4o-2024-08-06",
        provider="azure",
        told={"prompt_tokens": 20_000, "completion_tokens": 5_000},
        lines=(("input", 20_000, "2.50", "0.05"), ("output", 5_000, "10.00", "0.05")),
        total="0.10",
    ),
    Worked(
        what="the day before an own price begins the list holds",
        model="gpt-4o-mini",
        at="2026-11-09T23:59:59Z",
        told={"prompt_tokens": 100_000, "completion_tokens": 10_000},
        lines=(("input", 100_000, "0.15", "0.015"), ("output", 10_000, "0.60", "0.006")),
        total="0.021",
    ),
    Worked(
        what="from its first moment the own price holds",
        model="gpt-4o-mini",
        at="2026-11-10T00:00:00Z",
        told={"prompt_tokens": 100_000, "completion_tokens": 10_000},
        lines=(("input", 100_000, "0.10", "0.01"), ("output", 10_000, "0.40", "0.004")),
        total="0.014",
    ),
    Worked(
        what="until its last",
        model="gpt-4o-mini",
        at="2026-11-15T23:59:59Z",
        told={"prompt_tokens": 100_000, "completion_tokens": 10_000},
        lines=(("input", 100_000, "0.10", "0.01"), ("output", 10_000, "0.40", "0.004")),
        total="0.014",
    ),
    Worked(
        what="then the list holds again",
        model="gpt-4o-mini",
        at="2026-11-16T00:00:00Z",
        told={"prompt_tokens": 100_000, "completion_tokens": 10_000},
        lines=(("input", 100_000, "0.15", "0.015"), ("output", 10_000, "0.60", "0.006")),
        total="0.021",
    ),
    Worked(
        what="a fee for the call itself",
        model="perplexity/sonar",
        told={"prompt_tokens": 1_000, "completion_tokens": 2_000},
        lines=(("fee", 1, None, "0.012"), ("input", 1_000, "1.00", "0.001"), ("output", 2_000, "1.00", "0.002")),
        total="0.015",
    ),
    Worked(
        what="a model that nobody lists",
        model="llama-in-the-cellar",
        told={"prompt_tokens": 1_000, "completion_tokens": 1_000},
        total=None,
    ),
]
COUNTED_OUT = [  # Anthropic: input tokens are those that were neither read nor written
    Worked(
        what="Anthropic counts cached tokens apart; ten of these cost 2.1075",
        model="claude-sonnet-4-5",
        told={
            "input_tokens": 5_000,
            "cache_creation_input_tokens": 5_000,
            "cache_read_input_tokens": 90_000,
            "output_tokens": 10_000,
        },
        lines=(
            ("input", 5_000, "3.00", "0.015"),
            ("cached_write", 5_000, "3.75", "0.01875"),
            ("cached_read", 90_000, "0.30", "0.027"),
            ("output", 10_000, "15.00", "0.15"),
        ),
        total="0.21075",
    ),
    Worked(
        what="Anthropic's long context: 20,000 + 190,000 is above 200,000, cached or not",
        model="claude-sonnet-4-5",
        told={"input_tokens": 20_000, "cache_read_input_tokens": 190_000, "output_tokens": 2_000},
        above=200_000,
        lines=(
            ("input", 20_000, "6.00", "0.12"),
            ("cached_read", 190_000, "0.60", "0.114"),
            ("output", 2_000, "22.50", "0.045"),
        ),
        total="0.279",
    ),
    Worked(
        what="written for five minutes and for an hour",
        model="claude-opus-4-5",
        told={
            "input_tokens": 2_000,
            "cache_creation_input_tokens": 40_000,
            "ephemeral_1h_input_tokens": 30_000,
            "output_tokens": 1_000,
        },
        lines=(
            ("input", 2_000, "5.00", "0.01"),
            ("cached_write", 10_000, "6.25", "0.0625"),
            ("cached_write_1h", 30_000, "10.00", "0.30"),
            ("output", 1_000, "25.00", "0.025"),
        ),
        total="0.3975",
    ),
    Worked(
        what="Anthropic's batch halves reads and writes too",
        model="claude-sonnet-4-5",
        told={
            "input_tokens": 10_000,
            "cache_creation_input_tokens": 20_000,
            "ephemeral_1h_input_tokens": 20_000,
            "cache_read_input_tokens": 100_000,
            "output_tokens": 4_000,
        },
        tier="batch",
        more={"service_tier": "batch"},
        lines=(
            ("input", 10_000, "1.50", "0.015"),
            ("cached_write_1h", 20_000, "3.00", "0.06"),
            ("cached_read", 100_000, "0.15", "0.015"),
            ("output", 4_000, "7.50", "0.03"),
        ),
        total="0.12",
    ),
    Worked(
        what="Claude on Bedrock, in a region, costs a tenth more",
        model="us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        provider="bedrock",
        told={"input_tokens": 10_000, "cache_read_input_tokens": 100_000, "output_tokens": 2_000},
        lines=(
            ("input", 10_000, "3.30", "0.033"),
            ("cached_read", 100_000, "0.33", "0.033"),
            ("output", 2_000, "16.50", "0.033"),
        ),
        total="0.099",
    ),
]
UNBILLED = [
    Worked(
        what="the gateway's own cache answered",
        model="gpt-4o",
        told={"prompt_tokens": 100_000, "completion_tokens": 8_000},
        more={"cached_answer": "true"},
        total="0",
    ),
    Worked(
        what="it failed, and nobody recorded a cost",
        model="gpt-4o",
        told={"prompt_tokens": 100_000, "completion_tokens": 0},
        more={"status": "failed"},
        total="0",
    ),
]
PRICED = [worked for worked in (*COUNTED_IN, *COUNTED_OUT) if worked.lines]


def named(cases):
    return [pytest.param(worked, id=worked.what) for worked in cases]


def usage(worked):
    counts = dict.fromkeys(("input_tokens", "output_tokens"), 0)
    for kind, tokens, *_ in worked.lines:
        for name in LINES_OF_USAGE.get(kind, ()):
            counts[name] = counts.get(name, 0) + tokens
    return Usage(**counts)


def listed(worked):
    return CATALOGUE.rates(model=worked.model, provider=worked.provider, at=datetime.fromisoformat(worked.at))


@pytest.mark.parametrize("worked", named(PRICED))
def test_the_rates_are_those_of_the_list(worked):
    rates = listed(worked).at_tier(worked.tier)
    step = next((tier for tier in rates.tiers if tier.above == worked.above), rates)

    assert worked.above in (None, getattr(step, "above", None))
    for kind, _, rate, amount in worked.lines:
        assert (rates.fee == Decimal(amount)) if kind == "fee" else (step.rate(kind) == Decimal(rate))


@pytest.mark.parametrize("worked", named(PRICED))
def test_the_call_costs_what_was_worked_out(worked):
    by_line = [
        Decimal(amount) if rate is None else tokens * Decimal(rate) / 1_000_000
        for _, tokens, rate, amount in worked.lines
    ]

    assert by_line == [Decimal(amount) for *_, amount in worked.lines]
    assert price(usage(worked), listed(worked), tier=worked.tier) == sum(by_line) == Decimal(worked.total)


def test_ten_calls_are_not_priced_as_their_sum():
    [call] = [worked for worked in COUNTED_OUT if "2.1075" in worked.what]
    ten = Usage(input_tokens=1_000_000, cached_write=50_000, cached_read=900_000, output_tokens=100_000)

    assert 10 * price(usage(call), listed(call)) == Decimal("2.1075")
    # 50,000 x 6 + 50,000 x 7.5 + 900,000 x 0.6 + 100,000 x 22.5: what a tool says that prices sums.
    assert price(ten, listed(call)) == Decimal("3.465")


@pytest.mark.parametrize("cases", [[*COUNTED_IN, *UNBILLED], COUNTED_OUT], ids=["counted in", "counted out"])
def test_an_imported_call_costs_what_was_worked_out(cases, tmp_path):
    rows = [
        {"timestamp": worked.at, "model": worked.model, "provider": worked.provider} | worked.told | worked.more
        for worked in cases
    ]
    path, target = tmp_path / "calls.csv", tmp_path / "calls.parquet"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)

    convert(Order(source=path, target=target, catalogue=CATALOGUE, now=NOW, memory_mib=256))

    with reading(files=[target], catalogue=CATALOGUE, memory_mib=256) as calls:
        found = calls.rows("SELECT cost_pico FROM calls ORDER BY line")
    assert {worked.what: cost for worked, (cost,) in zip(cases, found, strict=True)} == {
        worked.what: None if worked.total is None else int(Decimal(worked.total) * 10**12) for worked in cases
    }
