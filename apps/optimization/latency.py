"""How long answers take: percentiles of what the log shows, and of the same calls with some times replaced."""

from collections.abc import Sequence

from apps.optimization.calls import Calls
from apps.optimization.results import Latency, Times

_SECONDS = "epoch(c.ended_at) - epoch(c.started_at)"
_FIRST = "epoch(c.first_token_at) - epoch(c.started_at)"
# Who was answered: a failure takes its time too, but nobody would call it an answer.
_ANSWERED = "c.status IS DISTINCT FROM 'failed' AND c.batch IS NOT TRUE AND c.started_at IS NOT NULL"

_NOW = f"calls c WHERE {_ANSWERED}"


def latency(calls: Calls, *, changed: str | None = None, seconds: str = "NULL", first: str = "NULL") -> Latency:
    """Seconds now, and with the calls of the query `changed` (a column "call") at other times.

    `seconds`, and `first` of the first token, are SQL over a call `c` and its row `x` of `changed`; NULL where nobody
    knows it, which makes the whole `after` unknown. Without `changed`, every call keeps its time.
    """
    if changed is None:
        before = _times(calls, _NOW, _SECONDS, _FIRST)
        return Latency(before=before, after=before)
    # The same calls before and after: those whose times the log shows.
    rows = f"""calls c LEFT JOIN ({changed}) x USING ("call") WHERE {_ANSWERED}"""
    unknown, first_unknown = calls.row(
        f"""SELECT coalesce(bool_or(x.call IS NOT NULL AND {_SECONDS} IS NOT NULL AND ({seconds}) IS NULL), false),
                   coalesce(bool_or(x.call IS NOT NULL AND {_FIRST} IS NOT NULL AND ({first}) IS NULL), false)
            FROM {rows}"""  # noqa: S608
    )
    new = f"CASE WHEN x.call IS NULL OR {_SECONDS} IS NULL THEN {_SECONDS} ELSE {seconds} END"
    new_first = f"CASE WHEN x.call IS NULL OR {_FIRST} IS NULL THEN {_FIRST} ELSE {first} END"
    return Latency(
        before=_times(calls, _NOW, _SECONDS, _FIRST),
        after=_times(calls, rows, None if unknown else new, None if first_unknown else new_first),
    )


def without(calls: Calls, gone: str) -> Latency:
    """Seconds now, and without the calls of the query `gone` (a column "call"), which nobody would make."""
    kept = f'{_ANSWERED} AND c."call" NOT IN ({gone})'
    return Latency(
        before=_times(calls, _NOW, _SECONDS, _FIRST),
        after=_times(calls, f"calls c WHERE {kept}", _SECONDS, _FIRST),
    )


def _times(calls: Calls, rows: str, seconds: str | None, first: str | None) -> Times:
    """p50, p95 and the median time to the first token of `rows`; None where no call has the times, or nobody knows."""
    p50, p95 = _quantiles(calls, rows, seconds, (0.5, 0.95)) if seconds else (None, None)
    (ttft,) = _quantiles(calls, rows, first, (0.5,)) if first else (None,)
    return Times(p50=p50, p95=p95, ttft=ttft)


def _quantiles(calls: Calls, rows: str, value: str, shares: Sequence[float]) -> list[float | None]:
    """Quantiles with interpolation (type 7 of Hyndman and Fan 1996), of counts of equal values: DuckDB's own keep every
    value in memory."""
    ends = ", ".join(
        f"min(v) FILTER (upto > floor((every - 1) * {share})), min(v) FILTER (upto > ceil((every - 1) * {share}))"
        for share in shares
    )
    query = f"""WITH counted AS (SELECT v, count(*) AS n FROM (SELECT ({value})::DOUBLE AS v FROM {rows})
                             WHERE v IS NOT NULL GROUP BY v),
                 placed AS (SELECT v, sum(n) OVER (ORDER BY v)::BIGINT AS upto, sum(n) OVER ()::BIGINT AS every
                            FROM counted)
            SELECT max(every), {ends} FROM placed"""  # noqa: S608
    every, *found = (calls.known(query) if rows == _NOW else calls.rows(query))[0]
    if not every:
        return [None] * len(shares)
    return [
        round(low + (high - low) * ((every - 1) * share % 1), 6)
        for share, low, high in zip(shares, found[::2], found[1::2], strict=True)
    ]
