"""Does a source's input count include the cached tokens? Decided per model, from the calls, with the evidence kept.

Providers disagree (OpenAI counts them in, Anthropic leaves them out) and gateways pass either on. Counting cached
tokens twice or not at all is the most common fault in LLM bills.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import duckdb

from apps.llm.catalogue import Catalogue
from apps.llm.pricing import ImpossibleUsage, Usage, price
from apps.optimization.importers import Convention
from apps.optimization.tariffs import Key, tier_sql

SAMPLE = 200  # calls per model whose recorded cost is recomputed both ways
CLOSE = Decimal("0.01")  # a recomputed cost within 1 % reproduces the recorded one
CONVINCING = 0.8  # share of a sample that one reading must reproduce, and the other must not
TOO_MANY = 0.01  # share of calls with more cached tokens than input above which input cannot include them


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How one model's input counts are read, and why."""

    model: str | None
    convention: Convention
    because: str  # a sentence with the evidence
    calls_with_cached_tokens: int


def decide(
    connection: duckdb.DuckDBPyConnection, catalogue: Catalogue, *, documented: Convention | None
) -> list[Verdict]:
    """A verdict for each model of the table `parsed` that has cached tokens. Costs, then counts, then documents decide.

    `documented` is what the source's makers say; None where nobody does.
    """
    models = connection.execute(
        """SELECT model, count(*), count(*) FILTER (cached_read_tokens + cached_write_tokens > input_tokens)
           FROM parsed WHERE cached_read_tokens + cached_write_tokens > 0 GROUP BY model ORDER BY 2 DESC, 1"""
    ).fetchall()
    return [
        Verdict(model=model, convention=convention, because=because, calls_with_cached_tokens=calls)
        for model, calls, over in models
        for convention, because in [_judge(connection, catalogue, model, calls, over, documented)]
    ]


def _judge(
    connection: duckdb.DuckDBPyConnection,
    catalogue: Catalogue,
    model: str | None,
    calls: int,
    over: int,
    documented: Convention | None,
) -> tuple[Convention, str]:
    if by_cost := _by_cost(connection, catalogue, model):
        return by_cost
    if over / calls > TOO_MANY:
        return "exclusive", f"{over:,} of {calls:,} calls have more cached tokens than input tokens."
    if documented:
        return documented, f"The source's own names and documents say {documented}; the counts do not contradict it."
    return "inclusive", "Assumed: no recorded cost and no count tells the two readings apart."


def _by_cost(
    connection: duckdb.DuckDBPyConnection, catalogue: Catalogue, model: str | None
) -> tuple[Convention, str] | None:
    """The reading that reproduces the recorded costs, if only one does."""
    sample = list(_recomputed(connection, catalogue, model))
    if not sample:
        return None
    inclusive = sum(_close(recorded, inside) for recorded, inside, _ in sample)
    exclusive = sum(_close(recorded, outside) for recorded, _, outside in sample)
    told = f"Reading it as {{}} reproduces {{}} of {len(sample)} recorded costs within 1 %, the other reading {{}}."
    if inclusive >= CONVINCING * len(sample) > exclusive:
        return "inclusive", told.format("inclusive", inclusive, exclusive)
    if exclusive >= CONVINCING * len(sample) > inclusive:
        return "exclusive", told.format("exclusive", exclusive, inclusive)
    return None


def _close(recorded: Decimal, computed: Decimal | None) -> bool:
    return computed is not None and abs(recorded - computed) <= CLOSE * recorded


def _recomputed(
    connection: duckdb.DuckDBPyConnection, catalogue: Catalogue, model: str | None
) -> Iterator[tuple[Decimal, Decimal | None, Decimal | None]]:
    """(recorded, cost if inclusive, cost if exclusive) of a sample of calls whose price is known."""
    rows = connection.execute(
        f"""SELECT coalesce(provider, ''), price_moment, recorded_cost, input_tokens, cached_read_tokens,
                  cached_write_tokens, cached_write_1h_tokens, output_tokens
           FROM parsed WHERE model = ? AND recorded_cost > 0 AND cached_read_tokens + cached_write_tokens > 0
             AND {tier_sql("parsed")} = 'standard' ORDER BY hash(line) LIMIT ?""",  # noqa: S608
        [model, SAMPLE],
    ).fetchall()
    for provider, moment, recorded, *counts in rows:
        yield recorded, *_both(catalogue, Key(model=model or "", provider=provider, moment=moment), counts)


def _both(catalogue: Catalogue, key: Key, counts: list[int]) -> tuple[Decimal | None, Decimal | None]:
    _, read, written, *_ = counts
    return _cost(catalogue, key, counts, extra=0), _cost(catalogue, key, counts, extra=read + written)


def _cost(catalogue: Catalogue, key: Key, counts: list[int], *, extra: int) -> Decimal | None:
    """The cost of a call if `extra` tokens come on top of its input; None where impossible or unknown."""
    rates = catalogue.rates(model=key.model, provider=key.provider, at=key.at)
    total, read, written, written_1h, output = counts
    if rates is None:
        return None
    try:
        usage = Usage(
            input_tokens=total + extra,
            cached_read=read,
            cached_write=written,
            cached_write_1h=written_1h,
            output_tokens=output,
        )
    except ImpossibleUsage:
        return None
    return price(usage, rates)
