"""Triage: what does the person want, in terms the other agents can act on?"""

import re
from collections.abc import Iterator
from typing import Literal

from apps.agents.artifacts import FeatureDelay, FeatureLimit, Intent, ModelMove, Triage
from apps.execution.registry import Agent, Completed, agents
from apps.execution.scope import StepScope
from apps.optimization.scenarios import MOST_SECONDS

INSTRUCTIONS = """You triage requests about the cost of LLM usage. Say what the person wants: the intent; a saving goal
in percent if they name one; whether quality must be kept, and how many percent of it; `delays`, the features that may
answer later, and by how many milliseconds (0 for one that cannot wait); `limits`, the features whose answers must stay
within a time; `growth_percent` if use grows or falls; `moves`, if calls shall go to another model; `answers_shared` and
`answers_kept`, whether a cache may give answers to everybody and for how long it may keep them. Use only what they
wrote; leave out the rest.

Intents: `savings` how to spend less; `spend` what is spent, on what; `batch`, `duplicates`, `models`, `caching`,
`retries`, `lengths` (of prompts and answers) for that one way to save; `forecast` what the next weeks cost; `anomalies`
why spend jumped; `changes` what changed since last time; `what_if` use grows or calls move; `tradeoffs` cost against
latency and quality; `outcomes` what adopted advice has saved; `sufficiency` whether the data is complete;
`reconciliation` whether it matches the bill. If it is no question about that (a greeting, another topic), the intent is
`unclear`."""

_USE = r"(?:usage|use|traffic|volume|calls?|requests?|demand|load|users?|workload)"
_NUMBER = r"(\d{1,4}(?:[.,]\d+)?)"
_PER_CENT = r"\s*(?:%|percent\b|per cent\b)"

# What was saved, not what could be: "did I save", "has it saved", "since we adopted it".
_FEW = r"(?:[\w'-]+\s+){1,3}"
_SAVED = (
    rf"^(?!.*\b(?:could|would|might|can|may|chang\w*)\b).*\b(?:did\s+{_FEW}save|ha(?:ve|s)\s+{_FEW}saved"
    rf"|(?:since|after)\s+(?:{_FEW})?adopt(?:ed|ing|ion))\b|\bc[ao]me true\b|\breali[sz]ed\s+savings?\b"
)

# The first intent whose words occur is taken; what names a method is more telling than the wish to save.
_WORDS: tuple[tuple[Intent, str], ...] = (
    (
        "reconciliation",
        r"\breconcil|\b(match|agree|differ|compar)\w*\b.{0,40}\b(bill|invoice|dashboard)"
        r"|\b(bill|invoice|dashboard)\b.{0,40}\b(match|agree|differ)"
        r"|\b(do|does|did)\b.{0,40}\b(explain|cover|account)\b.{0,20}\b(bill|invoice)",
    ),
    ("outcomes", _SAVED),
    (
        "sufficiency",
        r"\b(data|log|export)\b.{0,30}\b(complete|enough|sufficient|missing)|\b(complete|missing|enough)\b.{0,20}\bdata"
        r"|\bsufficien",
    ),
    (
        "forecast",
        r"\bforecast|\bpredict|\bproject(ed|ion)|\bnext (month|week|quarter|year|\d+ days)"
        r"|\bwill (i|we|it|this) (spend|pay|cost)",
    ),
    (
        "anomalies",
        r"\banomal|\bst(?:oo|an)ds? out\b|\bspikes?\b|\bspiked|\bjump|\bsurge|\boutlier|\bunusual"
        r"|\bwhy\b.{0,30}\b(cost|spend|bill)\w*\b.{0,20}\b(go up|went up|gone up|rise|rose|risen|increas|grow|grew)",
    ),
    (
        "changes",
        r"\bchanged?\b.{0,40}\b(since|between|from)\b|\bwhat (has )?changed|\bsince last\b|\bwhat('s| is) new\b",
    ),
    ("tradeoffs", r"\bpareto|\btrade-?offs?\b|\bcost\b.{0,15}\b(against|versus|vs)\b.{0,15}\b(latency|quality|speed)"),
    ("duplicates", r"\bduplicat|\brepeat|\bsame (call|prompt|question)|\bexact cache"),
    ("batch", r"\bbatch|\bovernight|\basynchron"),
    ("models", r"\b(cheaper|smaller|other|switch|swap|replace)\b.{0,20}\bmodels?\b|\bmodel swap"),
    ("caching", r"\bcach(e|es|ing)\b|\bprefix"),
    ("retries", r"\bretr(y|ies)|\bfail(ed|ures?)?\b"),
    ("lengths", r"\b(long|short)(er)? (prompts?|answers?|outputs?|contexts?)|\btrim|\bmax_tokens|\bhistory\b"),
    ("savings", r"\bsav(e|ing)|\bcut\b|\breduc|\bcheap|\blower\b|\bless\b|\boptimi[sz]|\banaly[sz]"),
    ("spend", r"\bspen[dt]|\bcost|\bbill|\bbreakdown|\bexpensive|\bpric|\bpay|\bpaid\b|\bmoney|\btokens?\b|\busage"),
)
_PERCENT = re.compile(r"(\d{1,3}(?:[.,]\d+)?)\s*(?:%|percent)", re.IGNORECASE)
_QUALITY = re.compile(
    rf"{_NUMBER}{_PER_CENT}\s+(?:of\s+)?(?:(?:the|its|our|my|today's|current)\s+)?(?:quality|accuracy)\b"
    rf"|\b(?:quality|accuracy)\s+(?:(?:must|should|has to)\s+)?(?:stay|remain|be|is|of)?\s*"
    rf"(?:at least|at|above|over|of)\s+{_NUMBER}{_PER_CENT}",
    re.IGNORECASE,
)
_NAME = r"[\"'`]?(?<![\w-])(?P<feature>[\w-]{1,100})[\"'`]?"
_TIME = (
    r"(?P<number>\d{1,9}(?:[.,]\d{1,9})?|an?)\s*"
    r"(?P<unit>ms|milliseconds?|s|sec(?:ond)?s?|min(?:ute)?s?|h|hours?|d|days?)\b"
)
_DELAY = re.compile(rf"{_NAME}\s+(?:may|can|could)\s+(?:wait|take)\s+(?:up to\s+)?{_TIME}", re.IGNORECASE)
_NO_DELAY = re.compile(
    rf"{_NAME}\s+(?:cannot|can\s?not|can't|must not|may not)(?:\s+wait\b|\s*(?=[.,;!?]|$))", re.IGNORECASE
)
_LIMIT = re.compile(
    rf"{_NAME}\s+(?:must|has to|have to|should|needs to)\s+(?:stay|remain|keep|answer|respond|be)\s+"
    rf"(?:at|to|under|below|within|in|inside)?\s*(?:of\s+)?{_TIME}",
    re.IGNORECASE,
)
_ANSWERS = r"(?:answers?|responses?|replies)\b"
_EVERYBODY = r"(?:everyone|everybody|anyone|anybody|(?:all|any|other)\s+(?:users?|people|customers?))\b"
_OTHERS = rf"(?:shared\b|(?:given|served|shown|sent|returned|reused)\s+(?:to|by|for|across)\s+{_EVERYBODY})"
_MAY = r"(?:may|might|can|could|(?:is|are)\s+allowed\s+to)"
_SHARES = rf"shar(?:e|ing)\s+(?:the\s+|all\s+|our\s+|cached\s+)*{_ANSWERS}"
# Giving somebody the answer of another is allowed in so many words, at the start of a sentence or of a part of one, or
# not at all. What is asked, doubted, quoted, or bound to a condition allows nothing.
_CLAUSE = r"(?:^|,|\b(?:and|but|if|that|please)\b)\s*(?:the\s+|all\s+|cached\s+|our\s+)*"
_SHARED = re.compile(
    rf"{_CLAUSE}(?:{_ANSWERS}\s+{_MAY}\s+be\s+[^,]{{0,40}}?{_OTHERS}|{_ANSWERS}\s+(?:are|were)\s+{_OTHERS}"
    rf"|(?:you|we|caches?)\s+{_MAY}\s+{_SHARES}|{_SHARES}\s+(?:among|between|across|with)\s+(?:all\s+|other\s+)?{_EVERYBODY}"
    rf"|{_SHARES}\s+(?:among|between|across)\s+users\b)",
    re.IGNORECASE,
)
_SHARING = re.compile(
    rf"\b{_ANSWERS}[^,]{{0,60}}\b{_OTHERS}|\bshar(?:e|es|ed|ing)\b[^,]{{0,30}}\b{_ANSWERS}|\b{_ANSWERS}[^,]{{0,40}}\bprivate\b",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"\b(?:not?|never|none|cannot|nobody|without|avoid\w*|stop|prevent\w*|forbid\w*|forbidden|prohibit\w*|dont|cant|mustnt"
    r"|private|illegal|breach\w*|leak\w*|against|unsafe|deny|denies|false)\b|n['’]t\b",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(r"\b(?:scratch (?:that|it)|never ?mind|forget (?:that|it))\b", re.IGNORECASE)
_OPEN = re.compile(
    r"\b(?:whether|unless|until|till|before|once|when|only|except|doubt\w*|hardly|few|danger\w*|worr\w*|sued?|scandal|wrong"
    r"|should|would|could we|agree\w*|approv\w*|same user|which|who|safe)\b|\bif\b(?!\s+(?:the\s+|all\s+|cached\s+)*"
    rf"{_ANSWERS})",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"“”`‘][^\"“”`’]{1,200}[\"“”`’]")
_ASKS = re.compile(r"^\s*(?:which|who|is|are|should|can|could|may|do|does|how)\b", re.IGNORECASE)
_AGE = _TIME.replace("(?P<number>", "(?P<half>half\\s+)?(?P<number>").replace("an?)", "an?|one|two|three)")
_AGE = _AGE.replace("d|days?)", "d|days?|w|weeks?)")
_KEPT = re.compile(
    rf"(?:{_CLAUSE}(?:{_ANSWERS}\s+{_MAY}\s+be\s+(?:given[^,]{{0,30}}?\s+and\s+)?(?:kept|cached|stored)"
    rf"|{_ANSWERS}\s+(?:are|were)\s+(?:kept|cached|stored)|(?:you|we|caches?)\s+{_MAY}\s+(?:keep|cache|store)\s+{_ANSWERS}"
    rf"|(?:keep|cache|store)\s+(?:the\s+|all\s+)?{_ANSWERS})|{_ANSWERS}\s+{_MAY}\s+be\s+[^,]{{0,40}}?\band\s+(?:kept|cached|stored))"
    rf"\s+(?:(?P<good>for\s?ever|for good|indefinitely)\b|(?:for\s+)?(?:up to\s+)?{_AGE}(?!\s+is\b))",
    re.IGNORECASE,
)
_KEEPING = re.compile(
    rf"\b(?:cache|keep|store|caching|keeping|storing)\s+(?:the\s+|any\s+)?{_ANSWERS}|\b{_ANSWERS}[^,]{{0,30}}\b(?:kept|cached|stored)\b",
    re.IGNORECASE,
)
# "What would caching save if answers are shared?" supposes; the question is not about the rule.
_WHAT_IF = re.compile(r"\b(?:what|how much)\s+(?:would|could|can|do|does|will)\b", re.IGNORECASE)
_NUMBERS = {"a": 1.0, "an": 1.0, "one": 1.0, "two": 2.0, "three": 3.0}
_UNITS = (
    ("ms", 1),
    ("mil", 1),
    ("min", 60_000),
    ("s", 1000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
)  # milliseconds
_NOBODY = frozenset({"i", "we", "you", "they", "it", "that", "this", "which", "who", "quality", "cost", "bill"})

_UP, _DOWN = r"(?:grow|grew|increas|ris|go up|goes up)\w*", r"(?:shrink|fall|drop|declin|decreas|go down|goes down)\w*"
_GROWTH = (
    (re.compile(rf"\b{_USE}\s+{_UP}(?:\s+by)?\s+{_NUMBER}{_PER_CENT}", re.IGNORECASE), 1),
    (re.compile(rf"\bif\s+(?:we|it|things)\s+{_UP}(?:\s+by)?\s+{_NUMBER}{_PER_CENT}", re.IGNORECASE), 1),
    (re.compile(rf"\b{_USE}\W{{0,3}}\+\s*{_NUMBER}{_PER_CENT}", re.IGNORECASE), 1),
    (re.compile(rf"{_NUMBER}{_PER_CENT}\s+more\s+{_USE}\b", re.IGNORECASE), 1),
    (re.compile(rf"\b{_USE}\s+{_DOWN}(?:\s+by)?\s+{_NUMBER}{_PER_CENT}", re.IGNORECASE), -1),
    (re.compile(rf"{_NUMBER}{_PER_CENT}\s+(?:less|fewer)\s+{_USE}\b", re.IGNORECASE), -1),
)
_MULTIPLIED = rf"\b(?:{_USE}|if\s+(?:we|it))\s+(?:is\s+|are\s+)?"
_TIMES = (
    (re.compile(rf"{_MULTIPLIED}doubl|\b(?:twice|double)\s+(?:the\s+|as many\s+)?{_USE}", re.IGNORECASE), 100.0),
    (re.compile(rf"{_MULTIPLIED}tripl|\btriple\s+(?:the\s+)?{_USE}", re.IGNORECASE), 200.0),
    (re.compile(rf"{_MULTIPLIED}halv|\bhalf\s+(?:the\s+|as many\s+){_USE}", re.IGNORECASE), -50.0),
)
_WORD = r"[\"'`]?([\w.:/@-]{1,200})[\"'`]?"
_TO = rf"(?:(?:calls\s+)?from\s+{_WORD}\s+)?to\s+{_WORD}"
_FEATURE = r"(?:(feature)\s+|calls of\s+)?"
_MOVE = re.compile(
    rf"\b(?:mov(?:e|ed|ing)|switch(?:ed|ing)?|send|sent|rout(?:e|ed|ing)|migrat(?:e|ed|ing)|shift(?:ed)?)\s+"
    rf"{_FEATURE}(?:{_WORD}\s+)?{_TO}",
    re.IGNORECASE,
)
_MOVED = re.compile(
    rf"\b{_FEATURE}{_WORD}\s+(?:(?:were|was|is|are)\s+)?(?:moved|moves|switched|switches|goes)\s+{_TO}", re.IGNORECASE
)
_USED = re.compile(
    rf"\bif\s+{_FEATURE}{_WORD}\s+(?:used|uses|ran on|runs on|asked|asks)\s+{_WORD}(?:\s+instead\s+of\s+{_WORD})?",
    re.IGNORECASE,
)
_REPLACE = re.compile(rf"\breplace\s+{_WORD}\s+(?:by|with)\s+{_WORD}", re.IGNORECASE)
_MAKERS = re.compile(
    r"(?:[\w.-]+/)?(?:gpt|claude|gemini|mistral|mixtral|llama|deepseek|command|qwen|grok|nova)", re.IGNORECASE
)
_EVERY = frozenset({"all", "everything", "it", "them", "calls", "traffic", "us", "me"})


def read_request(text: str) -> Triage:
    """What can be told from the words alone; the offline planner's triage."""
    intent: Intent = next((name for name, words in _WORDS if re.search(words, text, re.IGNORECASE)), "unclear")
    # What happened is neither wished nor supposed.
    past = intent == "outcomes" or re.search(r"\bwhy\b", text, re.IGNORECASE)
    growth, moves, goal = (None, [], None) if past else (_growth(text), _moves(text), _goal(_bare(text)))
    delays, limits = _delays(text), _limits(text)
    shared, kept = _answers_shared(text), _answers_kept(text)
    if growth is not None or moves:
        intent = "what_if"
    elif intent == "unclear" and (goal is not None or delays or limits or shared is not None or kept is not None):
        intent = "savings"
    return Triage(
        intent=intent,
        understood=_understood(intent, goal),
        goal_percent=goal,
        keep_quality=bool(re.search(r"\bquality\b|\baccura", text, re.IGNORECASE)),
        quality_percent=_kept_quality(text),
        delays=delays,
        limits=limits,
        growth_percent=growth,
        moves=moves,
        answers_shared=shared,
        answers_kept=kept,
    )


def _goal(text: str) -> float | None:
    """The first percentage, if the bill can fall by it."""
    percent = _PERCENT.search(text)
    goal = _amount(percent[1]) if percent else None
    return goal if goal is not None and goal <= 100 else None


def _growth(text: str) -> float | None:
    """By how many percent use grows; below zero where it falls."""
    for pattern, sign in _GROWTH:
        if found := pattern.search(text):
            percent = sign * _amount(found[1])
            return percent if -100 <= percent <= 10_000 else None
    return next((percent for pattern, percent in _TIMES if pattern.search(text)), None)


def _kept_quality(text: str) -> float | None:
    found = _QUALITY.search(text)
    percent = _amount(found[1] or found[2]) if found else None
    return percent if percent is not None and percent <= 100 else None


def _bare(text: str) -> str:
    """The text without the percentages by which use grows, and of quality to keep: they are no goal."""
    for pattern in (_QUALITY, *(pattern for pattern, _ in _GROWTH)):
        text = pattern.sub(" ", text)
    return text


def _moves(text: str) -> list[ModelMove]:
    return [*_moved(text), *_replaced(text)][:20]


def _moved(text: str) -> Iterator[ModelMove]:
    supposed = re.search(r"\bif\b", text, re.IGNORECASE)
    used = ((feature, what, model.rstrip(".:/@-"), to) for feature, what, to, model in _USED.findall(text))
    for feature, what, model, to in (*_MOVED.findall(text), *_MOVE.findall(_MOVED.sub(" ", text)), *used):
        everybody = what.lower() in _NOBODY | _EVERY
        if not _is_model(target := to.rstrip(".:/@-")) or (everybody and what.lower() not in _EVERY and not supposed):
            continue
        if not (model or feature) and _is_model_surely(what):
            what, model = "", what
        of = "" if everybody else what
        yield ModelMove(feature=of[:120] or None, model=model or None, to=target)


def _replaced(text: str) -> Iterator[ModelMove]:
    for model, to in _REPLACE.findall(text):
        if _is_model(model) and _is_model(target := to.rstrip(".:/@-")):
            yield ModelMove(model=model, to=target)


def _is_model(word: str) -> bool:
    """Whether a word looks like the name of a model: with a digit, or with parts.

    >>> [_is_model(word) for word in ("gpt-4o", "mistral-large", "o3", "chat", "Europe")]
    [True, True, True, False, False]
    """
    return any(letter.isalpha() for letter in word) and (any(letter.isdigit() for letter in word) or "-" in word)


def _is_model_surely(word: str) -> bool:
    """Whether a word can hardly be the name of a feature.

    >>> [_is_model_surely(word) for word in ("gpt-4o", "mistral-large", "search-help", "chat")]
    [True, True, False, False]
    """
    return _is_model(word) and (any(letter.isdigit() for letter in word) or bool(_MAKERS.match(word)))


def _delays(text: str) -> list[FeatureDelay]:
    found = [FeatureDelay(feature=name, may_wait_ms=wait) for name, wait in _waits(_DELAY, text)]
    named = (match["feature"] for match in _NO_DELAY.finditer(text))
    return found + [FeatureDelay(feature=name, may_wait_ms=0) for name in named if name.lower() not in _NOBODY]


def _limits(text: str) -> list[FeatureLimit]:
    return [FeatureLimit(feature=name, within_ms=wait) for name, wait in _waits(_LIMIT, text)]


def _waits(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, int]]:
    for match in pattern.finditer(text):
        if match["feature"].lower() not in _NOBODY:
            yield match["feature"], _milliseconds(match["number"], match["unit"].lower())


def _answers_shared(text: str) -> bool | None:
    """Whether a cache may give one user's answer to others; a word against it counts more than one for it."""
    about = [sentence for sentence in _sentences(text) if _SHARING.search(sentence)]
    if any(_REFUSED.search(sentence) for sentence in about):
        return False
    allowed = any(_allows(_SHARED, sentence) for sentence in about) and not _TAKEN_BACK.search(text)
    return True if allowed else None


def _answers_kept(text: str) -> float | Literal["for good"] | None:
    """Seconds, or for good; 0 where none may be kept, None where nothing is said of it."""
    for sentence in _sentences(text):
        if _KEEPING.search(sentence) and _REFUSED.search(sentence):
            return 0.0
        if (found := _KEPT.search(sentence)) and _allows(_KEPT, sentence):
            if found["good"]:
                return "for good"
            half = 0.5 if found["half"] else 1
            return min(half * _milliseconds(found["number"], found["unit"].lower()) / 1000, MOST_SECONDS)
    return None


def _sentences(text: str) -> list[str]:
    """Sentences, with what is quoted left out and with the mark of a question."""
    return re.findall(r"[^.;!?\n]+(?:[.](?=\S)[^.;!?\n]*)*[?]?", _QUOTED.sub(" ", text))


def _allows(pattern: re.Pattern[str], sentence: str) -> bool:
    asked = sentence.endswith("?") and _ASKS.search(sentence) is not None
    return not asked and not _OPEN.search(_WHAT_IF.sub(" ", sentence)) and pattern.search(sentence) is not None


def _milliseconds(number: str, unit: str) -> int:
    amount = _NUMBERS.get(number.lower()) or _amount(number)
    return round(amount * next(length for start, length in _UNITS if unit.startswith(start)))


def _amount(number: str) -> float:
    return float(number.replace(",", "."))


def _understood(intent: Intent, goal: float | None) -> str:
    wish = {
        "savings": "Find where the calls could cost less",
        "spend": "Show what is spent, and on what",
        "batch": "Find calls that could run as a batch",
        "duplicates": "Find calls that were made more than once",
        "models": "Find calls that a cheaper model could answer",
        "caching": "Find what caches would save",
        "retries": "Find what failures and retries cost",
        "lengths": "Find what long prompts and answers cost",
        "forecast": "Say what the next weeks cost",
        "anomalies": "Find what stood out, and why",
        "changes": "Say what changed since last time",
        "what_if": "Say what it would cost",
        "outcomes": "Say what adopted advice has saved",
        "tradeoffs": "Lay cost, latency and quality side by side",
        "sufficiency": "Say how complete the data is",
        "reconciliation": "Lay the calls beside the bill",
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
