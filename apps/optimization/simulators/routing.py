"""Send each call to the cheaper model where it is good enough: a policy chosen on one half, reported on the other."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from apps.llm.pricing import PICO
from apps.optimization.calls import Calls
from apps.optimization.paired import Comparison, comparisons, swapped_latency
from apps.optimization.quality.bounds import Floats
from apps.optimization.quality.policies import Chosen, Outcome, choose, halves, outcome, scores_of
from apps.optimization.results import Strategy, in_dollars, usd
from apps.optimization.simulators import DEFAULTS, Options, strategy

MIN_SESSIONS = 60  # in each half at least about 3 / (1 - 0.9): below, no bound could hold
SEED = 1  # of the halves, so that an analysis answers the same twice
LATENCY = "A routed call takes the candidate's time, one that fails there takes both; other calls keep their times."
_LEAVE = """CREATE OR REPLACE TEMP TABLE treatment_routing ("call" BIGINT, model VARCHAR, provider VARCHAR)"""


@dataclass(frozen=True, kw_only=True)
class _Route:
    comparison: Comparison
    chosen: Chosen
    score: Floats
    held_out: Outcome

    @property
    def saved_pico(self) -> int:
        """Of the spend on the calls that were answered twice; the held-out share stands for both halves."""
        return round(self.held_out.saving * float(self.comparison.pairs.old_cost.sum()) * PICO)


@strategy(stage="route")
def routing(calls: Calls, options: Options = DEFAULTS) -> Strategy:
    """Per feature the simplest policy that keeps the quality; the saving is that on calls it was not chosen on."""
    calls.connection.execute(_LEAVE)
    found = comparisons(calls, options)
    large = [each for each in found if len(set(each.pairs.clusters.tolist())) >= MIN_SESSIONS]
    if not large:
        return _too_few(found, options)
    best = [_best(list(group), options) for _, group in groupby(large, key=lambda c: c.feature)]
    routes = [route for route in best if route and not route.held_out.violated and route.held_out.saving > 0]
    for route in routes:
        _leave(calls, route)
    return _strategy(
        options,
        saving_usd=in_dollars(sum(route.saved_pico for route in routes)),
        latency=swapped_latency(calls, "treatment_routing"),
        why=None if routes else "No policy kept the quality on calls that it was not chosen on.",
        detail={"routes": [_told(route) for route in best if route]},
    )


def _best(candidates: list[Comparison], options: Options) -> _Route | None:
    """The candidate whose policy saves most on the half it is chosen on."""
    routes = [route for each in candidates if (route := _route(each, options, len(candidates)))]
    return max(routes, key=lambda route: route.chosen.saving, default=None)


def _route(found: Comparison, options: Options, candidates: int) -> _Route | None:
    scores = scores_of(found.pairs, segments=found.segments, texts=found.texts)
    first, second = halves(found.pairs.clusters, seed=SEED)
    on_first = {policy: score[first] for policy, score in scores.items()}
    chosen = choose(found.pairs.of(first), on_first, floor=options.quality_floor, candidates=candidates)
    if chosen is None:
        return None
    score = scores[chosen.policy]
    held_out = outcome(found.pairs.of(second), score[second], chosen, floor=options.quality_floor)
    return _Route(comparison=found, chosen=chosen, score=score, held_out=held_out)


def _leave(calls: Calls, route: _Route) -> None:
    found = route.comparison
    moved = [str(h) for h, score in zip(found.prompts, route.score, strict=True) if score >= route.chosen.threshold]
    calls.connection.execute(
        """INSERT INTO treatment_routing SELECT "call", ?, ? FROM calls
           WHERE billed AND cost_pico > 0 AND feature IS NOT DISTINCT FROM ? AND model = ?
             AND provider IS NOT DISTINCT FROM ? AND prompt_hash IN (SELECT unnest(?::UUID[]))""",
        [found.candidate.name, found.candidate.provider, found.feature, found.used.name, found.used.provider, moved],
    )


def _told(route: _Route) -> dict[str, Any]:
    kept = route.held_out.kept
    return {
        "feature": route.comparison.feature,
        "model": route.comparison.used.name,
        "candidate": route.comparison.candidate.name,
        "policy": route.chosen.policy,
        "pairs": len(route.comparison.pairs),
        "moved_share": round(route.held_out.moved, 4),
        "saving_share": round(route.held_out.saving, 4),
        "quality_kept": None if kept is None else round(kept, 4),
        "proven_on_held_out": route.held_out.bound.holds,
        "violated": route.held_out.violated,
        "saving_usd": usd(route.saved_pico),
    }


def _too_few(found: list[Comparison], options: Options) -> Strategy:
    pairs = max((len(each.pairs) for each in found), default=0)
    return _strategy(
        options,
        saving_usd=None,
        missing=("pairs",),
        why=f"A policy needs judged answers of two models to the same questions in {MIN_SESSIONS} sessions of a "
        f"feature, at the least; there are {pairs} such pairs.",
    )


def _strategy(options: Options, **more: Any) -> Strategy:
    return Strategy(
        name="routing",
        title="Route each call to the cheapest model that is good enough",
        evidence="E2",
        up_to=False,
        assumptions=(
            f"At least {options.quality_floor:.0%} of the quality is kept, with 95 % confidence where it was chosen.",
            "Scores are out of fold, the threshold is chosen on one half of the sessions and reported on the other.",
            "The share saved on the held-out half stands for both halves.",
            "Only calls that were answered twice are counted; the rest of the traffic saves nothing here.",
            f"A decision costs {options.router_usd} dollars; a visible failure of the candidate costs both answers.",
            "The candidate costs what its own answers cost, with its own cache, cold where the replay met it cold.",
        ),
        latency_effect=LATENCY,
        **more,
    )
