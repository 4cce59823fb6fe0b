"""Send calls that can wait through the provider's batch API."""

from typing import Any

from apps.llm.amounts import spell_dollars
from apps.llm.pricing import BATCH, band_sql, cost_sql
from apps.optimization.calls import Calls
from apps.optimization.latency import latency
from apps.optimization.overview import known_cost, part_of, spend
from apps.optimization.results import Latency, Strategy, in_dollars, usd
from apps.optimization.simulators import DEFAULTS, Options, free_sql, priceless, strategy
from apps.optimization.tariffs import Key, create_tariff

BATCH_WINDOW = 24 * 3600.0  # seconds; providers promise an answer within a day
SHOWN = 20
LATENCY = "Batched calls answer within 24 hours instead of seconds. Every other call keeps its time."
# Somebody who waits cannot be batched, whatever the deadline says; an answer that streams is waited for.
_CAN_WAIT = "interactive IS NOT TRUE AND coalesce(deadline_seconds >= ?, interactive IS FALSE)"
_SAYS = "(interactive IS NOT NULL OR deadline_seconds IS NOT NULL)"
# What is free cannot be cheaper, and what failed brought nothing that could have come later.
_OPEN = """billed AND status IS DISTINCT FROM 'failed' AND batch IS NOT TRUE AND stream IS NOT TRUE
    AND cost_pico IS DISTINCT FROM 0"""


@strategy(stage="batch")
def batch_eligible(calls: Calls, options: Options = DEFAULTS) -> Strategy:
    """What the calls that can wait would have cost at batch prices, for the models whose batch price is known."""
    says = bool(options.waits) or calls.row(f"SELECT count(*) FROM calls WHERE {_SAYS}")[0] > 0  # noqa: S608
    condition, parameters = _can_wait(options) if says else ("true", [])
    _reprice(calls, f"{free_sql(options)} AND {condition}", parameters)
    calls.connection.execute(
        """CREATE OR REPLACE TEMP TABLE treatment_batch_eligible AS
           SELECT "call" FROM batched WHERE batch_pico < cost_pico"""
    )
    return _result(calls, options, hinted=says)


def _can_wait(options: Options) -> tuple[str, list[Any]]:
    """The condition, with its parameters: what the owner says of a feature goes before what its calls say."""
    named = " ".join("WHEN feature = ? THEN ?" for _ in options.waits) or "WHEN false THEN false"
    said = [each for feature, seconds in options.waits.items() for each in (feature, seconds >= BATCH_WINDOW)]
    return f"CASE {named} ELSE {_CAN_WAIT} END", [*said, BATCH_WINDOW]


def _reprice(calls: Calls, condition: str, parameters: list[Any]) -> None:
    eligible = f"FROM calls WHERE {_OPEN} AND {condition}"
    keys = calls.rows(
        f"SELECT DISTINCT model, coalesce(provider, ''), price_moment {eligible} AND cost_pico IS NOT NULL",
        parameters,
    )
    calls.connection.execute("DROP TABLE IF EXISTS batch_tariff")
    create_tariff(
        calls.connection,
        "batch_tariff",
        (Key(model=model, provider=provider, moment=moment, tier=BATCH) for model, provider, moment in keys),
        lambda key: calls.catalogue.rates(model=key.model, provider=key.provider, at=key.at),
    )
    calls.connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE batched AS
            SELECT c."call", c.model, c.feature, c.cost_pico, {cost_sql("c", "t")} AS batch_pico
            FROM (SELECT * {eligible}) c LEFT JOIN batch_tariff t
              ON t.model = c.model AND t.provider = coalesce(c.provider, '') AND t.moment = c.price_moment
             AND {band_sql("c", "t")}""",  # noqa: S608
        parameters,
    )


def _result(calls: Calls, options: Options, *, hinted: bool) -> Strategy:
    count, cost, saving, unpriced, unlisted = calls.row(
        """SELECT count(*), sum(cost_pico), sum(cost_pico - batch_pico), count(*) FILTER (cost_pico IS NULL),
                  coalesce(sum(cost_pico) FILTER (batch_pico IS NULL), 0) FROM batched"""
    )
    eligible = known_cost(count, cost)
    silent = _silent_share(calls, options)
    detail = {
        "eligible_calls": count,
        "eligible_unpriced": unpriced,
        "eligible_usd": usd(eligible),
        "eligible_share_of_spend": part_of(eligible, spend(calls)),
        "without_known_batch_price_usd": None if eligible is None else usd(unlisted),
        "silent_share_of_spend": silent,
        "by_feature": _groups(calls, "feature"),
        "by_model": _groups(calls, "model"),
    }
    missing, remarks = _lacking(count, unpriced, eligible, int(unlisted))
    if hinted and silent and not missing:
        remarks = (*remarks, f"Of {silent:.1%} of the spend nobody says whether it can wait; that is not counted.")
    return _strategy(
        saving_usd=in_dollars(known_cost(count, saving)),
        up_to=not hinted,
        latency=_latency(calls),
        missing=missing or (() if hinted else ("interactive", "deadline_seconds")),
        why=" ".join(remarks if hinted or missing else (_CEILING, *remarks)) or None,
        detail=detail,
    )


def _latency(calls: Calls) -> Latency:
    """Batched calls at the time that the provider promises: never a gain."""
    window = str(BATCH_WINDOW)
    return latency(calls, changed='SELECT "call" FROM batched', seconds=window, first=window)


_CEILING = "No call says whether somebody waits for it, so this is what batching every call would save."


def _lacking(count: int, unpriced: int, eligible: int | None, unlisted: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What keeps the saving from being computed, if something does, and what to say of calls that are not in it."""
    without = priceless(unpriced, count, "calls that can wait")
    remarks = (without,) if without else ()
    if count and unpriced == count:
        return ("price",), remarks
    if count and unlisted == eligible:
        return ("batch_price",), ("No batch price is known for these models.", *remarks)
    if unlisted:
        cost = spell_dollars(in_dollars(unlisted))
        remarks = (*remarks, f"Calls for {cost} have no known batch price; they are taken to save nothing.")
    return (), remarks


def _silent_share(calls: Calls, options: Options) -> float | None:
    """Share of the spend of which nobody says whether it can wait; it is not counted as eligible."""
    silent = calls.row(
        f"""SELECT count(*), sum(cost_pico) FROM calls
            WHERE billed AND NOT {_SAYS} AND NOT coalesce(list_contains(?::VARCHAR[], feature), false)""",  # noqa: S608
        [list(options.waits)],
    )
    return part_of(known_cost(*silent), spend(calls))


def _groups(calls: Calls, column: str) -> list[dict[str, Any]]:
    found = calls.rows(
        f"""SELECT {column}, count(*), sum(cost_pico), sum(cost_pico - batch_pico) FROM batched
            GROUP BY 1 ORDER BY 4 DESC NULLS LAST, 1 LIMIT ?""",  # noqa: S608
        [SHOWN],
    )
    return [
        {
            column: key,
            "calls": count,
            "cost_usd": usd(cost),
            "saving_usd": usd(saving),
        }
        for key, count, cost, saving in found
    ]


def _strategy(*, up_to: bool, **more: Any) -> Strategy:
    return Strategy(
        name="batch_eligible",
        title="Send what can wait through a batch API",
        evidence="E0" if up_to else "E2",
        up_to=up_to,
        assumptions=(
            "Every call that does not stream is taken to wait a day."
            if up_to
            else "A call can wait if the owner says so of its feature; else if its deadline is a day or more, or it "
            "has none and says that nobody waits; one that says that somebody waits cannot.",
            "The same tokens at the model's listed batch price; answers do not change.",
            "A batch price that is listed only from a later day counts if the standard price was the same.",
            "Calls that stream are waited for.",
            "Failures and calls that went through a batch API already are left out.",
        ),
        latency_effect=LATENCY,
        **more,
    )
