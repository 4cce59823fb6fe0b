"""What analyses answer. Dollars are exact decimals, strings in JSON; None is "not computed", never zero."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from apps.llm.pricing import Provenance, dollars

Dollars = Annotated[Decimal, PlainSerializer(lambda value: format(value, "f"), return_type=str, when_used="json")]


def in_dollars(pico: int | Decimal | None) -> Decimal | None:
    """Pico-dollars as dollars; None stays None."""
    return None if pico is None else dollars(int(pico))


def usd(pico: int | Decimal | None) -> str | None:
    """Pico-dollars as dollars in a decimal string; None stays None.

    >>> usd(2_107_500_000_000), usd(None)
    ('2.1075', None)
    """
    return None if pico is None else format(dollars(int(pico)), "f")


def share(part: int | None, whole: int | None) -> float:
    """`part` of `whole`, 0-1 in steps of a millionth; 0 of nothing."""
    return round(int(part or 0) / int(whole), 6) if whole else 0.0


def part_of(cost: int | None, total: int | None) -> float | None:
    """A cost's share of the spend, 0-1; None where either is unknown."""
    return None if cost is None or total is None else share(cost, total)


# E0: a ceiling from list prices. E1: what is known of such workloads elsewhere. E2: replayed or repriced on the owner's
# own calls, with nothing assumed that they do not show. E3: run beside production. E4: a controlled comparison.
Evidence = Literal["E0", "E1", "E2", "E3", "E4"]
State = Literal["insufficient", "minimal", "sufficient", "optimal"]
Dimension = Literal["model", "feature", "user", "day", "hour"]


class Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tokens(Result):
    """Tokens of billed calls. `input` is all input, cached included."""

    input: int
    output: int
    cached_read: int
    cached_write: int


class Overview(Result):
    """The bill as a whole."""

    calls: int  # every imported call
    billed_calls: int  # without failures and answers from the caller's own cache
    failed_calls: int
    cached_answers: int  # answered by the caller's own response cache, so the provider never saw them
    tokens: Tokens
    cost_usd: Dollars | None  # the priced part; None where no call has a known price
    unpriced_calls: int
    unpriced_share: float  # share of the billed tokens whose price is unknown, 0-1
    unpriced_models: tuple[str, ...]  # at most 20, the largest first
    assumed_share: float | None  # of the spend, 0-1: the list does not say that its price held on the day of the call
    recorded_cost_usd: Dollars | None  # what the source says it cost; None where it says nothing
    recorded_on: int  # billed, priced calls that carry a recorded cost
    computed_on_recorded_usd: Dollars | None  # the computed cost of the calls with a recorded cost
    first_call_at: datetime | None
    last_call_at: datetime | None
    models: tuple[str, ...]  # at most 50, the dearest first
    coverage: dict[str, float]  # field -> share of spend (of calls where nothing is priced) that carries it, 0-1
    assumptions: tuple[str, ...]


class BreakdownRow(Result):
    key: str | None  # None: the calls that do not say
    calls: int
    tokens: Tokens
    cost_usd: Dollars | None  # of the priced calls; None where none has a known price
    share: float | None  # of the priced spend, 0-1; None like `cost_usd`
    unpriced_calls: int


class Breakdown(Result):
    """Spend by one dimension; days and hours in their order, everything else the dearest first."""

    by: Dimension
    rows: tuple[BreakdownRow, ...]
    other_rows: int  # groups beyond the limit
    total_usd: Dollars | None  # of the priced calls; None where none has a known price
    covered_share: float | None  # share of the priced spend whose calls carry the dimension, 0-1; None like `total_usd`
    time_zone: str = "UTC"  # of days and hours


class Parts(Result):
    """What a score is made of, each 0-1."""

    coverage: float  # share of spend whose calls carry every field that the analysis needs
    history: float  # of four weeks
    volume: float  # of a hundred sessions of equal size
    reconciliation: float | None  # how much of the bill is explained; None where there is nothing to compare with


class Lack(Result):
    """What a field would bring that calls lack."""

    field: str
    points: int  # of the score, if every call carried it
    at_most_usd: Dollars | None  # the spend of the calls that lack it: no saving on them can be larger


class PriceInUse(Result):
    """One model in one service tier, and what its calls pay."""

    model: str
    provider: str  # "" where the source does not say
    tier: str
    calls: int
    cost_usd: Dollars | None  # None where no price is known
    share: float | None  # of the priced spend, 0-1
    assumed_share: float | None  # of the cost: priced at a list that does not say that it held on the day of the call
    last_day: datetime  # whose rates these are: the last on which it was called
    rates: dict[str, str]  # kind of tokens -> dollars per 1,000,000 tokens
    provenance: Provenance | None  # None where no price is known
    price_source: str | None  # the same in a sentence, as the calls keep it
    effective_from: datetime | None  # None where the source does not say
    effective_to: datetime | None  # from then on another price holds


class PricesInUse(Result):
    """What the calls of a dataset pay, the dearest use first."""

    catalogue: str  # name and version
    assumed_share: float | None  # of the priced spend, 0-1
    prices: tuple[PriceInUse, ...]


class Sufficiency(Result):
    """How far the data carries one analysis."""

    # 0-100: of `parts`; 0 where less than 40 % of the spend carries what the analysis needs, or it needs more days.
    score: int
    state: State
    missing: tuple[str, ...]  # fields that over 5 % of spend lacks, the worst first
    coverage: dict[str, float]  # needed field -> share of spend that carries it, 0-1
    parts: Parts
    lacks: tuple[Lack, ...]  # of the missing fields, in their order
    sampled: str | None  # why the log is taken for a sample, where that matters


class Assessment(Result):
    """How far the data carries every analysis, and all of them (`overall`)."""

    sufficiency: dict[str, Sufficiency]


class Times(Result):
    """Seconds until an answer is complete, at two percentiles, and until its first token; None where unknown."""

    p50: float | None
    p95: float | None
    ttft: float | None  # the median


class Latency(Result):
    """Times of the calls that were answered, as they are and as they would have been."""

    before: Times
    after: Times


class Strategy(Result):
    """What one way to save would have saved on these calls."""

    name: str
    title: str
    saving_usd: Dollars | None  # None: cannot be computed, see `missing` and `why`
    low: Dollars | None = None  # interval; None: not computed
    high: Dollars | None = None
    evidence: Evidence
    up_to: bool  # a ceiling, not an expectation
    assumptions: tuple[str, ...] = ()
    latency_effect: str
    latency: Latency | None = None  # None: not computed
    missing: tuple[str, ...] = ()  # fields without which it cannot be computed
    why: str | None = None  # why it cannot be computed, is only a ceiling, or leaves calls without a price out
    detail: dict[str, Any] = {}


class IfAllowed(Result):
    """What a way to save would save more under a rule that no log can allow, only the owner of the calls."""

    needs: str  # what has to hold, after "if": "answers may be kept for good"
    options: dict[str, Any]  # of `Options`: those that ask for the rule
    more_usd: Dollars  # than the way to save does without
    strategy: Strategy  # under the rule, by itself and in whole


class LeftOut(Result):
    """A strategy that takes no part in the joint saving."""

    name: str
    why: str


class Interaction(Result):
    """What two stages save together minus what they save one by one."""

    stages: tuple[str, str]
    usd: Dollars | None


class Drift(Result):
    """Whether the share of spend that would be saved stayed the same, and how well weeks told the weeks after them."""

    verdict: Literal["stationary", "drifting", "unknown"]
    p: float | None  # of a difference as large by chance
    why: str
    weeks: int  # that were predicted from the days before them
    bias: float | None  # mean of predicted - realised share, 0-1
    mape: float | None  # mean of |predicted - realised| / realised


class Joint(Result):
    """What several strategies would have saved together; no dollar is counted twice."""

    saving_usd: Dollars | None
    low: Dollars | None
    high: Dollars | None
    interval_note: str | None  # why there is no interval, or what it leaves out
    drift: "Drift"
    spent_usd: Dollars | None  # on the calls whose price is known
    would_cost_usd: Dollars | None  # `spent_usd` - `saving_usd`
    strategies: tuple[str, ...]  # that take part
    left_out: tuple[LeftOut, ...]
    stages: dict[str, Dollars | None]  # Shapley values; they add up to `saving_usd`
    shares: dict[str, Dollars | None]  # the same by strategy
    sum_of_parts_usd: Dollars | None  # what stages save one by one, added up
    overlap_usd: Dollars | None  # by how much that is too much; negative where stages help each other
    interactions: tuple[Interaction, ...]  # of pairs of stages that do not simply add up
    up_to: bool  # a ceiling takes part, so it is one


class ForecastDay(Result):
    """One day (UTC) of a forecast."""

    day: date
    usd: Dollars


class Forecast(Result):
    """What the next days cost if the workload goes on as it did; the interval is of the total."""

    days: int  # after the last whole day of the log
    usd: Dollars | None  # None: not computed, see `why`
    low: Dollars | None = None
    high: Dollars | None = None
    level: float | None = None  # of the interval, as promised, 0-1
    why: str | None = None  # why there is none, or how far the interval carries
    model: str | None = None  # the one used
    baseline_error_usd: Dollars | None = None  # mean absolute error of totals not seen, per day: seasonal naive
    better_error_usd: Dollars | None = None  # the same of the better model of those that must beat it
    windows: int = 0  # rolling origins behind both
    by_day: tuple[ForecastDay, ...] = ()


class Contribution(Result):
    """What one factor did to spend. `feature`, `model` and `provider` where it is the factor of one group."""

    factor: Literal["volume", "mix", "tokens", "price"]
    usd: Dollars  # positive is dearer
    feature: str | None = None
    model: str | None = None
    provider: str | None = None
    tokens: str | None = None  # kind: input, cached_read, cached_write, output


class Changes(Result):
    """Why one period cost more or less than another; the four factors add up to the difference."""

    before_usd: Dollars
    after_usd: Dollars
    change_usd: Dollars
    factors: dict[str, Dollars]  # volume, mix, tokens, price
    contributions: tuple[Contribution, ...]  # at most 10, the largest first
    cause: str | None  # the largest in a sentence; None where nothing changed


class Anomaly(Result):
    """A span in which spend was far above what this hour (or day) of the week costs."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    from_: datetime = Field(alias="from")
    to: datetime  # the first moment after it
    excess_usd: Dollars  # above the mean of the same hours (days) of other weeks
    cause: str
    user: str | None  # whose spend grew most; None where calls name nobody
    user_excess_usd: Dollars | None
    detail: Changes


class Analysis(Result):
    """The whole answer for one set of calls: the document of `analyze --json`."""

    calls: int
    tokens: Tokens
    cost_usd: Dollars | None  # the priced part; None where no call has a known price
    unpriced_share: float
    sufficiency: dict[str, Sufficiency]
    strategies: tuple[Strategy, ...]
    joint: Joint | None  # None: no strategy proves a saving
    if_allowed: tuple[IfAllowed, ...] = ()  # beside it, and not in it; the most first
    anomalies: tuple[Anomaly, ...] | None  # None: the log is too short for them, or nothing has a price
    forecast: Forecast
    overview: Overview
    breakdown: dict[str, Breakdown]
