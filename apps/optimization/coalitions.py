"""What calls would have cost under sets of strategies, summed per cluster once: all else is arithmetic.

The six causal stages are the players. What the provider's prefix cache would hold depends on which calls the earlier
stages leave and on the models they go to, so it is replayed for each subset of those.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from fractions import Fraction
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from apps.llm.pricing import STAGES, Stage, spared_sql
from apps.optimization.calls import Calls
from apps.optimization.tariffs import Key, costs_sql, create_tariff, treated_keys_sql

Coalition = frozenset[Stage]
NOBODY: Coalition = frozenset()
ROUTED: Coalition = frozenset({"route"})
# Replays the prefix cache on the calls of a relation (call, model, provider); makes a table of that name with columns
# call, cached_read_tokens, cached_write_tokens, cached_write_1h_tokens.
Replay = Callable[[Calls, str, str], None]

MOST_CLUSTERS = 4096  # more are thrown together by their hash: still a random sample of whole clusters, in less memory
# Calls that resemble each other and must be drawn together: a session, else what one user (or nobody who is named) did
# on a day, since neighbouring hours resemble each other too.
NEIGHBOURS = """coalesce(session, concat_ws(' ', "user", date_trunc('day', started_at)))"""
CLUSTER = f"hash({NEIGHBOURS}) % getvariable('clusters')"
_FEW = 2**32  # so that few clusters are hardly ever thrown together
_BEFORE_PREFIX: tuple[Stage, ...] = ("drop", "answer", "route")  # what changes the calls that a prefix cache meets
_NEEDED = """call, model, provider, price_moment, batch, service_tier, billed, cost_pico, input_tokens, output_tokens,
    cached_read_tokens, cached_write_tokens, cached_write_1h_tokens, reasoning_tokens, input_audio_tokens,
    output_audio_tokens"""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What clusters paid, and what they would have saved under each coalition, in pico-dollars."""

    coalitions: tuple[Coalition, ...]  # the empty one first
    totals: tuple[int, ...]  # saved by all calls, exact, in the order of `coalitions`
    spent: int  # by all priced calls, exact
    by_cluster: NDArray[np.float64]  # clusters x coalitions
    paid: NDArray[np.float64]  # by each cluster
    by_day: NDArray[np.float64]  # days (UTC, none left out) x (coalitions, and what was paid)
    first_day: date | None  # of `by_day`; None if it has none

    def total(self, coalition: Coalition) -> int:
        """Saved by all calls under `coalition`."""
        return self.totals[self.coalitions.index(coalition)]

    def of_clusters(self, coalition: Coalition) -> NDArray[np.float64]:
        """Saved by each cluster under `coalition`."""
        column: NDArray[np.float64] = self.by_cluster[:, self.coalitions.index(coalition)]
        return column

    def of_days(self, coalition: Coalition, *, after: date | None = None) -> NDArray[np.float64]:
        """Saved by each day (or those after one) under `coalition`, and paid: days x 2."""
        start = 0 if after is None or self.first_day is None else max(0, (after - self.first_day).days + 1)
        columns: NDArray[np.float64] = self.by_day[start:, [self.coalitions.index(coalition), -1]]
        return columns

    def at_will(self, stage: Stage) -> "Saved":
        """The same where `stage` is left out of the coalitions in which it would cost more than it saves."""
        places = []
        for place, coalition in enumerate(self.coalitions):
            without = self.coalitions.index(coalition - {stage})
            places.append(without if self.totals[place] < self.totals[without] else place)
        return replace(
            self,
            totals=tuple(self.totals[place] for place in places),
            by_cluster=self.by_cluster[:, places],
            by_day=self.by_day[:, [*places, -1]],
        )

    def weighed(self, stage: Stage, weight: Fraction) -> "Saved":
        """The same where `weight` of what `stage` adds to the others counts, for example because it costs more."""
        without = [self.coalitions.index(each - {stage}) for each in self.coalitions]
        totals = [self.totals[place] for place in without]
        by_cluster, by_day = self.by_cluster[:, without], self.by_day[:, [*without, -1]]
        return replace(
            self,
            totals=tuple(
                most + round((whole - most) * weight) for whole, most in zip(self.totals, totals, strict=True)
            ),
            by_cluster=by_cluster + (self.by_cluster - by_cluster) * float(weight),
            by_day=by_day + (self.by_day - by_day) * float(weight),
        )


def subsets(stages: Sequence[Stage]) -> tuple[Coalition, ...]:
    """Every set of `stages`, the empty one first."""
    return tuple(map(frozenset, chain.from_iterable(combinations(stages, size) for size in range(len(stages) + 1))))


def saved(
    calls: Calls,
    treatments: Mapping[Stage, str],
    replay: Replay | None = None,
    *,
    cluster: str = CLUSTER,
    always: Coalition = NOBODY,
) -> Saved:
    """Price the calls under every coalition of the stages in `treatments` that has all of `always`.

    `treatments` gives for each stage the name of a relation with `call` and the columns of TREATMENTS, a
    row per changed call; `cluster` is the number of a call's cluster, as SQL. Calls without a known price are left out;
    where only the changed call has none, it stays as it was and saves nothing.
    """
    _count_clusters(calls)
    stages = tuple(stage for stage in STAGES if stage in treatments)
    coalitions = tuple(each for each in subsets(stages) if each >= always)
    with_prefix = [each for each in coalitions if "prefix" in each]
    calls.connection.execute(
        "CREATE OR REPLACE TEMP TABLE cluster_saved (cluster UBIGINT, day DATE, coalition INTEGER, pico HUGEINT)"
    )
    _add(calls, treatments, [each for each in coalitions if "prefix" not in each], coalitions, cluster)
    for before in subsets([stage for stage in _BEFORE_PREFIX if stage in treatments]):
        these = [each for each in with_prefix if each & frozenset(_BEFORE_PREFIX) == before]
        if these:
            _add(calls, _replayed(calls, treatments, before, replay), these, coalitions, cluster)
    return _collected(calls, coalitions, cluster)


def saved_behind(calls: Calls, moves: str, treatments: Mapping[Stage, str], replay: Replay | None = None) -> Saved:
    """What every coalition saves of what the calls cost once those of `moves` ask another model.

    `moves` is a relation as one of a route is. It holds under every coalition and is no saving of any; the route in
    `treatments` changes none of its calls.
    """
    moved = saved(calls, {**treatments, "route": moves}, replay, always=ROUTED)
    both = moved
    if route := treatments.get("route"):
        columns = "SELECT call, model, provider FROM"
        routes = f"({columns} {moves} UNION ALL {columns} {route})"
        both = saved(calls, {**treatments, "route": routes}, replay, always=ROUTED)
    coalitions = subsets([stage for stage in STAGES if stage in treatments])
    found = [both if "route" in each else moved for each in coalitions]
    places = [one.coalitions.index(each | ROUTED) for one, each in zip(found, coalitions, strict=True)]
    picked = list(zip(found, places, strict=True))
    alone = moved.coalitions.index(ROUTED)
    by_cluster, by_day = moved.by_cluster[:, alone], moved.by_day[:, alone]
    return Saved(
        coalitions=coalitions,
        totals=tuple(one.totals[place] - moved.totals[alone] for one, place in picked),
        spent=moved.spent - moved.totals[alone],
        by_cluster=np.column_stack([one.by_cluster[:, place] - by_cluster for one, place in picked]),
        paid=moved.paid - by_cluster,
        by_day=np.column_stack(
            [*(one.by_day[:, place] - by_day for one, place in picked), moved.by_day[:, -1] - by_day]
        ),
        first_day=moved.first_day,
    )


def leave_priced(calls: Calls, route: str) -> None:
    """Take out of the table of a route the calls whose price is not known where it leads them."""
    _treat(calls, {"route": route}, CLUSTER)
    _price(calls)
    costs = costs_sql("treated", "treated_tariff", [ROUTED])
    calls.connection.execute(
        f"DELETE FROM {route} WHERE call IN (SELECT call FROM ({costs}) WHERE cost_0 IS NULL)"  # noqa: S608
    )


def _count_clusters(calls: Calls) -> None:
    """Set what CLUSTER divides by, once for the dataset."""
    if calls.row("SELECT getvariable('clusters')")[0] is None:
        calls.connection.execute(
            f"""SET VARIABLE clusters = (
                  SELECT CASE WHEN count(*) > {MOST_CLUSTERS} THEN {MOST_CLUSTERS} ELSE {_FEW} END::UBIGINT
                  FROM (SELECT DISTINCT hash({NEIGHBOURS}) FROM calls LIMIT {MOST_CLUSTERS + 1}))"""  # noqa: S608
        )


def _replayed(
    calls: Calls, treatments: Mapping[Stage, str], before: Coalition, replay: Replay | None
) -> dict[Stage, str]:
    """The treatments with the prefix cache as it would be behind the stages of `before`."""
    if replay is None or not before:
        return dict(treatments)
    remaining = _remaining(treatments, before)
    replay(calls, remaining, "prefix_behind")
    return {**treatments, "prefix": "prefix_behind"}


def _remaining(treatments: Mapping[Stage, str], before: Coalition) -> str:
    """The calls that the provider would still get, and who would be asked, as a query."""
    gone = " ".join(
        f"ANTI JOIN {treatments[stage]} {stage}_ ON {stage}_.call = c.call"
        for stage in ("drop", "answer")
        if stage in before
    )
    if "route" not in before:
        return f"SELECT c.call, c.model, c.provider FROM calls c {gone} WHERE c.billed"  # noqa: S608
    return f"""SELECT c.call, coalesce(r.model, c.model) AS model,
                      CASE WHEN r.model IS NULL THEN c.provider ELSE r.provider END AS provider
               FROM calls c {gone} LEFT JOIN {treatments["route"]} r ON r.call = c.call WHERE c.billed"""  # noqa: S608


TREATMENTS: dict[Stage, dict[str, str]] = {
    "drop": {},
    "answer": {},
    "route": {"model": "VARCHAR", "provider": "VARCHAR"},
    "trim": {"less_input": "BIGINT", "less_output": "BIGINT"},
    "prefix": dict.fromkeys(("cached_read_tokens", "cached_write_tokens", "cached_write_1h_tokens"), "BIGINT"),
    "batch": {},
}
_FLAGS: dict[Stage, str] = {"drop": "dropped", "answer": "answered", "batch": "batched"}


def _add(
    calls: Calls,
    treatments: Mapping[Stage, str],
    wanted: Sequence[Coalition],
    coalitions: Sequence[Coalition],
    cluster: str,
) -> None:
    """Sum what the coalitions `wanted` save, per cluster, into `cluster_saved`."""
    _treat(calls, treatments, cluster)
    _price(calls)
    # What a dropped or answered call costs needs no arithmetic, so only what remains of a coalition is priced.
    priced = list(dict.fromkeys([NOBODY, *(each - _SPARING for each in wanted)]))
    sums = ", ".join(_saved_sql(each, priced.index(each - _SPARING)) for each in wanted)
    costs = costs_sql("treated", "treated_tariff", priced)
    numbers = [coalitions.index(each) for each in wanted]
    calls.connection.execute(
        f"""INSERT INTO cluster_saved SELECT cluster, day, unnest(?::INTEGER[]), unnest(sums) FROM (
              SELECT cluster, day, [{sums}] AS sums FROM ({costs}) GROUP BY cluster, day)""",  # noqa: S608
        [numbers],
    )


_SPARING: Coalition = frozenset({"drop", "answer"})


def _saved_sql(stages: Coalition, place: int) -> str:
    """What all calls save under `stages`, whose remaining price is the column cost_<place>."""
    spared = spared_sql("treatment", stages) or "false"
    return f"sum(CASE WHEN {spared} THEN cost_0 ELSE cost_0 - coalesce(cost_{place}, cost_0) END)"


def _treat(calls: Calls, treatments: Mapping[Stage, str], cluster: str) -> None:
    """Show as `treated` the calls that any stage changes, each with the row of what all of them change.

    A view, because it is read twice or three times, and a table of ten million calls takes more room than to join anew.
    """
    fields, joins = [], []
    for stage in STAGES:
        relation = treatments.get(stage)
        if relation:
            joins.append(f"LEFT JOIN {relation} {stage}_ ON {stage}_.call = c.call")
        if flag := _FLAGS.get(stage):
            fields.append(f"'{flag}': " + (f"{stage}_.call IS NOT NULL" if relation else "false"))
        fields += [
            f"'{name}': " + (f"{stage}_.{name}" if relation else f"NULL::{kind}")
            for name, kind in TREATMENTS[stage].items()
        ]
    touched = " OR ".join(f"{stage}_.call IS NOT NULL" for stage in treatments) or "false"
    needed = ", ".join(f"c.{name.strip()}" for name in _NEEDED.split(","))
    calls.connection.execute(
        f"""CREATE OR REPLACE TEMP VIEW treated AS
            SELECT {needed}, {cluster} AS cluster, c.started_at::DATE AS day, {{{", ".join(fields)}}} AS treatment
            FROM calls c {" ".join(joins)} WHERE c.billed AND c.cost_pico IS NOT NULL AND ({touched})"""  # noqa: S608
    )


def _price(calls: Calls) -> None:
    """Make `treated_tariff`: the rates of every model, moment and tier that a treated call can come to."""
    keys = calls.rows(treated_keys_sql("treated"))
    calls.connection.execute("DROP TABLE IF EXISTS treated_tariff")
    create_tariff(
        calls.connection,
        "treated_tariff",
        (Key(model=model, provider=provider, moment=moment, tier=tier) for model, provider, moment, tier in keys),
        lambda key: calls.catalogue.rates(model=key.model, provider=key.provider, at=key.at),
    )


def _collected(calls: Calls, coalitions: tuple[Coalition, ...], cluster: str) -> Saved:
    paid = calls.known(
        f"""SELECT {cluster} AS cluster, sum(cost_pico)::DOUBLE FROM calls
            WHERE billed AND cost_pico IS NOT NULL GROUP BY 1 ORDER BY 1"""  # noqa: S608
    )
    clusters = np.array([number for number, _ in paid], dtype=np.uint64)
    sums = calls.connection.execute(
        "SELECT cluster, coalition, sum(pico)::DOUBLE AS pico FROM cluster_saved GROUP BY ALL"
    ).fetchnumpy()
    by_cluster = np.zeros((len(paid), len(coalitions)))
    by_cluster[np.searchsorted(clusters, sums["cluster"]), sums["coalition"]] = sums["pico"]
    exact = dict(calls.rows("SELECT coalition, sum(pico) FROM cluster_saved GROUP BY 1"))
    spent = calls.known("SELECT coalesce(sum(cost_pico), 0) FROM calls WHERE billed")[0][0]
    first_day, by_day = _by_day(calls, len(coalitions))
    return Saved(
        coalitions=coalitions,
        totals=tuple(int(exact.get(number, 0)) for number in range(len(coalitions))),
        spent=int(spent),
        by_cluster=by_cluster,
        paid=np.array([pico for _, pico in paid], dtype=np.float64),
        by_day=by_day,
        first_day=first_day,
    )


def _by_day(calls: Calls, coalitions: int) -> tuple[date | None, NDArray[np.float64]]:
    """The first day, and what each one saved under each coalition, and paid; a day without calls is a row of zeros."""
    paid = calls.known(
        """WITH paid AS (SELECT started_at::DATE AS day, sum(cost_pico)::DOUBLE AS pico FROM calls
                         WHERE billed AND cost_pico IS NOT NULL AND started_at IS NOT NULL GROUP BY 1),
                days AS (SELECT unnest(generate_series(min(day), max(day), INTERVAL 1 DAY))::DATE AS day FROM paid)
           SELECT day, coalesce(pico, 0) FROM days LEFT JOIN paid USING (day) ORDER BY day"""
    )
    days = np.array([day for day, _ in paid], dtype="datetime64[D]")
    sums = calls.connection.execute(
        """SELECT day, coalition, sum(pico)::DOUBLE AS pico FROM cluster_saved WHERE day IS NOT NULL GROUP BY ALL"""
    ).fetchnumpy()
    by_day = np.zeros((len(paid), coalitions + 1))
    by_day[np.searchsorted(days, sums["day"]), sums["coalition"]] = sums["pico"]
    by_day[:, -1] = [pico for _, pico in paid]
    return paid[0][0] if paid else None, by_day
