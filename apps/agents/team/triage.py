"""Triage: what does the person want, in terms the other agents can act on?"""

import re

from apps.agents.artifacts import FeatureDelay, Intent, Triage
from apps.execution.registry import Agent, Completed, agents
from apps.execution.scope import StepScope

INSTRUCTIONS = """You triage requests about the cost of LLM usage. Say what the person wants: the intent, a saving goal
in percent if they name one, whether quality must be kept, and which features may answer later and by how many
milliseconds. If it is no question about that (a greeting, another topic), the intent is `unclear`. Use only what they
wrote; leave out what they did not say."""

# The first intent whose words occur is taken; what names a method is more telling than the wish to save.
_WORDS: tuple[tuple[Intent, str], ...] = (
    ("duplicates", r"\bduplicat|\brepeat|\bsame (call|prompt|question)|\bexact cache"),
    ("batch", r"\bbatch|\bovernight|\basynchron"),
    ("models", r"\b(cheaper|smaller|other|switch|swap|replace)\b.{0,20}\bmodels?\b|\bmodel swap"),
    ("savings", r"\bsav(e|ing)|\bcut\b|\breduc|\bcheap|\blower\b|\bless\b|\boptimi[sz]|\banaly[sz]"),
    ("spend", r"\bspen[dt]|\bcost|\bbill|\bbreakdown|\bexpensive|\bpric|\bpay|\bpaid\b|\bmoney|\btokens?\b|\busage"),
)
_PERCENT = re.compile(r"(\d{1,3}(?:[.,]\d+)?)\s*(?:%|percent)", re.IGNORECASE)
_DELAY = re.compile(
    r"(?:feature\s+)?[\"'`]?\b([\w-]{1,100})[\"'`]?\s+(?:may|can|could)\s+(?:wait|take)\s+"
    r"(\d{1,9}(?:[.,]\d{1,9})?|an?)\s*"
    r"(ms|milliseconds?|s|sec(?:ond)?s?|min(?:ute)?s?|h|hours?|d|days?)\b",
    re.IGNORECASE,
)

_UNITS = (("ms", 1), ("mil", 1), ("min", 60_000), ("s", 1000), ("h", 3_600_000), ("d", 86_400_000))  # milliseconds


def read_request(text: str) -> Triage:
    """What can be told from the words alone; the offline planner's triage."""
    intent: Intent = next((name for name, words in _WORDS if re.search(words, text, re.IGNORECASE)), "unclear")
    goal, delays = _goal(text), _delays(text)
    if intent == "unclear" and (goal is not None or delays):
        intent = "savings"
    return Triage(
        intent=intent,
        understood=_understood(intent, goal),
        goal_percent=goal,
        keep_quality=bool(re.search(r"\bquality\b|\baccura", text, re.IGNORECASE)),
        delays=delays,
    )


def _goal(text: str) -> float | None:
    """The first percentage, if the bill can fall by it."""
    percent = _PERCENT.search(text)
    goal = float(percent[1].replace(",", ".")) if percent else None
    return goal if goal is not None and goal <= 100 else None


def _delays(text: str) -> list[FeatureDelay]:
    return [
        FeatureDelay(feature=name, may_wait_ms=_milliseconds(number, unit.lower()))
        for name, number, unit in _DELAY.findall(text)
    ]


def _milliseconds(number: str, unit: str) -> int:
    amount = 1.0 if number.lower().startswith("a") else float(number.replace(",", "."))
    return round(amount * next(length for start, length in _UNITS if unit.startswith(start)))


def _understood(intent: Intent, goal: float | None) -> str:
    wish = {
        "savings": "Find where the calls could cost less",
        "spend": "Show what is spent, and on what",
        "batch": "Find calls that could run as a batch",
        "duplicates": "Find calls that were made more than once",
        "models": "Find calls that a cheaper model could answer",
        "unclear": "Say what can be asked",
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
