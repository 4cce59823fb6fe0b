"""Periods that a request names, and what becomes of them: most analyses count the whole log."""

import re
from datetime import UTC, datetime

_NAMES = (
    "january february march april may june july august september october november december".split()  # noqa: SIM905
)
_AFTER = "".join(f"(?<=\\b{word} )|" for word in ("in", "of", "and", "since", "between", "to", "for", "from", "with"))
# "may" and "march" are words of every day: only with a capital and behind a preposition.
_MONTH = (
    rf"(?:\b(?P<name>{'|'.join(name for name in _NAMES if name not in ('may', 'march'))}"
    r"|(?-i:Jan|Feb|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec))"
    rf"|(?:{_AFTER[:-1]})(?P<odd>(?-i:May|March|Mar)))\b\.?(?:\s+(?P<year>20\d\d)\b)?"
    r"|\b(?P<iso>20\d\d-(?:0[1-9]|1[0-2]))\b(?!-\d)"
)
_MONTHS = re.compile(_MONTH, re.IGNORECASE)
_PERIODS = re.compile(
    rf"{_MONTH}|\b(?:last|past|previous|this)\s+(?:\d{{1,3}}\s+)?(?:day|week|month|quarter|year)s?\b|\byesterday\b"
    r"|\bQ[1-4]\b|\b20\d\d-\d\d-\d\d\b",
    re.IGNORECASE,
)
Span = tuple[datetime, datetime]  # the second is no part of it


def named(text: str) -> list[str]:
    """The periods of the past that a text names, in its words.

    >>> named("What did chat cost in July, and last week?"), named("search may wait 5 ms in May")
    (['July', 'last week'], ['May'])
    """
    return list(dict.fromkeys(found[0].strip() for found in _PERIODS.finditer(text)))


def months(text: str, log: Span) -> list[Span]:
    """The calendar months that a text names and the log has days of, in order; without a year, the latest of the name.

    >>> log = datetime(2025, 5, 10, tzinfo=UTC), datetime(2026, 7, 20, tzinfo=UTC)
    >>> [f"{start:%Y-%m} {end:%Y-%m}" for start, end in months("between July and June 2025? And August 2026?", log)]
    ['2025-06 2025-07', '2026-07 2026-08']
    """
    found = {_month(match, log) for match in _MONTHS.finditer(text)}
    return sorted(span for span in found if span and span[0] < log[1] and log[0] < span[1])


def _month(match: re.Match[str], log: Span) -> Span | None:
    if match["iso"]:
        return _calendar_month(int(match["iso"][:4]), int(match["iso"][5:]))
    month = next(n for n, name in enumerate(_NAMES, 1) if name.startswith((match["name"] or match["odd"])[:3].lower()))
    if match["year"]:
        return _calendar_month(int(match["year"]), month)
    years = range(log[1].year, log[0].year - 1, -1)
    return next((span for span in (_calendar_month(year, month) for year in years) if span[0] < log[1]), None)


def _calendar_month(year: int, month: int) -> Span:
    following = (year + 1, 1) if month == 12 else (year, month + 1)
    return datetime(year, month, 1, tzinfo=UTC), datetime(*following, 1, tzinfo=UTC)


def whole_log(text: str, log: Span) -> str | None:
    """That every number counts the whole log and not the period that was named; None where none was, or it is that."""
    said, spans = named(text), months(text, log)
    if not said or (len(said) == len(spans) == 1 and spans[0][0] <= log[0] and log[1] <= spans[0][1]):
        return None
    return (
        f"This counts the whole log, from {log[0]:%Y-%m-%d} to {log[1]:%Y-%m-%d}, and not {' and '.join(said)} alone: "
        "an answer for a part of a log is not supported."
    )


def compared_months(text: str, log: Span) -> tuple[list[Span], str | None]:
    """Two months to compare, else none; and what to mind: that the log has a part of them, or does not have both."""
    spans, span = months(text, log), f"from {log[0]:%Y-%m-%d} to {log[1]:%Y-%m-%d}"
    wanted = len(dict.fromkeys(found[0].lower().strip() for found in _MONTHS.finditer(text)))
    if len(spans) == wanted == 2:
        whole = log[0] <= spans[0][0] and spans[1][1] <= log[1]
        return spans, None if whole else f"The log runs {span}, so it may not hold all days of the two months."
    if wanted:
        return [], f"The log runs {span}; two months that both lie in it could be compared, so other periods were."
    return [], None
