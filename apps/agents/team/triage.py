"""Triage: what does the person want, in terms the other agents can act on?"""

import re

from apps.agents.artifacts import FeatureDelay, Intent, Triage
from apps.execution.registry import Agent, Completed, agents
from apps.execution.scope import StepScope

INSTRUCTIONS = """You triage requests about the cost of LLM usage. Say what the person wants: the intent, a saving goal
in percent if they name one, whether quality must be kept, and which features may answer later and by how many
milliseconds. Use only what they wrote; leave out what they did not say."""

# The first intent whose words occur is taken; what names a method is more telling than the wish to save.
_WORDS: tuple[tuple[Intent, str], ...] = (
    ("duplicates", r"\bduplicat|\brepeat|\bsame (call|prompt|question)|\bexact cache"),
    ("batch", r"\bbatch|\bovernight|\basynchron"),
    ("models", r"\b(cheaper|smaller|other|switch|swap|replace)\b.{0,20}\bmodels?\b|\bmodel swap"),
    ("savings", r"\bsav(e|ing)|\bcut\b|\breduce|\bcheaper|\blower\b|\boptimi[sz]"),
    ("spend", r"\bspend|\bspent|\bcosts?\b|\bbill\b|\bbreakdown|\bexpensive"),
)
_PERCENT = re.compile(r"(\d{1,3}(?:[.,]\d+)?)\s*(?:%|percent)", re.IGNORECASE)
_DELAY = re.compile(
    r"(?:feature\s+)?[\"'`]?([\w-]+)[\"'`]?\s+(?:may|can|could)\s+(?:wait|take)\s+(\d+(?:[.,]\d+)?)\s*(ms|milliseconds?|s|sec(?:ond)?s?)\b",
    re.IGNORECASE,
)


def read_request(text: str) -> Triage:
    """What can be told from the words alone; the offline planner's triage."""
    intent: Intent = next((name for name, words in _WORDS if re.search(words, text, re.IGNORECASE)), "savings")
    percent = _PERCENT.search(text)
    goal = float(percent[1].replace(",", ".")) if percent else None
    return Triage(
        intent=intent,
        understood=_understood(intent, goal),
        goal_percent=goal if goal is not None and goal <= 100 else None,
        keep_quality=bool(re.search(r"\bquality\b|\baccura", text, re.IGNORECASE)),
        delays=[
            FeatureDelay(feature=name, may_wait_ms=_milliseconds(number, unit))
            for name, number, unit in _DELAY.findall(text)
        ],
    )


def _milliseconds(number: str, unit: str) -> int:
    factor = 1 if unit.lower().startswith("m") else 1000
    return round(float(number.replace(",", ".")) * factor)


def _understood(intent: Intent, goal: float | None) -> str:
    wish = {
        "savings": "Find where the calls could cost less",
        "spend": "Show what is spent, and on what",
        "batch": "Find calls that could run as a batch",
        "duplicates": "Find calls that were made more than once",
        "models": "Find calls that a cheaper model could answer",
    }[intent]
    return f"{wish}; the goal is {goal:g} % less." if goal is not None else f"{wish}."


async def run(scope: StepScope) -> Completed:
    """Read the request."""
    from apps.agents.offline import Turn, planner
    from apps.agents.runtime import Said, converse

    read = read_request(scope.context.goal)
    script = planner(lambda answered: Turn(thought=f"{read.understood}", output=read))
    said: Said[Triage] = await converse(
        scope, instructions=INSTRUCTIONS, prompt=scope.context.goal, output=Triage, offline=script
    )
    return Completed(artifact=said.output, summary=said.output.understood)


TRIAGE = agents.register(Agent(name="triage", description="Understands the request.", artifact=Triage, run=run))
