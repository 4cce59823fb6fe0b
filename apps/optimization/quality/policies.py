"""Which calls to send to a cheaper model: the simplest policy that keeps the quality, chosen and reported apart."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from apps.optimization.quality.bounds import CONFIDENCE, Bound, Floats, Ints, non_inferior
from apps.optimization.quality.scoring import by_segment, by_text, folds_of, hashed

Mask = npt.NDArray[np.bool_]
Policy = Literal["task", "segments", "calls"]  # from simple to complex
POLICIES: tuple[Policy, ...] = ("task", "segments", "calls")
AS_GOOD = 0.02  # share of the cost; a simpler policy within it of the best is preferred
STEPS = 20  # thresholds of a policy


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Judged answers of two models to the same questions; arrays of one length. Qualities 0-1, costs in dollars.

    Where the candidate failed visibly, the old model is asked too: `new` is then the old quality and `new_cost` both
    costs.
    """

    old: Floats
    new: Floats
    old_cost: Floats
    new_cost: Floats  # with what the router and escalations cost
    clusters: Ints  # sessions

    def __len__(self) -> int:
        return len(self.old)

    def of(self, mask: Mask) -> "Pairs":
        return Pairs(
            old=self.old[mask],
            new=self.new[mask],
            old_cost=self.old_cost[mask],
            new_cost=self.new_cost[mask],
            clusters=self.clusters[mask],
        )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A policy with its threshold: calls that score at least as much go to the candidate."""

    policy: Policy
    threshold: float
    saving: float  # share of the cost, on the pairs it was chosen on
    bound: Bound


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a policy does on pairs that it was not chosen on."""

    saving: float  # share of the cost
    kept: float | None  # new quality as a share of the old; None where the old is 0
    moved: float  # share of the calls
    bound: Bound
    violated: bool  # the mean lies below the floor


Scores = dict[Policy, Floats]


def scores_of(pairs: Pairs, *, segments: Ints, texts: list[str]) -> Scores:
    """Every policy's score of each pair, out of fold: no pair had a part in its own."""
    folds = folds_of(pairs.clusters)
    return {
        "task": np.zeros(len(pairs)),
        "segments": by_segment(segments, pairs.new - pairs.old, folds),
        "calls": by_text(hashed(texts), (pairs.new >= pairs.old).astype(np.float64), folds),
    }


def halves(clusters: Ints, *, seed: int) -> tuple[Mask, Mask]:
    """One half to choose on and one to report on; a cluster is never in both."""
    _, numbers = np.unique(clusters, return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(numbers.max()) + 1)
    first = order[numbers] % 2 == 0
    return first, ~first


def choose(pairs: Pairs, scores: Scores, *, floor: float, candidates: int = 1) -> Chosen | None:
    """The simplest policy within two points of the one that saves most; None where none keeps the quality and saves.

    The 5 % are shared out among the policies, and the `candidates` that are tried on these calls (Bonferroni).
    """
    confidence = 1 - (1 - CONFIDENCE) / (len(POLICIES) * candidates)
    tried = (_furthest(policy, pairs, scores[policy], floor, confidence) for policy in POLICIES)
    found = [chosen for chosen in tried if chosen]
    if not found:
        return None
    most = max(chosen.saving for chosen in found)
    return next(chosen for chosen in found if chosen.saving >= most - AS_GOOD)


def _furthest(policy: Policy, pairs: Pairs, score: Floats, floor: float, confidence: float) -> Chosen | None:
    """The lowest threshold before the first at which the bound fails.

    Thresholds are tested from the highest down and never past a failure, so that the chance of any wrong pass stays at
    that of one test (fixed-sequence testing; Westfall and Krishen 2001).
    """
    best = None
    for threshold in np.unique(np.quantile(score, np.linspace(0, 1, STEPS, endpoint=False), method="lower"))[::-1]:
        mixed = _mixed(pairs, score >= threshold)
        bound = non_inferior(mixed.new, mixed.old, mixed.clusters, floor=floor, confidence=confidence)
        if not bound.holds:
            break
        saving = _saving(mixed)
        if saving > 0:
            best = Chosen(policy=policy, threshold=float(threshold), saving=saving, bound=bound)
    return best


def outcome(pairs: Pairs, score: Floats, chosen: Chosen, *, floor: float) -> Outcome:
    """What `chosen` does on `pairs`, whose out-of-fold scores `score` are."""
    moved = score >= chosen.threshold
    mixed = _mixed(pairs, moved)
    old, new = float(mixed.old.mean()), float(mixed.new.mean())
    return Outcome(
        saving=_saving(mixed),
        kept=new / old if old else None,
        moved=float(moved.mean()),
        bound=non_inferior(mixed.new, mixed.old, mixed.clusters, floor=floor),
        violated=new < floor * old,
    )


def _mixed(pairs: Pairs, moved: Mask) -> Pairs:
    return Pairs(
        old=pairs.old,
        new=np.where(moved, pairs.new, pairs.old),
        old_cost=pairs.old_cost,
        new_cost=np.where(moved, pairs.new_cost, pairs.old_cost),
        clusters=pairs.clusters,
    )


def _saving(mixed: Pairs) -> float:
    cost = float(mixed.old_cost.sum())
    return 1 - float(mixed.new_cost.sum()) / cost if cost else 0.0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How the rule fares when it chooses on one half and is held to the other, many times."""

    splits: int
    violations: float  # share of the splits whose held-out quality fell below the floor
    saving: float  # mean held-out share of the cost; a split without a choice saves 0
    kept: float  # mean held-out share of the quality


def trial(pairs: Pairs, scores: Scores, *, floor: float, splits: int = 200) -> Trial:
    """Choose and report on `splits` random halves; the scores are computed once, out of fold."""
    savings, kept, violations = [], [], 0
    for seed in range(splits):
        first, second = halves(pairs.clusters, seed=seed)
        chosen = choose(pairs.of(first), {policy: score[first] for policy, score in scores.items()}, floor=floor)
        if chosen is None:
            savings.append(0.0)
            kept.append(1.0)
            continue
        held_out = outcome(pairs.of(second), scores[chosen.policy][second], chosen, floor=floor)
        savings.append(held_out.saving)
        kept.append(1.0 if held_out.kept is None else held_out.kept)
        violations += held_out.violated
    return Trial(
        splits=splits,
        violations=violations / splits,
        saving=float(np.mean(savings)),
        kept=float(np.mean(kept)),
    )
