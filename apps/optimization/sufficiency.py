"""How far the data carries each analysis, 0-100: coverage of its fields, history, volume and agreement with the bill.

The weights are a convention; what each part is worth is shown beside the score.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from apps.optimization.anomalies import ENOUGH_DAYS
from apps.optimization.calls import Calls
from apps.optimization.coalitions import NEIGHBOURS
from apps.optimization.overview import FIELDS, share, spend
from apps.optimization.results import Lack, Parts, State, Sufficiency, in_dollars
from apps.optimization.statistics.forecast import ENOUGH

NEEDS: dict[str, tuple[str, ...]] = {
    "spend_breakdown": ("started_at", "model", "tokens"),
    "duplicate_calls": ("started_at", "model", "tokens", "prompt_hash", "owner"),
    "exact_cache": ("started_at", "model", "tokens", "prompt_hash", "owner"),
    "semantic_cache": ("started_at", "model", "tokens", "prompt_hash", "answer", "owner"),
    "prefix_cache": ("started_at", "model", "tokens", "blocks", "cached_tokens"),
    "batch_eligible": ("started_at", "model", "tokens", "delay"),
    "model_swap_ceiling": ("model", "tokens"),
    "model_swap_by_task": ("model", "tokens", "feature", "prompt_hash", "quality"),
    "routing": ("model", "tokens", "prompt_hash", "quality"),
    "retry_waste": ("started_at", "attempts"),
    "context_trimming": ("started_at", "model", "tokens", "history"),
    "output_capping": ("model", "tokens", "feature"),
    "latency": ("started_at", "ended_at"),
    "anomalies": ("started_at", "model", "tokens"),
    "forecast": ("started_at", "model", "tokens"),
    "changes": ("started_at", "model", "tokens", "feature"),
}
# Days of calls below which an analysis answers nothing.
NEED_DAYS = {"anomalies": ENOUGH_DAYS, "forecast": ENOUGH}
# What only the whole stream of calls shows: a cache's hits in a sample of rows say little about those in all rows.
NEED_EVERY_CALL = (
    "exact_cache",
    "semantic_cache",
    "prefix_cache",
    "duplicate_calls",
    "retry_waste",
)
GATE = 0.4  # below this share of the spend, an analysis has nothing to stand on
LACKING = 0.95  # a field that less of the spend carries counts as missing
WEIGHTS = {"coverage": 0.5, "history": 0.2, "volume": 0.15, "reconciliation": 0.15}
ENOUGH_HISTORY = timedelta(weeks=4)
ENOUGH_CLUSTERS = 100.0  # sessions of equal size that would say as much
SAMPLED_AT_MOST = 39  # the score of an analysis that needs every call, where calls are missing
UNRECONCILED_AT_MOST = 94  # without a bill to compare with, nothing is optimal
OVERCOUNTED = 1.02  # more captured than billed than rounding explains
MISSING_IDS = 0.05  # share of the ids of a running number above which the log is a sample
OVERALL = "overall"


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What is the same for all analyses of one set of calls."""

    fields: Mapping[str, float]
    groups: tuple[tuple[frozenset[str], int, int], ...]  # calls with the same fields: those, their weight, their cost
    total: int | None
    history: float
    days: int  # from that of the first call to that of the last
    volume: float
    reconciliation: float | None
    sampled: str | None  # why the log is taken for a sample


def sufficiency(calls: Calls, *, capture_rate: float | None = None) -> dict[str, Sufficiency]:
    """Analysis -> how far the data carries it, and their mean as `overall`; a few passes.

    `capture_rate` is captured / billed where a bill was imported; else the source's own record of costs, if it has one,
    stands in for it.
    """
    facts = _facts(calls, capture_rate)
    found = {analysis: _assess(analysis, needs, facts) for analysis, needs in NEEDS.items()}
    return {OVERALL: _overall(found), **found}


def _facts(calls: Calls, capture_rate: float | None) -> _Facts:
    weight = "cost_pico" if spend(calls) else "1"
    total, first, last = calls.row(
        f"SELECT sum({weight}), min(started_at), max(started_at) FROM calls WHERE billed"  # noqa: S608
    )
    groups = _groups(calls, weight)
    return _Facts(
        fields={name: share(sum(each for fields, each, _ in groups if name in fields), total) for name in FIELDS},
        groups=groups,
        total=total,
        history=min(1.0, (last - first) / ENOUGH_HISTORY) if first else 0.0,
        days=(last.date() - first.date()).days + 1 if first else 0,
        volume=_volume(calls, weight),
        reconciliation=_agreement(_recorded_rate(calls) if capture_rate is None else capture_rate),
        sampled=_sampled(calls, capture_rate),
    )


def _groups(calls: Calls, weight: str) -> tuple[tuple[frozenset[str], int, int], ...]:
    """The billed calls by the fields that they carry: few groups, and every question about fields is a sum of them."""
    carried = " + ".join(
        f"(coalesce({condition}, false)::BIGINT << {bit})" for bit, condition in enumerate(FIELDS.values())
    )
    found = calls.rows(
        f"""SELECT {carried}, coalesce(sum({weight}), 0), coalesce(sum(cost_pico), 0) FROM calls
            WHERE billed GROUP BY 1"""  # noqa: S608
    )
    return tuple(
        (frozenset(name for bit, name in enumerate(FIELDS) if bits >> bit & 1), int(each), int(cost))
        for bits, each, cost in found
    )


def _volume(calls: Calls, weight: str) -> float:
    """How many clusters of equal size would say as much (Kish 1965: (sum w)^2 / sum w^2), against ENOUGH_CLUSTERS.

    A cluster is what intervals take for one (NEIGHBOURS): a session, else a user's day, else a day.
    """
    effective = calls.row(
        f"""SELECT sum(w)::DOUBLE ** 2 / nullif(sum(w::DOUBLE ** 2), 0) FROM (
              SELECT sum({weight}) AS w FROM calls WHERE billed
              GROUP BY {NEIGHBOURS})"""  # noqa: S608
    )[0]
    return min(1.0, (effective or 0.0) / ENOUGH_CLUSTERS)


def _recorded_rate(calls: Calls) -> float | None:
    """Computed / recorded cost of the calls that carry one."""
    computed, recorded = calls.row(
        """SELECT sum(cost_pico)::DOUBLE / 1e12, sum(recorded_cost)::DOUBLE FROM calls
           WHERE billed AND recorded_cost > 0 AND cost_pico IS NOT NULL"""
    )
    return computed / recorded if recorded else None


def _agreement(rate: float | None) -> float | None:
    """0-1: how much of the bill is explained; counting more than was billed is a fault of its own."""
    if rate is None:
        return None
    return min(rate, 1.0) if rate <= OVERCOUNTED else max(0.0, 2.0 - rate)


def _sampled(calls: Calls, capture_rate: float | None) -> str | None:
    """Why the log is taken for a sample of the calls; None where nothing says so."""
    if capture_rate is not None and capture_rate < 1 - 2 * MISSING_IDS:
        return f"The calls explain {capture_rate:.0%} of the bill."
    kept, span = calls.row(
        """SELECT count(DISTINCT n), max(n) - min(n) + 1 FROM (
             SELECT try_cast(regexp_extract(call_id, '^(?:[^0-9]*)([0-9]{1,15})$', 1) AS BIGINT) AS n FROM calls)"""
    )
    if kept and kept >= ENOUGH_CLUSTERS and MISSING_IDS < 1 - kept / span < 1 - MISSING_IDS:
        return f"Of {span:,} consecutive ids, {span - kept:,} are missing."
    return None


def _assess(analysis: str, needs: tuple[str, ...], facts: _Facts) -> Sufficiency:
    complete, *without = _complete_shares(needs, facts)
    missing = sorted((name for name in needs if facts.fields[name] < LACKING), key=lambda name: facts.fields[name])
    parts = Parts(coverage=complete, history=facts.history, volume=facts.volume, reconciliation=facts.reconciliation)
    score = _score(analysis, parts, facts)
    lacks = tuple(
        _lack(facts, name, _score(analysis, parts.model_copy(update={"coverage": filled}), facts) - score)
        for name in missing
        for filled in [without[needs.index(name)]]
    )
    return Sufficiency(
        score=score,
        state=state(score),
        missing=tuple(missing),
        coverage={name: facts.fields[name] for name in needs},
        parts=parts,
        lacks=lacks,
        sampled=facts.sampled if analysis in NEED_EVERY_CALL else None,
    )


def _score(analysis: str, parts: Parts, facts: _Facts) -> int:
    if parts.coverage < GATE or facts.days < NEED_DAYS.get(analysis, 0):
        return 0
    every: dict[str, float | None] = parts.model_dump()
    known = {name: value for name, value in every.items() if value is not None}
    weights = sum(WEIGHTS[name] for name in known)
    score = round(100 * sum(WEIGHTS[name] * value for name, value in known.items()) / weights)
    if facts.sampled and analysis in NEED_EVERY_CALL:
        return min(score, SAMPLED_AT_MOST)
    return score if facts.reconciliation is not None else min(score, UNRECONCILED_AT_MOST)


def _complete_shares(needs: tuple[str, ...], facts: _Facts) -> tuple[float, ...]:
    """The share of spend with every field of `needs`, and for each of them the share with all the others."""
    wanted = [frozenset(needs), *(frozenset(needs) - {name} for name in needs)]
    return tuple(share(sum(each for has, each, _ in facts.groups if has >= fields), facts.total) for fields in wanted)


def _lack(facts: _Facts, name: str, points: int) -> Lack:
    """What a field would bring: points of the score, and at most the spend of the calls that lack it."""
    lacking = sum(cost for has, _, cost in facts.groups if name not in has)
    return Lack(field=name, points=points, at_most_usd=in_dollars(lacking) if lacking else None)


def _overall(found: Mapping[str, Sufficiency]) -> Sufficiency:
    """The mean score; every analysis is about the same spend, so none weighs more."""
    score = round(sum(each.score for each in found.values()) / len(found))
    fields: dict[str, Any] = {name: value for each in found.values() for name, value in each.coverage.items()}
    missing = sorted((name for name, value in fields.items() if value < LACKING), key=lambda name: fields[name])
    any_parts = next(iter(found.values())).parts
    return Sufficiency(
        score=score,
        state=state(score),
        missing=tuple(missing),
        coverage=fields,
        parts=any_parts.model_copy(
            update={"coverage": sum(each.parts.coverage for each in found.values()) / len(found)}
        ),
        lacks=(),
        sampled=next((each.sampled for each in found.values() if each.sampled), None),
    )


def state(score: int) -> State:
    """The word for a score.

    >>> [state(n) for n in (39, 40, 79, 80, 94, 95)]
    ['insufficient', 'minimal', 'minimal', 'sufficient', 'sufficient', 'optimal']
    """
    if score < 40:
        return "insufficient"
    if score < 80:
        return "minimal"
    return "sufficient" if score < 95 else "optimal"
