"""Prices inside DuckDB: rates resolved once per distinct key, then joined to calls by the one arithmetic of pricing.

What calls would cost under a set of strategies is asked in two steps. The caller joins to each call, once, the row of
what every stage would change about it (the columns of `pricing.TREATMENT`), and creates the tariff of all keys that any
of the stages can lead to (`treated_keys_sql`). Then `costs_sql` prices every call under each coalition of stages.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import duckdb

from apps.llm.pricing import (
    BATCH,
    STAGES,
    STANDARD,
    Band,
    Rates,
    Stage,
    TierPriceUnknown,
    band_sql,
    cost_sql,
    spared_sql,
    treated_sql,
)

_BAND = dict.fromkeys(Band.__dataclass_fields__, "BIGINT")


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a price depends on, besides the size of the call."""

    model: str
    provider: str  # "" where the source does not say
    moment: datetime  # UTC, without an offset, as DuckDB keeps it
    tier: str = STANDARD  # the service tier

    @property
    def at(self) -> datetime:
        return self.moment.replace(tzinfo=UTC)


def tier_sql(call: str) -> str:
    """The service tier whose price a call pays; what says nothing is standard, and a batch is one whatever its tier."""
    return f"CASE WHEN {call}.batch THEN '{BATCH}' ELSE coalesce({call}.service_tier, '{STANDARD}') END"


def create_tariff(
    connection: duckdb.DuckDBPyConnection, table: str, keys: Iterable[Key], rates_of: Callable[[Key], Rates | None]
) -> None:
    """Create `table` with one row per key and band; keys without rates get no row, so their cost stays unknown.

    `table` is a name of ours, never a user's. Columns: model, provider, moment, tier, source, and those of `Band`.
    """
    shape = {"model": "VARCHAR", "provider": "VARCHAR", "moment": "TIMESTAMP", "tier": "VARCHAR", "source": "VARCHAR"}
    rows = json.dumps([row for key in keys for row in _rows(key, rates_of(key))])
    connection.execute(
        f"CREATE TEMP TABLE {table} AS SELECT unnest(from_json(?::JSON, ?), recursive := true)",
        [rows, json.dumps([shape | _BAND])],
    )


def treated_keys_sql(treated: str) -> str:
    """The distinct (model, provider, moment, tier) that any stage leads the calls of `treated` to.

    `treated` is a table or view with the columns of `calls`, and those of TREATMENT in a STRUCT named `treatment`.
    """
    own = f"""SELECT model, coalesce(provider, '') AS provider, price_moment AS moment, {tier_sql("c")} AS tier,
                     treatment.batched AS batched FROM {treated} c"""  # noqa: S608
    routed = f"""SELECT treatment.model, coalesce(treatment.provider, ''), price_moment, {tier_sql("c")},
                        treatment.batched FROM {treated} c WHERE treatment.model IS NOT NULL"""  # noqa: S608
    return f"""SELECT DISTINCT model, provider, moment, unnest(CASE WHEN batched THEN [tier, '{BATCH}'] ELSE [tier] END)
               FROM ({own} UNION {routed}) WHERE model IS NOT NULL"""  # noqa: S608


# Every coalition of the stages that change what a call costs, other than to nothing.
ARITHMETIC: tuple[frozenset[Stage], ...] = tuple(
    frozenset(stages) for size in range(5) for stages in combinations(STAGES[2:], size)
)


def costs_sql(treated: str, tariff: str, coalitions: Sequence[frozenset[Stage]]) -> str:
    """A query of `treated.*` and of what each call costs under each coalition, in pico-dollars.

    Of the 64 coalitions only the 16 of ARITHMETIC need prices: where `spared_sql` holds, the call costs nothing.
    The costs are the columns cost_0, cost_1 ... in the order of `coalitions`; NULL where a price is unknown. A call
    that would be batched, but whose model has no known batch price, stays in its tier. What is unbilled costs nothing.
    """
    wanted = [alternative for stages in coalitions for alternative in (stages, stages - {"batch"})]
    paid = {_tokens(stages): stages for stages in wanted}
    bands = {_band(stages): stages for stages in wanted}
    tokens = ", ".join(f"{treated_sql('c', 'c.treatment', stages)} AS {name}" for name, stages in paid.items())
    joins = "\n".join(_join(tariff, stages) for stages in bands.values())
    costs = ", ".join(f"{_cost(stages)} AS cost_{place}" for place, stages in enumerate(coalitions))
    return f"""SELECT c.* EXCLUDE ({", ".join(paid)}), {costs}
               FROM (SELECT *, {tokens} FROM {treated} c) c {joins}"""  # noqa: S608


def _tokens(stages: frozenset[Stage]) -> str:
    """The name of the tokens that a coalition leaves: only three stages change tokens."""
    return "_".join(("paid", *(stage for stage in ("route", "trim", "prefix") if stage in stages)))


def _band(stages: frozenset[Stage]) -> str:
    """The name of the band that prices a call under a coalition: whose rates, in which tier, for which size."""
    return "_".join(("band", *(stage for stage in ("route", "trim", "batch") if stage in stages)))


def _cost(stages: frozenset[Stage]) -> str:
    """The cost of a call under one coalition; the batch's first, and the tier's own where there is none."""
    call = f"c.{_tokens(stages)}"
    costs = ", ".join(cost_sql(call, _band(tried)) for tried in dict.fromkeys((stages, stages - {"batch"})))
    spared = " OR ".join(filter(None, ("NOT c.billed", spared_sql("c.treatment", stages))))
    return f"CASE WHEN {spared} THEN 0 ELSE coalesce({costs}) END"


def _join(tariff: str, stages: frozenset[Stage]) -> str:
    """Join the band that prices each call under a coalition; none where the call would not be batched."""
    band = _band(stages)
    if "route" in stages:
        model = "coalesce(c.treatment.model, c.model)"
        place = "CASE WHEN c.treatment.model IS NULL THEN c.provider ELSE c.treatment.provider END"
    else:
        model, place = "c.model", "c.provider"
    tier = f"CASE WHEN c.treatment.batched THEN '{BATCH}' END" if "batch" in stages else tier_sql("c")
    return f"""LEFT JOIN {tariff} {band} ON {band}.model = {model} AND {band}.provider = coalesce({place}, '')
        AND {band}.moment = c.price_moment AND {band}.tier = {tier} AND {band_sql(f"c.{_tokens(stages)}", band)}"""


def _rows(key: Key, rates: Rates | None) -> Iterator[dict[str, Any]]:
    try:
        paid = rates and rates.at_tier(key.tier)
    except TierPriceUnknown:
        return
    if paid is None:
        return
    said = {"moment": key.moment.isoformat(sep=" "), "source": str(paid.provenance or "")}
    for band in paid.bands():
        yield asdict(key) | said | asdict(band)
