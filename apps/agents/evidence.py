"""Whether a text says only numbers that were computed.

Guaranteed of a text that passes: each run of digits in it is a number that the report shows, rounded to the digits
written, or part of a name, date or time that the report spells, or a bare whole number up to `SMALL`, which may count
things. An amount of dollars is one of the report's amounts of dollars, a percentage one of its percentages or shares.

Not looked at: numbers in words ("five thousand dollars", "half"), signs, and whether a number stands beside the thing
it was computed for.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from html import unescape
from typing import Literal

from apps.agents.artifacts import JointSaving, ReportBody

Kind = Literal["dollars", "other money", "percent", "date", "plain"]

SMALL = 10
SCALES = {"k": 3, "thousand": 3, "m": 6, "mn": 6, "mio": 6, "million": 6}
SCALES |= {"b": 9, "bn": 9, "billion": 9, "tn": 12, "trillion": 12}

_NUMBER = re.compile(
    r"""(?P<before>US\$|USD|[$＄﹩]|EUR|GBP|[€£¥₹])?\s*[-+−~]?\s*
    (?P<digits>(?:\d{1,3}(?:[,\u2009\u202f\u00a0]\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:e[-+]?\d{1,3}(?!\w))?|\.\d+)
    (?:[\s-]?(?P<scale>thousand|million|billion|trillion|mio|mn|bn|tn|k|m|b)(?![a-z]))?
    (?=\s*[-]?(?P<after>%|percent|(?:US\s)?dollars?|bucks|USD|[$＄﹩](?!\s*\d)|cents?\b|¢
        |EUR|GBP|euros?|pounds?|[€£¥₹](?!\s*\d)|x\b|×|times\b|fold\b)|)""",
    re.IGNORECASE | re.VERBOSE,
)
# Between two numbers that share a unit: "5-10 %", "between $5 and 10".
_RANGE = re.compile(r"\s*(?:%|percent|dollars?|USD|cents?|¢)?\s*(?:[-–—]|to|and|or)?\s*", re.IGNORECASE)
_NAME = re.compile(r"(?<![\w$])[A-Za-z][\w.:/@+-]*")
_MOMENT = re.compile(r"(?<!\d)(?:\d{4}-\d\d-\d\d|\d{1,2}:\d\d(?::\d\d)?)(?!\d)")
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
_AFTER_MONTH = re.compile(rf"\b{_MONTH}\s+(?:\d{{1,2}}(?:st|nd|rd|th)?,?\s+)?$")
_BEFORE_MONTH = re.compile(rf"(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?!\w)")
# Markdown's emphasis and invisible characters would hide that a number stands beside its unit.
_MARKUP = re.compile(r"[*`\\\u00ad\u200b-\u200f\u2060\ufeff]")


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number as a text says it; what it stands for may lie half a `step`, its last digit's worth, away."""

    said: str
    value: Decimal
    step: Decimal
    kind: Kind
    bare: bool  # without anything beside it that makes it an amount


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a text may say: numbers, and names, dates and times as they are spelled (lower case)."""

    numbers: tuple[Number, ...]
    spelled: frozenset[str]
    labels: tuple[str, ...]  # names that may hold anything, longest first; those that speak of money prove nothing


def unsupported_numbers(text: str, *, facts: Facts) -> list[str]:
    """The numbers in `text` that nothing in `facts` supports, as they are written.

    >>> facts = facts_in(["cost $96.79", "share 42.13 %", "gpt-4.1"])
    >>> unsupported_numbers("about $97, or 42 %, with gpt-4.1, in 3 steps", facts=facts)
    []
    >>> unsupported_numbers("you could save $9 or 97 %", facts=facts)
    ['9', '97']
    """
    plain = replace(facts, labels=tuple(label for label in facts.labels if not _claims(label)))
    return [number.said for number in _numbers(_without_names(text, plain)) if not _supported(number, facts)]


def facts_in(texts: Iterable[str], *, labels: Iterable[str] = ()) -> Facts:
    """What is said in `texts`; a label is a name, whatever numbers stand in it."""
    named = tuple(sorted({label.lower() for label in labels if _is_name(label)}, key=len, reverse=True))
    facts = Facts(numbers=(), spelled=frozenset(), labels=named)
    plain = [_without_names(text, facts) for text in texts]
    spelled = frozenset(word for text in plain for word in _spelled(text))
    facts = replace(facts, spelled=spelled)
    numbers = {number: None for text in plain for number in _numbers(_without_names(text, facts))}
    dates = {number: None for word in spelled for number in _parts_of_date(word)}
    return replace(facts, numbers=(*numbers, *dates))


def facts_of(body: ReportBody, *more: str) -> Facts:
    """What a report shows, and `more` that was computed; ids and sources are not shown numbers."""
    labels = [body.dataset_name, *(point.label for chart in body.charts for point in chart.points)]
    labels += [row[0] for table in body.tables for row in table.rows if row]
    return facts_in([body.summary, *_shown(body), *more], labels=labels)


def _shown(body: ReportBody) -> Iterator[str]:
    for finding in body.findings:
        yield from (finding.title, finding.how, finding.latency, finding.evidence, *finding.assumptions)
        yield from _amounts(finding.saving_usd, finding.low, finding.high, finding.joint_usd, finding.monthly_usd)
        if finding.confidence is not None:
            yield f"{100 * finding.confidence:g} %"
        if plan := finding.plan:
            yield from (f"{plan.effort_days:g} days", *plan.steps, *plan.prerequisites, plan.rollback)
    if body.joint:
        yield from _of_joint(body.joint)
    for table in body.tables:
        yield from (table.title, *table.columns, *(cell for row in table.rows for cell in row))
    for chart in body.charts:
        yield chart.title
        yield from (point.label for point in chart.points)
        yield from (f"{point.value!r} {chart.unit}" for point in chart.points)
    for item in body.missing:
        yield from (item.field, item.why, item.unlocks, item.how_to_export, *_amounts(item.at_most_usd))


def _of_joint(joint: JointSaving) -> Iterator[str]:
    yield from _amounts(joint.saving_usd, joint.low, joint.high, joint.spent_usd, joint.would_cost_usd)
    yield from _amounts(joint.sum_of_parts_usd, joint.overlap_usd)
    yield from _amounts(*(part.saving_usd for part in (*joint.stages, *joint.shares)))
    yield from (joint.interval_note or "", joint.drift, *joint.constraints)
    for left in joint.left_out:
        yield from (left.title, left.why)


def _amounts(*amounts: str | None) -> Iterator[str]:
    return (f"${amount}" for amount in amounts if amount is not None)


def _supported(number: Number, facts: Facts) -> bool:
    if number.bare and number.value == int(number.value) and number.value <= SMALL:
        return True
    return any(abs(value - number.value) <= number.step / 2 for value in _comparable(number.kind, facts))


def _comparable(kind: Kind, facts: Facts) -> Iterator[Decimal]:
    """A number without a unit may be any of the report's; a percentage may also be a share."""
    for fact in facts.numbers:
        if fact.kind == kind or (kind == "plain" and fact.kind != "date"):
            yield fact.value
        elif kind == "percent" and fact.kind == "plain" and fact.value <= 1:
            yield 100 * fact.value


def _numbers(text: str) -> Iterator[Number]:
    """The numbers of a text; both ends of a range have the unit that one of them carries."""
    found: list[tuple[re.Match[str], Number]] = []
    for match in _NUMBER.finditer(text):
        number = _number(match, text)
        if found and _RANGE.fullmatch(text, found[-1][0].end(), match.start()):
            found[-1], number = (found[-1][0], _sharing(found[-1][1], number)), _sharing(number, found[-1][1])
        found.append((match, number))
    return (number for _, number in found)


def _sharing(number: Number, other: Number) -> Number:
    if other.bare or number.kind != "plain":
        return number
    return replace(number, kind=other.kind, bare=False)


def _number(match: re.Match[str], text: str) -> Number:
    written = Decimal(re.sub(r"[,\u2009\u202f\u00a0]", "", match["digits"]))
    after = (match["after"] or "").lower()
    power = SCALES.get((match["scale"] or "").lower(), 0) - (2 if after.startswith(("cent", "¢")) else 0)
    kind = _kind((match["before"] or "").lower(), after, text, match)
    return Number(
        said=match["digits"],
        value=written.scaleb(power),
        step=Decimal(1).scaleb(int(written.as_tuple().exponent) + power),
        kind=kind,
        bare=match["digits"].isdigit() and kind == "plain" and not match["scale"] and not after,
    )


def _kind(before: str, after: str, text: str, match: re.Match[str]) -> Kind:
    if before.endswith(("$", "＄", "﹩", "usd")) or after.endswith(("dollar", "dollars", "bucks")):
        return "dollars"
    if after in ("usd", "$", "＄", "﹩", "¢", "cent", "cents"):
        return "dollars"
    if before or after in ("eur", "gbp", "euro", "euros", "pound", "pounds", "€", "£", "¥", "₹"):
        return "other money"
    if after in ("%", "percent"):
        return "percent"
    if _AFTER_MONTH.search(text, 0, match.start("digits")) or _BEFORE_MONTH.match(text, match.end()):
        return "date"
    return "plain"


def _claims(label: str) -> bool:
    """Whether a name speaks of money or shares: names come out of imported logs, where anybody may have put a sentence
    for a model to repeat."""
    return any(number.kind in ("dollars", "other money", "percent") for number in _numbers(label))


def _is_name(label: str) -> bool:
    return any(letter.isalpha() for letter in label) and any(letter.isdigit() for letter in label)


def _without_names(text: str, facts: Facts) -> str:
    """The text as a reader sees it, without the names, dates and times that the report spells."""
    text = _MARKUP.sub("", unescape(text))
    if facts.labels:
        any_label = "|".join(re.escape(_MARKUP.sub("", label)) for label in facts.labels)
        text = re.sub(rf"(?<![\w$€£.,])(?:{any_label})(?![\w%])", "\u2022", text, flags=re.IGNORECASE)
    for pattern in (_MOMENT, _NAME):
        text = pattern.sub(lambda match: _unless_spelled(match[0], facts.spelled), text)
    return text


def _unless_spelled(word: str, spelled: frozenset[str]) -> str:
    name = word.rstrip(".:/@+-")
    return "\u2022" + word[len(name) :] if name.lower() in spelled else word


def _spelled(text: str) -> Iterator[str]:
    """Dates, times, and names with digits, also without the maker in front or the variant behind."""
    yield from _MOMENT.findall(text)
    for word in _NAME.findall(text):
        name = word.rstrip(".:/@+-").lower()
        for part in {name, name.rpartition("/")[2]}:
            pieces = part.split("-")
            shorter = ("-".join(pieces[:size]) for size in range(1, len(pieces) + 1))
            yield from (start for start in shorter if any(letter.isdigit() for letter in start))


def _parts_of_date(word: str) -> Iterator[Number]:
    """The year and the day, so that 2026-01-31 may be said as 31 January 2026."""
    if _MOMENT.fullmatch(word) and "-" in word:
        for part in (word[:4], word[8:]):
            yield Number(said=part, value=Decimal(part), step=Decimal(1), kind="date", bare=False)
