"""The same request sent twice: while the first was under way or moments after it, answered and billed anyway."""

from typing import Any

import numpy as np

from apps.optimization.calls import Calls
from apps.optimization.latency import without
from apps.optimization.overview import by_feature, known_cost, spend
from apps.optimization.repeats import APART, KIND, NOBODY, OWNER, PLAIN, SAME, served_by, taken_for_granted
from apps.optimization.results import Strategy, in_dollars, usd
from apps.optimization.simulators import DEFAULTS, Options, free_sql, priceless, strategy

MOMENTS = 2  # seconds after its start in which a request sent again is taken for the same one, also if answered already
LATENCY = "Who sent it twice gets the first one's answer, which comes no later; the second one's time is gone."
# In a batch nobody clicks twice.
_SENT = """
    CREATE OR REPLACE TEMP TABLE sent AS
    SELECT "call", feature, cost_pico, hash({same}, {owner}) AS same, epoch(started_at) AS began,
           epoch(started_at) + greatest({moments}, coalesce(epoch(ended_at) - epoch(started_at), 0)) AS over,
           {kind} AS kind
    FROM calls
    WHERE billed AND status IS DISTINCT FROM 'failed' AND batch IS NOT TRUE AND prompt_hash IS NOT NULL
      AND started_at IS NOT NULL AND ({owner}) IS NOT NULL AND {free}
    QUALIFY count(*) OVER (PARTITION BY hash({same}, {owner})) > 1
"""


@strategy(stage="drop")
def duplicate_calls(calls: Calls, options: Options = DEFAULTS) -> Strategy:
    """The cost of every call that was sent while the same user's same request was under way, or moments after it."""
    hashed, timed, owned, fine = calls.row(
        f"""SELECT count(*) FILTER (prompt_hash IS NOT NULL), count(*) FILTER (started_at IS NOT NULL),
                   count(*) FILTER (({OWNER}) IS NOT NULL),
                   count(*) FILTER (started_at <> date_trunc('minute', started_at)) FROM calls WHERE billed"""  # noqa: S608
    )
    missing = [name for name, said in (("prompt", hashed), ("started_at", timed), ("user", owned)) if not said]
    if missing:
        return _strategy(
            saving_usd=None,
            missing=tuple(missing),
            why=f"The calls carry no {' and no '.join(missing)}, so one request sent twice looks like two.",
        )
    if spend(calls) is None:
        return _strategy(saving_usd=None, missing=("price",), why="No call has a known price.")
    if not fine:
        return _strategy(
            saving_usd=None,
            missing=("started_at",),
            why="The times are whole minutes, so one request sent twice looks like two.",
        )
    calls.connection.execute(_SENT.format(same=SAME, owner=OWNER, moments=MOMENTS, kind=KIND, free=free_sql(options)))
    rows = calls.connection.execute('SELECT * FROM sent ORDER BY same, began, "call"').fetchnumpy()
    began = np.asarray(rows["began"])
    # The answer is there for whoever waits for it as soon as it has been asked for.
    first = served_by(
        np.asarray(rows["same"]),
        began,
        np.full(len(began), -np.inf),
        np.asarray(rows["over"]),
        np.ones(len(began), dtype=bool),
    )
    calls.connection.execute(
        'CREATE OR REPLACE TEMP TABLE sent_twice AS SELECT unnest(?::BIGINT[]) AS "call", unnest(?::DOUBLE[]) AS after',
        [rows["call"][first != NOBODY].tolist(), (began - began[first])[first != NOBODY].tolist()],
    )
    calls.connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE treatment_duplicate_calls AS
            SELECT "call" FROM sent_twice JOIN sent USING ("call") WHERE kind = {PLAIN}"""  # noqa: S608
    )
    return _result(calls, owned)


def _result(calls: Calls, owned: int) -> Strategy:
    by_kind = {
        kind: rest
        for kind, *rest in calls.rows(
            """SELECT kind, count(*), sum(cost_pico), count(*) FILTER (cost_pico IS NULL), median(after)
               FROM sent_twice JOIN sent USING ("call") GROUP BY 1"""
        )
    }
    count, saving, unpriced, after = by_kind.get(PLAIN, (0, None, 0, None))
    return _strategy(
        granted=taken_for_granted(calls, "treatment_duplicate_calls", "duplicates"),
        saving_usd=in_dollars(known_cost(count, saving)),
        missing=("price",) if count and unpriced == count else (),
        why=priceless(unpriced, count, "duplicates"),
        latency=without(calls, 'SELECT "call" FROM treatment_duplicate_calls'),
        detail={
            "duplicates": count,
            "median_seconds_after_the_first": None if after is None else round(after, 3),
            "calls_with_owner": owned,
            "apart": [
                {"because": because, "duplicates": by_kind[kind][0], "saving_usd": usd(known_cost(*by_kind[kind][:2]))}
                for kind, because in APART.items()
                if kind in by_kind
            ],
            "by_feature": by_feature(calls, "sent", "treatment_duplicate_calls"),
        },
    )


def _strategy(*, granted: tuple[str, ...] = (), **more: Any) -> Strategy:
    return Strategy(
        name="duplicate_calls",
        title="Send each request once",
        evidence="E2",
        up_to=False,
        assumptions=(
            "Same prompt, model and parameters, same user (else session, else trace), neither failed nor in a batch.",
            f"Sent again before the first was answered, or within {MOMENTS} seconds of its start.",
            "Above temperature 0 several answers may be wanted, with tools what each does: told apart and not counted.",
            "What was sent again right after its answer may count as an attempt in vain too; together it counts once.",
            *granted,
        ),
        latency_effect=LATENCY,
        **more,
    )
