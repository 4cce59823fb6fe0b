"""Ask a cheaper model for a whole feature, where judged answers to the same questions show that it is good enough."""

from itertools import groupby
from typing import Any

from apps.optimization.calls import Calls
from apps.optimization.paired import Comparison, comparisons, swapped_latency
from apps.optimization.quality.bounds import CONFIDENCE, Bound, non_inferior, required_pairs
from apps.optimization.results import Strategy, in_dollars, usd
from apps.optimization.simulators import DEFAULTS, Options, strategy

LATENCY = "The candidate's own times replace those of the model in use; see `latency` where the calls carry times."
_LEAVE = (
    """CREATE OR REPLACE TEMP TABLE treatment_model_swap_by_task ("call" BIGINT, model VARCHAR, provider VARCHAR)"""
)


@strategy(stage="route")
def model_swap_by_task(calls: Calls, options: Options = DEFAULTS) -> Strategy:
    """Per feature the cheapest candidate that is proven to keep the quality; what it saves on the feature's spend."""
    calls.connection.execute(_LEAVE)
    found = comparisons(calls, options)
    if not found:
        return _unpaired(calls)
    tasks = [_task(list(group), options) for _, group in groupby(found, key=lambda c: c.feature)]
    proven = [swapped for _, swapped in tasks if swapped]
    for swapped in proven:
        _leave(calls, swapped)
    return _strategy(
        options,
        saving_usd=in_dollars(sum(map(_saved, proven))),
        latency=swapped_latency(calls, "treatment_model_swap_by_task"),
        why=None if proven else "No candidate is proven to keep the quality; `detail` says how many pairs would do.",
        detail={"tasks": [task for task, _ in tasks]},
    )


def _task(candidates: list[Comparison], options: Options) -> tuple[dict[str, Any], Comparison | None]:
    """A feature's candidates, and the cheapest that holds; the 5 % are shared among those tried (Bonferroni)."""
    confidence = 1 - (1 - CONFIDENCE) / len(candidates)
    bounds = [_bound(each, options, confidence) for each in candidates]
    swapped = next((each for each, bound in zip(candidates, bounds, strict=True) if bound.holds), None)
    return {
        "feature": candidates[0].feature,
        "model": candidates[0].used.name,
        "cost_usd": usd(candidates[0].spend_pico),
        "candidate": swapped.candidate.name if swapped else None,
        "saving_usd": usd(_saved(swapped)) if swapped else "0",
        "candidates": [_told(each, bound, options) for each, bound in zip(candidates, bounds, strict=True)],
    }, swapped


def _bound(found: Comparison, options: Options, confidence: float) -> Bound:
    pairs = found.pairs
    return non_inferior(pairs.new, pairs.old, pairs.clusters, floor=options.quality_floor, confidence=confidence)


def _saved(found: Comparison) -> int:
    """Pico-dollars: the feature's spend on the model in use, times what the pairs saved of theirs."""
    return round(found.spend_pico * (1 - float(found.pairs.new_cost.sum() / found.pairs.old_cost.sum())))


def _told(found: Comparison, bound: Bound, options: Options) -> dict[str, Any]:
    pairs = found.pairs
    margin = (1 - options.quality_floor) * float(pairs.old.mean())
    variance = float((pairs.new - pairs.old).var())
    return {
        "model": found.candidate.name,
        "provider": found.candidate.provider,
        "pairs": len(pairs),
        "sessions": bound.clusters,
        "quality": round(float(pairs.new.mean()), 4),
        "quality_in_use": round(float(pairs.old.mean()), 4),
        "cost_ratio": round(float(pairs.new_cost.sum() / pairs.old_cost.sum()), 4),
        "proven": bound.holds,
        "pairs_needed": required_pairs(variance=variance, margin=margin) if margin > 0 and variance > 0 else None,
    }


def _leave(calls: Calls, found: Comparison) -> None:
    calls.connection.execute(
        """INSERT INTO treatment_model_swap_by_task SELECT "call", ?, ? FROM calls
           WHERE billed AND cost_pico > 0 AND feature IS NOT DISTINCT FROM ? AND model = ?
             AND provider IS NOT DISTINCT FROM ?""",
        [found.candidate.name, found.candidate.provider, found.feature, found.used.name, found.used.provider],
    )


def _unpaired(calls: Calls) -> Strategy:
    judged, hashed = calls.row("SELECT count(quality), count(prompt_hash) FROM calls WHERE billed")
    missing = ((() if judged else ("quality",)) + (() if hashed else ("prompt",))) or ("pairs",)
    return _strategy(
        DEFAULTS,
        saving_usd=None,
        missing=missing,
        why="No question has judged answers of two models, the dearer of them in use. " + _ASK,
        detail={"observed": observed(calls)},
    )


_ASK = (
    "Let a candidate answer a sample of the same prompts, have both answers judged, and import those calls with "
    f"`quality`; {required_pairs(variance=0.31, margin=0.05)} pairs show a loss of less than 5 points where "
    "answers differ as on grade-school maths."
)


def observed(calls: Calls) -> list[dict[str, Any]]:
    """Mean judged quality by feature and model. Different models had different questions: E1, no basis for a saving."""
    rows = calls.rows(
        """SELECT feature, model, count(*), avg(quality) FROM calls WHERE quality IS NOT NULL AND model IS NOT NULL
           GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 50"""
    )
    return [
        {"feature": feature, "model": model, "judged": judged, "quality": round(quality, 4), "evidence": "E1"}
        for feature, model, judged, quality in rows
    ]


def _strategy(options: Options, **more: Any) -> Strategy:
    return Strategy(
        name="model_swap_by_task",
        title="Ask a cheaper model where it is proven good enough",
        evidence="E2",
        up_to=False,
        assumptions=(
            f"At least {options.quality_floor:.0%} of the quality is kept, with 95 % confidence, sessions as clusters.",
            "The feature's other calls are like those that were answered twice.",
            "The candidate costs what its own answers cost: its tokens, its cold cache; a failure is asked again.",
            "Judges' errors are not in the bound; look at fifty pairs yourself.",
        ),
        latency_effect=LATENCY,
        **more,
    )
