"""What analyses answer. Dollars are exact decimals, strings in JSON; None is "not computed", never zero."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer

from apps.llm.pricing import dollars

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


class Sufficiency(Result):
    """How far the data carries one analysis."""

    score: int  # 0-100: percent of spend whose calls carry every field that the analysis needs; 0 below 40
    state: State
    missing: tuple[str, ...]  # fields that over 5 % of spend lacks, the worst first
    coverage: dict[str, float]  # needed field -> share of spend that carries it, 0-1


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


class Analysis(Result):
    """The whole answer for one set of calls: the document of `analyze --json`."""

    calls: int
    tokens: Tokens
    cost_usd: Dollars | None  # the priced part; None where no call has a known price
    unpriced_share: float
    sufficiency: dict[str, Sufficiency]
    strategies: tuple[Strategy, ...]
    joint: None = None  # strategies overlap; what they save together is not computed yet
    anomalies: None = None  # not computed yet
    forecast: None = None  # not computed yet
    overview: Overview
    breakdown: dict[str, Breakdown]
