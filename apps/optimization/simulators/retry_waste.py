"""Attempts that were paid for in vain: failures that cost something, and requests asked again after their answer."""

from typing import Any

from apps.optimization.calls import Calls
from apps.optimization.latency import without
from apps.optimization.overview import by_feature, known_cost, spend
from apps.optimization.results import Strategy, in_dollars, usd
from apps.optimization.simulators import DEFAULTS, Options, free_sql, priceless, strategy

WINDOW = 600  # seconds in which the same question of the same user or trace is the same request
LATENCY = "Nobody waits longer; a repeat that is not made again frees its own time only."
# What the caller could have known before asking, told by the words that providers and gateways use.
_KINDS = """CASE
    WHEN error IS NULL THEN 'unknown'
    WHEN regexp_matches(lower(error), 'rate.?limit|429|quota|budget|too many') THEN 'limit'
    WHEN regexp_matches(lower(error), 'context|invalid|bad.?request|400|422|schema|unsupported|not.?found|404|auth|401'
        || '|403|permission|content.?(filter|policy)') THEN 'request'
    WHEN regexp_matches(lower(error), 'time.?out|408|504|deadline') THEN 'timeout'
    WHEN regexp_matches(lower(error), '5\\d\\d|overload|unavailable|server|connection|internal') THEN 'provider'
    ELSE 'unknown' END"""
AVOIDABLE = ("request", "limit", "repeat")  # a check, a slower pace, or one's own answer would have done
# A trace has many different calls, so only the same question makes two attempts one request. Where no prompt is known,
# a failure's next attempt is told by the model and the size of the input.
_ATTEMPTS = """
    CREATE OR REPLACE TEMP TABLE attempts AS
    WITH keyed AS (
        SELECT *, coalesce(ended_at, started_at) AS over_at,
               CASE WHEN prompt_hash IS NOT NULL AND coalesce(trace_id, "user") IS NOT NULL
                    THEN hash(coalesce(trace_id, "user"), trace_id IS NULL, prompt_hash, model, parameters_hash)
                    WHEN trace_id IS NOT NULL THEN hash(trace_id, model, input_tokens) END AS request
        FROM calls WHERE cached_answer IS NOT TRUE
    ), linked AS (
        SELECT *, min(over_at) FILTER (status IS DISTINCT FROM 'failed') OVER before AS answered_at,
               lead(started_at) OVER (PARTITION BY request ORDER BY started_at) AS next_at
        FROM keyed
        WINDOW before AS (PARTITION BY request ORDER BY started_at
                          RANGE BETWEEN INTERVAL {window} SECOND PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW)
    )
    SELECT "call", feature, cost_pico,
           CASE WHEN status = 'failed' THEN {kinds} ELSE 'repeat' END AS kind,
           request IS NOT NULL AND next_at <= over_at + INTERVAL {window} SECOND AS retried
    FROM linked
    WHERE billed AND {free} AND (status = 'failed' OR (request IS NOT NULL AND prompt_hash IS NOT NULL
          AND coalesce(temperature, 0) = 0 AND answered_at <= started_at))
"""


_UNTOLD = "No call says whether it failed, so only what was asked again after its answer is counted."


@strategy(stage="drop")
def retry_waste(calls: Calls, options: Options = DEFAULTS) -> Strategy:
    """The cost of billed failures that could have been foreseen, and of requests asked again after their answer."""
    told, linked = calls.row("SELECT count(status), count(coalesce(trace_id, prompt_hash::VARCHAR)) FROM calls")
    if not told and not linked:
        return _strategy(
            saving_usd=None,
            missing=("status", "trace_id"),
            why="The calls say neither whether they failed nor which of them belong to one request.",
        )
    if spend(calls) is None:
        return _strategy(saving_usd=None, missing=("price",), why="No call has a known price.")
    calls.connection.execute(_ATTEMPTS.format(window=WINDOW, kinds=_KINDS, free=free_sql(options)))
    calls.connection.execute(
        """CREATE OR REPLACE TEMP TABLE treatment_retry_waste AS
           SELECT "call" FROM attempts WHERE kind IN (SELECT unnest(?::VARCHAR[]))""",
        [list(AVOIDABLE)],
    )
    return _result(calls, told=bool(told))


def _result(calls: Calls, *, told: bool) -> Strategy:
    count, saving, unpriced = calls.row(
        """SELECT count(*), sum(cost_pico), count(*) FILTER (cost_pico IS NULL)
           FROM attempts JOIN treatment_retry_waste USING ("call")"""
    )
    unbilled = calls.row("SELECT count(*) FROM calls WHERE status = 'failed' AND NOT billed")[0]
    return _strategy(
        saving_usd=in_dollars(known_cost(count, saving)),
        missing=("price",) if count and unpriced == count else (),
        why=" ".join(filter(None, (priceless(unpriced, count, "avoidable attempts"), None if told else _UNTOLD)))
        or None,
        latency=without(calls, 'SELECT "call" FROM treatment_retry_waste'),
        detail={
            "avoidable_calls": count,
            "failures_without_a_bill": unbilled,
            "by_kind": _by_kind(calls),
            "by_feature": by_feature(calls, "attempts", "treatment_retry_waste"),
        },
    )


def _by_kind(calls: Calls) -> list[dict[str, Any]]:
    found = calls.rows(
        """SELECT kind, count(*), count(*) FILTER (retried), sum(cost_pico) FROM attempts
           GROUP BY 1 ORDER BY 4 DESC NULLS LAST, 1"""
    )
    return [
        {
            "kind": kind,
            "calls": count,
            "tried_again": retried,
            "cost_usd": usd(known_cost(count, cost)),
            "avoidable": kind in AVOIDABLE,
        }
        for kind, count, retried, cost in found
    ]


def _strategy(**more: Any) -> Strategy:
    return Strategy(
        name="retry_waste",
        title="Stop paying for attempts in vain",
        evidence="E2",
        up_to=False,
        assumptions=(
            "Avoidable: a request that could not succeed, one beyond a limit, one asked again after its answer.",
            "Not avoidable: the provider's own failures, timeouts and errors that nobody names.",
            f"The same question of the same trace or user within {WINDOW} seconds is the same request.",
            "A failure without a recorded cost was not billed and costs nothing.",
            "Above temperature 0 a second answer may be wanted; it is not counted.",
        ),
        latency_effect=LATENCY,
        **more,
    )
