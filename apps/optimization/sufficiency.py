"""How far the data carries each analysis: the share of spend whose calls carry every field that it needs."""

from apps.optimization.calls import Calls
from apps.optimization.overview import FIELDS, coverage, share, spend
from apps.optimization.results import State, Sufficiency

NEEDS: dict[str, tuple[str, ...]] = {
    "spend_breakdown": ("started_at", "model", "tokens"),
    "exact_duplicates": ("started_at", "model", "tokens", "prompt_hash"),
    "batch_eligible": ("started_at", "model", "tokens", "delay"),
    "model_swap_ceiling": ("model", "tokens"),
    "model_swap_by_task": ("model", "tokens", "feature", "prompt_hash", "quality"),
    "routing": ("model", "tokens", "prompt_hash", "quality"),
    "retry_waste": ("started_at", "status", "trace_id"),
    "context_trimming": ("started_at", "model", "tokens", "history"),
    "output_capping": ("model", "tokens", "feature"),
}
GATE = 0.4  # below this share of the spend, an analysis has nothing to stand on
LACKING = 0.95  # a field that less of the spend carries counts as missing


def sufficiency(calls: Calls) -> dict[str, Sufficiency]:
    """Analysis -> how far the data carries it; one pass per analysis."""
    fields = coverage(calls)
    return {analysis: _assess(calls, needs, fields) for analysis, needs in NEEDS.items()}


def _assess(calls: Calls, needs: tuple[str, ...], fields: dict[str, float]) -> Sufficiency:
    complete = _complete_share(calls, needs)
    score = round(100 * complete) if complete >= GATE else 0
    missing = sorted((name for name in needs if fields[name] < LACKING), key=lambda name: fields[name])
    return Sufficiency(
        score=score, state=state(score), missing=tuple(missing), coverage={name: fields[name] for name in needs}
    )


def _complete_share(calls: Calls, needs: tuple[str, ...]) -> float:
    weight = "cost_pico" if spend(calls) else "1"
    complete = " AND ".join(f"({FIELDS[name]})" for name in needs)
    part, whole = calls.row(
        f"SELECT sum({weight}) FILTER ({complete}), sum({weight}) FROM calls WHERE billed"  # noqa: S608
    )
    return share(part, whole)


def state(score: int) -> State:
    """The word for a score.

    >>> [state(n) for n in (39, 40, 79, 80, 94, 95)]
    ['insufficient', 'minimal', 'minimal', 'sufficient', 'sufficient', 'optimal']
    """
    if score < 40:
        return "insufficient"
    if score < 80:
        return "minimal"
    return "sufficient" if score < 95 else "optimal"
