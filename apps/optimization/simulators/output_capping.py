"""Cap the answers that are much longer than their feature's others; a ceiling, because what is cut may be wanted."""

from typing import Any

from apps.optimization.calls import Calls
from apps.optimization.latency import latency
from apps.optimization.overview import known_cost, part_of, spend
from apps.optimization.results import Strategy, in_dollars, usd
from apps.optimization.simulators import DEFAULTS, Options, free_sql, strategy
from apps.optimization.tariffs import create_own_tariff, joined_sql

MIN_CALLS = 20  # of a feature; fewer say nothing about its longest answers
SHOWN = 20
LATENCY = "Shorter answers end sooner; by how much, these calls cannot show."


@strategy(stage="trim")
def output_capping(calls: Calls, options: Options = DEFAULTS) -> Strategy:
    """What the tokens beyond a feature's cap cost. Reasoning is not capped but told separately."""
    _cap(calls, options)
    (count,) = calls.row("SELECT count(*) FROM capped")
    if not count:
        return _strategy(
            options,
            saving_usd=None,
            missing=(),
            why=f"No feature has the {MIN_CALLS} answers with output that a cap would be taken from.",
        )
    return _result(calls, options)


def _cap(calls: Calls, options: Options) -> None:
    create_own_tariff(calls, "cap_tariff")
    calls.connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE capped AS
            WITH seen AS (SELECT *, output_tokens - reasoning_tokens AS visible FROM calls
                          WHERE billed AND status IS DISTINCT FROM 'failed' AND output_tokens > 0
                            AND {free_sql(options)}),
                 caps AS (SELECT feature, quantile_disc(visible, ?) AS cap FROM seen
                          GROUP BY feature HAVING count(*) >= {MIN_CALLS}),
                 c AS (SELECT seen.*, caps.cap, greatest(visible - caps.cap, 0) AS less
                       FROM seen JOIN caps ON caps.feature IS NOT DISTINCT FROM seen.feature)
            SELECT c."call", c.feature, c.cap, c.less, c.cost_pico, c.reasoning_tokens, c.less * t.output AS saved,
                   c.reasoning_tokens * t.output AS reasoning_pico,
                   coalesce(c.finish_reason IN ('length', 'max_tokens', 'MAX_TOKENS')
                            OR c.output_tokens >= c.max_output_tokens, false) AS cut
            FROM c LEFT JOIN cap_tariff t ON {joined_sql("c", "t")}""",  # noqa: S608
        [options.output_percentile],
    )
    calls.connection.execute(
        """CREATE OR REPLACE TEMP TABLE treatment_output_capping AS
           SELECT "call", 0::BIGINT AS less_input, less AS less_output FROM capped WHERE less > 0"""
    )


def _result(calls: Calls, options: Options) -> Strategy:
    count, saved, priced, longer, cut, reasoning = calls.row(
        """SELECT count(*), sum(saved), count(saved), count(*) FILTER (less > 0), count(*) FILTER (cut),
                  sum(reasoning_pico) FROM capped"""
    )
    saving = known_cost(count, saved)
    return _strategy(
        options,
        saving_usd=in_dollars(saving),
        missing=() if priced else ("price",),
        why="The longest answers would be cut; whether what is cut is needed is not measured.",
        latency=latency(calls, changed='SELECT "call" FROM treatment_output_capping'),
        detail={
            "calls": count,
            "truncated_calls": longer,
            "truncated_share": round(longer / count, 6),
            "cut_already": cut,
            "share_of_spend": part_of(saving, spend(calls)),
            "reasoning_usd": usd(known_cost(count, reasoning)),
            "by_feature": _by_feature(calls),
        },
    )


def _by_feature(calls: Calls) -> list[dict[str, Any]]:
    found = calls.rows(
        """SELECT feature, count(*), any_value(cap), count(*) FILTER (less > 0), sum(saved), sum(reasoning_pico)
           FROM capped GROUP BY 1 ORDER BY 5 DESC NULLS LAST, 1 LIMIT ?""",
        [SHOWN],
    )
    return [
        {
            "feature": feature,
            "calls": count,
            "cap_tokens": cap,
            "truncated_calls": longer,
            "saving_usd": usd(saved),
            "reasoning_usd": usd(reasoning),
        }
        for feature, count, cap, longer, saved, reasoning in found
    ]


def _strategy(options: Options, **more: Any) -> Strategy:
    return Strategy(
        name="output_capping",
        title="Cap the longest answers",
        evidence="E0",
        up_to=True,
        assumptions=(
            f"An answer ends at the {options.output_percentile:.0%} percentile of its feature, reasoning aside; "
            f"a feature with fewer than {MIN_CALLS} answers has no cap.",
            "What is cut is not asked for again.",
            "Reasoning is paid as output and nobody reads it: a lower effort saves a part of what it costs.",
        ),
        latency_effect=LATENCY,
        **more,
    )
