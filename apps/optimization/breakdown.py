"""Where the money goes, by one dimension at a time."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from apps.errors import Invalid
from apps.optimization.calls import QUARTER_BEGAN, Calls
from apps.optimization.local import A_DAY, shifts
from apps.optimization.overview import TOKEN_COLUMNS, TOKENS, part_of, tokens
from apps.optimization.results import Breakdown, BreakdownRow, Dimension, in_dollars

# What calls are grouped by, and how that is written; short keys are grouped faster than texts.
_KEYS: dict[Dimension, tuple[str, str]] = {
    "model": ("model", "{}"),
    "feature": ("feature", "{}"),
    "user": ('"user"', "{}"),
    "day": ("({local})::DATE", "strftime({}, '%Y-%m-%d')"),
    "hour": ("hour({local})::UTINYINT", "printf('%02d:00', {})"),
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
    return spend_breakdowns(calls, (by,), limit=limit)[by]


def spend_breakdowns(calls: Calls, dimensions: Sequence[Dimension], *, limit: int = 50) -> dict[Dimension, Breakdown]:
    """`spend_breakdown` by each of `dimensions`, in one pass over the calls."""
    names, local = [f"by_{by}" for by in dimensions], _local(calls)
    keys = ", ".join(
        f"{_KEYS[by][0].format(local=local)} AS {name}" for by, name in zip(dimensions, names, strict=True)
    )
    spelled = ", ".join(_KEYS[by][1].format(name) for by, name in zip(dimensions, names, strict=True))
    # GROUPING tells the sets apart: a bit for each key, the first one the highest, set where it is not grouped by.
    every = 2 ** len(names) - 1
    marks = {by: every - 2 ** (len(names) - 1 - place) for place, by in enumerate(dimensions)}
    chronological = ", ".join(str(mark) for by, mark in marks.items() if by in _IN_THEIR_ORDER) or "NULL"
    # The passes are short, so that planning counts: no column more than is needed, and no window for the ranks.
    found = calls.rows(
        f"""WITH sums AS (
              SELECT grouping({", ".join(names)}) AS mark, coalesce({spelled}) AS key, count(*) AS calls,
                     sum(cost_pico) AS cost, count(*) - count(cost_pico) AS unpriced, {TOKENS}
              FROM (SELECT cost_pico, {", ".join(TOKEN_COLUMNS)}, {keys} FROM calls WHERE billed)
              GROUP BY GROUPING SETS ({", ".join(f"({name})" for name in names)}))
            SELECT mark, count(*), sum(cost), sum(cost) FILTER (key IS NOT NULL),
                   min_by(sums, CASE WHEN mark IN ({chronological}) THEN (0, 0, key) ELSE (-cost, -calls, key) END, ?)
            FROM sums GROUP BY mark""",  # noqa: S608
        [min(limit, MAX_ROWS)],
    )
    groups = {row[0]: row[1:] for row in found}
    return {by: _breakdown(by, groups.get(mark, (0, 0, 0, ())), calls.time_zone) for by, mark in marks.items()}


def _breakdown(by: Dimension, found: tuple[Any, ...], time_zone: str) -> Breakdown:
    """One dimension, of: how many groups there are, what all and the named ones of them cost, the first of them."""
    groups, total, known, rows = found
    return Breakdown(
        by=by,
        rows=tuple(_row(row, total) for row in rows),
        other_rows=groups - len(rows),
        total_usd=in_dollars(total),
        covered_share=part_of(known or 0, total),
        time_zone=time_zone,
    )


def _local(calls: Calls) -> str:
    """The SQL of a call's quarter of an hour on the clocks of the zone; those of a trace know no zone.

    By Python's rules, as all other times of a report: DuckDB brings its own, which may be of another year.
    """
    if calls.time_zone == "UTC":
        return QUARTER_BEGAN.format(quarter="quarter")
    [(first, last)] = calls.known(f"SELECT min(quarter), max(quarter) FROM calls WHERE quarter >= {_FIRST}")  # noqa: S608
    ahead = [] if first is None else shifts(calls.time_zone, first, last)
    cases = "".join(f" WHEN quarter >= {since} THEN {quarters}" for since, quarters in reversed(ahead))
    return QUARTER_BEGAN.format(quarter=f"quarter + CASE{cases} ELSE 0 END" if cases else "quarter")


_FIRST = 365 * A_DAY  # the first quarter of 1971: times before it count from the start of a trace


def _row(group: Mapping[str, Any], total: int | None) -> BreakdownRow:
    _, key, calls, cost, unpriced, *sums = group.values()
    return BreakdownRow(
        key=key,
        calls=calls,
        tokens=tokens(tuple(sums)),
        cost_usd=in_dollars(cost),
        share=part_of(cost, total),
        unpriced_calls=unpriced,
    )
