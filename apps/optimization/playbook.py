"""How each way to save is put to work: effort, risk, what has to be there first, and when to go back.

Effort is our estimate in working days for one person who knows the code; it ranks, and promises nothing.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

Risk = Literal["low", "medium", "high"]


@dataclass(frozen=True, kw_only=True)
class Play:
    effort_days: float
    risk: Risk
    steps: tuple[str, ...]
    prerequisites: tuple[str, ...]
    rollback: str  # what to watch, and at which value to go back

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


PLAYS: dict[str, Play] = {
    "duplicate_calls": Play(
        effort_days=1,
        risk="low",
        steps=(
            "Find what sends the same request twice: a double click, a retry without a key, two listeners.",
            "Give each request an idempotency key and let the second one wait for the first one's answer.",
        ),
        prerequisites=("One place in the code through which these calls go.",),
        rollback="Go back if requests wait longer than the call they wait for took.",
    ),
    "retry_waste": Play(
        effort_days=2,
        risk="low",
        steps=(
            "Keep retries in one layer; switch off those of the SDK and the gateway.",
            "Do not retry what cannot succeed: bad requests, full contexts, refused content.",
            "Wait between tries, longer each time, and stop after two.",
        ),
        prerequisites=("A log that tells attempts of one request apart.",),
        rollback="Go back if the share of requests that fail for good rises by a tenth of itself.",
    ),
    "exact_cache": Play(
        effort_days=2,
        risk="low",
        steps=(
            "Look the answer up by model, parameters and full prompt before calling.",
            "Keep successful, complete answers only, for the time the report names.",
            "Leave out calls with tools and calls above temperature 0, unless the same words are welcome.",
            "Put the user into the key, unless the prompt alone decides the answer and anybody may read it.",
        ),
        prerequisites=("A store that all processes share (Redis).", "Leave to keep answers for that time."),
        rollback="Go back if users report stale answers, or hits fall below half of what was predicted.",
    ),
    "semantic_cache": Play(
        effort_days=5,
        risk="high",
        steps=(
            "Judge a sample of near pairs by hand and set the threshold from the bound on false hits.",
            "Begin with one feature, and keep every hit with the question it was taken for.",
        ),
        prerequisites=("An embedding model and a vector index.", "A labelled sample of pairs."),
        rollback="Go back if more hits are judged wrong than the bound allows.",
    ),
    "prefix_cache": Play(
        effort_days=1,
        risk="low",
        steps=(
            "Put what stays the same first: instructions, tools, documents, then the conversation, then the question.",
            "Where the provider asks for it, mark the end of the part that is read again.",
            "Keep times, user names and random ids out of that part.",
        ),
        prerequisites=("Control over the order of the prompt.",),
        rollback="Go back if cached tokens stay below half of what was predicted after a day.",
    ),
    "model_swap_by_task": Play(
        effort_days=2,
        risk="medium",
        steps=(
            "Send a tenth of the feature's calls to the candidate, chosen by session.",
            "Compare quality after a week; then the rest.",
        ),
        prerequisites=("A judgement of answers, by users, rules or a judge that is neither model.",),
        rollback="Go back if quality falls below the floor that the analysis was asked to keep.",
    ),
    "routing": Play(
        effort_days=8,
        risk="medium",
        steps=(
            "Build the rule of the report in front of the call.",
            "Run it beside production for a week and compare before switching over.",
        ),
        prerequisites=("A judgement of answers.", "One place in the code that chooses the model."),
        rollback="Go back if quality of routed calls falls below the floor, by the lower end of its interval.",
    ),
    "model_swap_ceiling": Play(
        effort_days=3,
        risk="high",
        steps=(
            "Ask the candidate the questions of a sample of calls, as many as the report names.",
            "Have the answers judged, and import both as one dataset: then the saving can be proven.",
        ),
        prerequisites=("A sample of prompts.", "A judgement of answers."),
        rollback="Nothing is switched over before quality is measured.",
    ),
    "context_trimming": Play(
        effort_days=4,
        risk="medium",
        steps=(
            "Summarise or drop the oldest turns above the length that the report names.",
            "Send the best few retrieved passages instead of all.",
        ),
        prerequisites=("A judgement of answers.",),
        rollback="Go back if quality falls, or users repeat themselves more often.",
    ),
    "output_capping": Play(
        effort_days=1,
        risk="medium",
        steps=("Set the output limit per feature.", "Ask for the length you want in the prompt as well."),
        prerequisites=("What reads the answers copes with one that is cut.",),
        rollback="Go back if more answers end by length than the report predicted.",
    ),
    "batch_eligible": Play(
        effort_days=3,
        risk="low",
        steps=(
            "Collect the calls that can wait and send them through the provider's batch API.",
            "Fetch the answers by a job that runs every few minutes; ask again for those that expired.",
        ),
        prerequisites=("Whoever reads the answers accepts them a day later.",),
        rollback="Go back if batches come back later than the deadline of the feature.",
    ),
}

# What an option of `Options` that the owner has to allow adds: the risk it is at least, and what has to be true first.
ALLOWANCES: dict[str, tuple[Risk, str]] = {
    "answers_kept": ("medium", "The answers stay true for as long as they are kept."),
    "answers_shared": ("high", "No prompt and no answer holds what only one user may know."),
}


def play(strategy: str, allowed: Iterable[str] = ()) -> Play:
    """How `strategy` is put to work where the owner allows these options beyond those it has."""
    found = PLAYS[strategy]
    added = [ALLOWANCES[name] for name in sorted(allowed)]
    return replace(
        found,
        risk=max(found.risk, *(risk for risk, _ in added), key=get_args(Risk).index) if added else found.risk,
        prerequisites=(*(first for _, first in added), *found.prerequisites),
    )
