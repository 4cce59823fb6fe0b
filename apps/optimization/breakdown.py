"""Where the money goes, by one dimension."""

from typing import Any, get_args

from apps.errors import Invalid
from apps.optimization.calls import Calls
from apps.optimization.duck import quoted
from apps.optimization.local import EPOCH_YEAR
from apps.optimization.overview import TOKENS, part_of, spend, tokens
from apps.optimization.results import Breakdown, BreakdownRow, Dimension, in_dollars

_KEYS: dict[Dimension, str] = {
    "model": "model",
    "feature": "feature",
    "user": '"user"',
    "day": "strftime({local}, '%Y-%m-%d')",
    "hour": "strftime({local}, '%H:00')",
}
_IN_THEIR_ORDER = ("day", "hour")
MAX_ROWS = 500


class UnknownDimension(Invalid):
    """Spend cannot be broken down by this."""

    code = "breakdown.unknown_dimension"


def dimension(name: str) -> Dimension:
    """`name` as a dimension.

    Raises:
        UnknownDimension: it is none.
    """
    known: tuple[Dimension, ...] = get_args(Dimension)
    for each in known:
        if name == each:
            return each
    raise UnknownDimension(f"Cannot break spend down by {name!r}; use one of {', '.join(get_args(Dimension))}.")


def spend_breakdown(calls: Calls, by: Dimension, *, limit: int = 50) -> Breakdown:
    """Spend per value of `by` over billed calls, at most `limit` rows (and never more than MAX_ROWS).

    Days are of the zone of `calls`; an hour is the hour of the day there (00:00-23:00), summed over all days.
    """
    key, limit = _KEYS[by].format(local=_local(calls.time_zone)), min(limit, MAX_ROWS)
    order = "1 NULLS LAST" if by in _IN_THEIR_ORDER else "sum(cost_pico) DESC NULLS LAST, count(*) DESC, 1"
    groups = calls.rows(
        f"""SELECT {key}, count(*), sum(cost_pico), count(*) FILTER (cost_pico IS NULL), {TOKENS}
            FROM calls WHERE billed GROUP BY 1 ORDER BY {order}"""  # noqa: S608
    )
    total = spend(calls)
    known = sum(int(group[2] or 0) for group in groups if group[0] is not None)
    return Breakdown(
        by=by,
        rows=tuple(_row(group, total) for group in groups[:limit]),
        other_rows=max(0, len(groups) - limit),
        total_usd=in_dollars(total),
        covered_share=part_of(known, total),
        time_zone=calls.time_zone,
    )


def _local(zone: str) -> str:
    """The SQL of a call's time on the clocks of a zone; times that count from the start of a trace know none."""
    if zone == "UTC":
        return "started_at"
    there = f"timezone({quoted(zone)}, timezone('UTC', started_at))"
    return f"CASE WHEN year(started_at) <= {EPOCH_YEAR} THEN started_at ELSE {there} END"


def _row(group: tuple[Any, ...], total: int | None) -> BreakdownRow:
    key, calls, cost, unpriced, *sums = group
    return BreakdownRow(
        key=None if key is None else str(key),
        calls=calls,
        tokens=tokens(tuple(sums)),
        cost_usd=in_dollars(cost),
        share=part_of(cost, total),
        unpriced_calls=unpriced,
    )
