"""Attempts that were paid for in vain: failures that cost something, and requests asked again after their answer."""

from typing import Any

import numpy as np

from apps.optimization.calls import Calls
from apps.optimization.latency import without
from apps.optimization.overview import by_feature, known_cost, spend
from apps.optimization.repeats import (
    COMPLETE,
    KIND,
    NOBODY,
    OWNER,
    PLAIN,
    SAME,
    forever,
    served_by,
    taken_for_granted,
)
from apps.optimization.results import Strategy, in_dollars, usd
from apps.optimization.simulators import DEFAULTS, Options, free_sql, priceless, strategy

WINDOW = 600.0  # seconds after its answer in which the same question of the same caller is the same request
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
# A trace has many different calls, so only the same question makes two attempts one request.
_REQUEST = f"CASE WHEN prompt_hash IS NOT NULL AND ({OWNER}) IS NOT NULL THEN hash({SAME}, {OWNER}, trace_id) END"
_ASKED = """
    CREATE OR REPLACE TEMP TABLE asked AS
    SELECT "call", {request} AS same, epoch(started_at) AS began,
           epoch(greatest(coalesce(ended_at, started_at), started_at)) AS ended, {complete} AS complete
    FROM calls
    WHERE billed AND status IS DISTINCT FROM 'failed' AND started_at IS NOT NULL AND {kind} = {plain} AND {free}
      AND ({request}) IS NOT NULL
    QUALIFY count(*) OVER (PARTITION BY same) > 1
"""
# Where no prompt is known, a failure's next attempt is told by the trace, the model and the size of the input.
_ATTEMPTS = """
    CREATE OR REPLACE TEMP TABLE attempts AS
    WITH followed AS (
        SELECT *, lead(started_at) OVER (PARTITION BY request ORDER BY started_at) AS next_at
        FROM (SELECT *, coalesce({request}, CASE WHEN trace_id IS NOT NULL THEN hash(trace_id, model, input_tokens) END)
                        AS request FROM calls WHERE cached_answer IS NOT TRUE)
    )
    SELECT "call", feature, cost_pico, CASE WHEN status = 'failed' THEN {kinds} ELSE 'repeat' END AS kind,
           coalesce(request IS NOT NULL
                    AND next_at <= coalesce(ended_at, started_at) + INTERVAL {window} SECOND, false) AS retried
    FROM followed
    WHERE billed AND {free} AND (status = 'failed' OR "call" IN (FROM asked_again))
"""


_UNTOLD = "No call says whether it failed, so only what was asked again after its answer is counted."
_UNLINKED = "No call shows both its prompt and whose it is, so only failures are counted."


@strategy(stage="drop")
def retry_waste(calls: Calls, options: Options = DEFAULTS) -> Strategy:
    """The cost of billed failures that could have been foreseen, and of requests asked again after their answer."""
    told, hashed, owned, linked = calls.row(
        f"""SELECT count(status), count(prompt_hash), count({OWNER}), count({_REQUEST}) FROM calls"""  # noqa: S608
    )
    if not told and not linked:
        lacking = [name for name, said in (("prompt", hashed), ("user", owned)) if not said]
        return _strategy(
            options,
            saving_usd=None,
            missing=("status", *lacking),
            why="The calls say neither whether they failed nor which of them ask the same again.",
        )
    if spend(calls) is None:
        return _strategy(options, saving_usd=None, missing=("price",), why="No call has a known price.")
    _ask_again(calls, options)
    calls.connection.execute(_ATTEMPTS.format(request=_REQUEST, window=WINDOW, kinds=_KINDS, free=free_sql(options)))
    calls.connection.execute(
        """CREATE OR REPLACE TEMP TABLE treatment_retry_waste AS
           SELECT "call" FROM attempts WHERE kind IN (SELECT unnest(?::VARCHAR[]))""",
        [list(AVOIDABLE)],
    )
    return _result(calls, options, (None if told else _UNTOLD, None if linked else _UNLINKED))


def _ask_again(calls: Calls, options: Options) -> None:
    """Make `asked_again` of the calls that had their answer already, as a cache holds it, but only while it lasts."""
    free = free_sql(options)
    calls.connection.execute(_ASKED.format(request=_REQUEST, complete=COMPLETE, kind=KIND, plain=PLAIN, free=free))
    rows = calls.connection.execute('SELECT * FROM asked ORDER BY same, began, "call"').fetchnumpy()
    began, ended, complete = (np.asarray(rows[name]) for name in ("began", "ended", "complete"))
    found = served_by(np.asarray(rows["same"]), began, ended, ended + _lasts(options), complete.astype(bool))
    calls.connection.execute(
        'CREATE OR REPLACE TEMP TABLE asked_again AS SELECT unnest(?::BIGINT[]) AS "call"',
        [rows["call"][found != NOBODY].tolist()],
    )


def _lasts(options: Options) -> float:
    """Seconds after its answer in which a question is the same request; an answer is of no use beyond its life."""
    return min(WINDOW, forever(options.answers_kept))


def _result(calls: Calls, options: Options, untold: tuple[str | None, ...]) -> Strategy:
    count, saving, unpriced = calls.row(
        """SELECT count(*), sum(cost_pico), count(*) FILTER (cost_pico IS NULL)
           FROM attempts JOIN treatment_retry_waste USING ("call")"""
    )
    unbilled = calls.row("SELECT count(*) FROM calls WHERE status = 'failed' AND NOT billed")[0]
    return _strategy(
        options,
        granted=taken_for_granted(calls, "asked_again", "repeats"),
        saving_usd=in_dollars(known_cost(count, saving)),
        missing=("price",) if count and unpriced == count else (),
        why=" ".join(filter(None, (priceless(unpriced, count, "avoidable attempts"), *untold))) or None,
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


def _strategy(options: Options, *, granted: tuple[str, ...] = (), **more: Any) -> Strategy:
    return Strategy(
        name="retry_waste",
        title="Stop paying for attempts in vain",
        evidence="E2",
        up_to=False,
        assumptions=(
            "Avoidable: a request that could not succeed, one beyond a limit, one asked again after its answer.",
            "Not avoidable: the provider's own failures, timeouts and errors that nobody names.",
            "Asked again: the same call of the same user (else session, else trace) and the same trace, within "
            f"{_lasts(options):,.0f} seconds after a complete answer.",
            "A failure without a recorded cost was not billed and costs nothing.",
            "Above temperature 0 a second answer may be wanted, with tools what they do: no such repeat is counted.",
            *granted,
        ),
        latency_effect=LATENCY,
        **more,
    )
