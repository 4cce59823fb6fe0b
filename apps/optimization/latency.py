"""How long answers take: percentiles of what the log shows, and of the same calls with some times replaced."""

from typing import Any

from apps.optimization.calls import Calls
from apps.optimization.results import Latency, Times

_SECONDS = "epoch(c.ended_at) - epoch(c.started_at)"
_FIRST = "epoch(c.first_token_at) - epoch(c.started_at)"
# Who was answered: a failure takes its time too, but nobody would call it an answer.
_ANSWERED = "c.status IS DISTINCT FROM 'failed' AND c.batch IS NOT TRUE AND c.started_at IS NOT NULL"


def latency(calls: Calls, *, changed: str | None = None, seconds: str = "NULL", first: str = "NULL") -> Latency:
    """Seconds now, and with the calls of the query `changed` (a column "call") at other times.

    `seconds`, and `first` of the first token, are SQL over a call `c` and its row `x` of `changed`; NULL where nobody
    knows it, which makes the whole `after` unknown. Without `changed`, every call keeps its time. One pass.
    """
    if changed is None:
        before = _times(calls.row(f"SELECT {_percentiles(_SECONDS, _FIRST)} FROM calls c WHERE {_ANSWERED}"))  # noqa: S608
        return Latency(before=before, after=before)
    # The same calls before and after: those whose times the log shows.
    new = f"CASE WHEN x.call IS NULL OR {_SECONDS} IS NULL THEN {_SECONDS} ELSE {seconds} END"
    new_first = f"CASE WHEN x.call IS NULL OR {_FIRST} IS NULL THEN {_FIRST} ELSE {first} END"
    found = calls.row(
        f"""SELECT {_percentiles(_SECONDS, _FIRST)}, {_percentiles(new, new_first)},
                   coalesce(bool_or(x.call IS NOT NULL AND {_SECONDS} IS NOT NULL AND ({seconds}) IS NULL), false),
                   coalesce(bool_or(x.call IS NOT NULL AND {_FIRST} IS NOT NULL AND ({first}) IS NULL), false)
            FROM calls c LEFT JOIN ({changed}) x USING ("call") WHERE {_ANSWERED}"""  # noqa: S608
    )
    *numbers, unknown, first_unknown = found
    after = _times((None, numbers[3]) if unknown else tuple(numbers[2:]))
    if first_unknown:
        after = after.model_copy(update={"ttft": None})
    return Latency(before=_times(tuple(numbers[:2])), after=after)


def without(calls: Calls, gone: str) -> Latency:
    """Seconds now, and without the calls of the query `gone` (a column "call"), which nobody would make."""
    kept = f'{_ANSWERED} AND c."call" NOT IN ({gone})'
    before = calls.row(f"SELECT {_percentiles(_SECONDS, _FIRST)} FROM calls c WHERE {_ANSWERED}")  # noqa: S608
    after = calls.row(f"SELECT {_percentiles(_SECONDS, _FIRST)} FROM calls c WHERE {kept}")  # noqa: S608
    return Latency(before=_times(before), after=_times(after))


def _percentiles(seconds: str, first: str) -> str:
    """[p50, p95], and the median time to the first token; NULL where no call has the times.

    Both percentiles are asked at once, because DuckDB keeps all values for each time that it is asked.
    """
    return f"quantile_cont({seconds}, [0.5, 0.95]), quantile_cont({first}, 0.5)"


def _times(row: tuple[Any, ...]) -> Times:
    both, first = row
    p50, p95, ttft = (
        None if number is None else round(float(number), 6) for number in (*(both or (None, None)), first)
    )
    return Times(p50=p50, p95=p95, ttft=ttft)
