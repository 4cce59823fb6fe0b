"""Send less of the conversation again: what the history costs, and what each tenth of it would save. A ceiling."""

from typing import Any

from apps.llm.pricing import cost_sql
from apps.optimization.calls import Calls
from apps.optimization.latency import latency
from apps.optimization.overview import known_cost, part_of, spend
from apps.optimization.results import Strategy, in_dollars, usd
from apps.optimization.simulators import DEFAULTS, Options, free_sql, strategy
from apps.optimization.tariffs import create_own_tariff, joined_sql

SHOWN = 20
LATENCY = "Shorter inputs start to answer sooner; by how much, these calls cannot show."
# Where the source does not tell the parts apart: what the call before it in the session had in and out comes again.
_HISTORY = """
    SELECT *, CASE WHEN history_tokens IS NOT NULL THEN least(history_tokens, input_tokens)
                   WHEN before IS NOT NULL AND before <= input_tokens THEN before END AS history
    FROM (SELECT *, lag(input_tokens + output_tokens) OVER (PARTITION BY "session" ORDER BY started_at, "call")
                    - coalesce(system_tokens, 0) AS before
          FROM calls WHERE billed AND "session" IS NOT NULL AND started_at IS NOT NULL
          UNION ALL BY NAME
          SELECT *, NULL::BIGINT AS before FROM calls
          WHERE billed AND ("session" IS NULL OR started_at IS NULL) AND history_tokens IS NOT NULL)
"""


@strategy(stage="trim")
def context_trimming(calls: Calls, options: Options = DEFAULTS) -> Strategy:
    """What `options.trimmed` of the history costs. Whether the answers stay as good is unknown, so it is a ceiling."""
    _trim(calls, options)
    known, parts = calls.row("SELECT count(*), count(history_tokens) FROM trimmed")
    if not known:
        return _strategy(
            options,
            saving_usd=None,
            missing=("history_tokens", "session"),
            why="No call says how much of its input is history, and no session shows what is sent again.",
        )
    return _result(calls, options, parts=parts)


def _trim(calls: Calls, options: Options) -> None:
    """Cached tokens go first: the history is what a provider's cache holds, and trimming saves its lower price only."""
    create_own_tariff(calls, "trim_tariff")
    less = """history_tokens, "call", feature, model, provider, price_moment, batch, service_tier, cost_pico, history,
              less, reasoning_tokens, output_audio_tokens,
              least(input_audio_tokens, input_tokens - less) AS input_audio_tokens,
              input_tokens - less AS input_tokens, cached_read_tokens - from_read AS cached_read_tokens,
              cached_write_tokens - from_write AS cached_write_tokens,
              least(cached_write_1h_tokens, cached_write_tokens - from_write) AS cached_write_1h_tokens,
              output_tokens"""
    calls.connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE trimmed AS
            WITH h AS (SELECT *, floor(history * ?)::BIGINT AS less FROM ({_HISTORY})
                       WHERE history > 0 AND {free_sql(options)}),
                 r AS (SELECT *, least(less, cached_read_tokens) AS from_read FROM h),
                 w AS (SELECT *, least(less - from_read, cached_write_tokens) AS from_write FROM r),
                 c AS (SELECT {less} FROM w)
            SELECT c."call", c.feature, c.history_tokens, c.history, c.less, c.cost_pico,
                   c.cost_pico - ({cost_sql("c", "t")}) AS saved
            FROM c LEFT JOIN trim_tariff t ON {joined_sql("c", "t")}""",  # noqa: S608
        [options.trimmed],
    )
    calls.connection.execute(
        """CREATE OR REPLACE TEMP TABLE treatment_context_trimming AS
           SELECT "call", less AS less_input, 0::BIGINT AS less_output FROM trimmed WHERE less > 0"""
    )


def _result(calls: Calls, options: Options, *, parts: int) -> Strategy:
    count, saved, priced, history = calls.row("SELECT count(*), sum(saved), count(saved), sum(history) FROM trimmed")
    saving = known_cost(count, saved)
    return _strategy(
        options,
        saving_usd=in_dollars(saving),
        missing=() if priced else ("price",),
        why="Fewer tokens at the price they paid; whether the answers stay as good is not measured.",
        latency=latency(calls, changed='SELECT "call" FROM treatment_context_trimming'),
        detail={
            "calls": count,
            "calls_that_tell_history_apart": parts,
            "history_tokens": int(history),
            "share_of_spend": part_of(saving, spend(calls)),
            "by_feature": _by_feature(calls),
            "retrieved_tokens": _retrieved(calls),
        },
    )


def _by_feature(calls: Calls) -> list[dict[str, Any]]:
    found = calls.rows(
        """SELECT feature, count(*), sum(history)::BIGINT, sum(saved) FROM trimmed
           GROUP BY 1 ORDER BY 4 DESC NULLS LAST, 1 LIMIT ?""",
        [SHOWN],
    )
    return [
        {"feature": feature, "calls": count, "history_tokens": history, "saving_usd": usd(saved)}
        for feature, count, history, saved in found
    ]


def _retrieved(calls: Calls) -> int | None:
    """Tokens of retrieved documents; None where no call tells them apart."""
    (found,) = calls.row("SELECT sum(retrieved_tokens) FROM calls WHERE billed")
    return None if found is None else int(found)


def _strategy(options: Options, **more: Any) -> Strategy:
    return Strategy(
        name="context_trimming",
        title="Send less history again",
        evidence="E0",
        up_to=True,
        assumptions=(
            f"{options.trimmed:.0%} of the history is left out of every call; the answers stay as long.",
            "Where the parts of the input are not told apart, history is what the session's last call had in and out.",
            "Cached tokens are taken away first and save only the cached price.",
            "Cutting at the front changes the prefix, so that the first call after a cut finds a cold cache; that is "
            "not taken off.",
        ),
        latency_effect=LATENCY,
        **more,
    )
