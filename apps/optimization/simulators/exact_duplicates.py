"""Answer a call that repeats an earlier one, word for word, from a cache."""

from typing import Any

from apps.optimization.calls import Calls
from apps.optimization.overview import known_cost, part_of, spend
from apps.optimization.results import Strategy, in_dollars, usd
from apps.optimization.simulators import priceless, strategy

SHOWN = 10
LATENCY = "A repeat answers at once instead of after the model's time; other calls keep their times."
# A repeat can be answered only if an earlier call with the same key had succeeded and ended by the time it started.
# Where the end is not recorded, its start stands for it.
_REPEATS = """
    CREATE OR REPLACE TEMP TABLE repeats AS
    SELECT *, started_at >= first_answer_at AND started_at > first_started_at AS repeated FROM (
        SELECT call, line, model, feature, prompt_hash, started_at, cost_pico, temperature, status,
               min(coalesce(ended_at, started_at)) FILTER (status IS DISTINCT FROM 'failed') OVER same
                   AS first_answer_at,
               min(started_at) FILTER (status IS DISTINCT FROM 'failed') OVER same AS first_started_at
        FROM calls WHERE billed AND prompt_hash IS NOT NULL AND started_at IS NOT NULL
        WINDOW same AS (PARTITION BY prompt_hash, model, provider, parameters_hash, temperature)
    )
"""


@strategy(stage="answer")
def exact_duplicates(calls: Calls) -> Strategy:
    """The cost of every call that an exact cache without expiry would have answered, replayed in time order."""
    hashed, timed = calls.row(
        """SELECT count(*) FILTER (prompt_hash IS NOT NULL), count(*) FILTER (started_at IS NOT NULL)
           FROM calls WHERE billed"""
    )
    if not hashed or not timed:
        return _not_computable(hashed=bool(hashed), timed=bool(timed))
    calls.connection.execute(_REPEATS)
    calls.connection.execute(
        "CREATE OR REPLACE TEMP TABLE treatment_exact_duplicates AS SELECT call FROM repeats WHERE repeated"
    )
    return _result(calls)


def _not_computable(*, hashed: bool, timed: bool) -> Strategy:
    missing = ([] if hashed else ["prompt"]) + ([] if timed else ["started_at"])
    return _strategy(
        saving_usd=None,
        missing=tuple(missing),
        why=f"The calls carry no {' and no '.join(missing)}, so repeats cannot be told from new questions.",
    )


def _result(calls: Calls) -> Strategy:
    repeats, saving, warm, warm_saving, unpriced, unsaid = calls.row(
        """SELECT count(*), sum(cost_pico), count(*) FILTER (temperature > 0),
                  sum(cost_pico) FILTER (temperature > 0), count(*) FILTER (cost_pico IS NULL),
                  count(*) FILTER (temperature IS NULL)
           FROM repeats WHERE repeated"""
    )
    covered = calls.row("SELECT count(*), sum(cost_pico) FROM calls WHERE billed AND prompt_hash IS NOT NULL")
    detail = {
        "repeats": repeats,
        "repeats_unpriced": unpriced,
        "repeats_temperature_above_zero": warm,
        "repeats_temperature_unknown": unsaid,
        "saving_temperature_above_zero_usd": usd(known_cost(warm or unsaid, warm_saving)),
        "covered_share_of_spend": part_of(known_cost(*covered), spend(calls)),
        "top": _most_repeated(calls),
    }
    return _strategy(
        saving_usd=in_dollars(known_cost(repeats, saving)),
        missing=("price",) if repeats and unpriced == repeats else (),
        why=priceless(unpriced, repeats, "repeats"),
        detail=detail,
    )


def _most_repeated(calls: Calls) -> list[dict[str, Any]]:
    found = calls.rows(
        """SELECT model, feature, count(*), sum(cost_pico), min(line) FROM repeats WHERE repeated
           GROUP BY prompt_hash, model, feature ORDER BY 4 DESC NULLS LAST, 3 DESC, 5 LIMIT ?""",
        [SHOWN],
    )
    return [
        {"model": model, "feature": feature, "repeats": count, "saving_usd": usd(cost), "line": line}
        for model, feature, count, cost, line in found
    ]


def _strategy(**more: Any) -> Strategy:
    return Strategy(
        name="exact_duplicates",
        title="Answer exact repeats from a cache",
        evidence="E2",
        up_to=False,
        assumptions=(
            "A repeat has the same prompt, model and parameters as an earlier call that succeeded and had ended.",
            "Answers stay valid for the whole period; a shorter life saves less.",
            "All users share the cache; a cache per user saves less.",
            "Above temperature 0 a repeat would now get the same words; that share is given separately.",
        ),
        latency_effect=LATENCY,
        **more,
    )
