"""What could be saved on a dataset, as the page shows it: a stored analysis in sentences, charts and lists."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from apps.llm.amounts import UNKNOWN
from apps.optimization.allowances import allowed_first
from apps.optimization.local import UTC, Local, local_of
from apps.optimization.models import Dataset
from apps.optimization.presentation import beaten, if_allowed_line
from apps.optimization.results import Analysis, Dollars, Forecast, IfAllowed, Joint, Strategy, Sufficiency, Times
from apps.web.dataset_picture import day_of_trace
from apps.web.questions import bars
from apps.web.templatetags.web import dated, spell_seconds

OVERALL = "overall"
TITLES = {
    OVERALL: "All analyses together",
    "spend_breakdown": "Where the money goes",
    "latency": "How long answers take",
    "anomalies": "What stood out",
    "forecast": "What comes",
    "changes": "What changed",
}
PARTS = {
    "coverage": "fields, of those needed",
    "history": "history, of 4 weeks",
    "volume": "volume, of 100 sessions",
    "reconciliation": "bill explained",
}

LEVELS = (
    ("E0", "A ceiling from list prices: no more than this can be saved."),
    ("E1", "Judged answers of other models to other questions; not measured on yours."),
    ("E2", "Replayed or priced anew on your own calls, with nothing assumed that they do not show."),
    ("E3", "Run beside production on your traffic."),
    ("E4", "A controlled comparison: part of the traffic with it, part without."),
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One way to save, beside what is said about it in words."""

    strategy: Strategy
    latency: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sufficient:
    """How far the data carries one analysis; a part is a name and 0-1, or None where it is unknown."""

    title: str
    found: Sufficiency
    parts: tuple[tuple[str, float | None], ...]


@dataclass(frozen=True, kw_only=True)
class Missing:
    field: str
    unlocks: tuple[str, ...]  # analyses, with the points that the field would bring them
    at_most_usd: Decimal | None


@dataclass(frozen=True, kw_only=True)
class Odd:
    """A span in which spend stood out."""

    span: str
    excess_usd: Decimal
    cause: str
    user: str | None
    user_excess_usd: Decimal | None


@dataclass(frozen=True, kw_only=True)
class Savings:
    headline: str
    joint: Joint | None
    shares: dict[str, Any] | None  # a chart
    overlap: str
    left_out: tuple[tuple[str, str], ...]  # title, why
    proven: tuple[Item, ...]
    if_allowed: tuple[tuple[str, Item], ...]  # what is needed, and the way to save under that rule
    ceilings: tuple[Item, ...]
    unknown: tuple[Item, ...]
    nothing: tuple[Strategy, ...]  # what was computed and saves nothing
    forecast: Forecast
    forecast_chart: dict[str, Any] | None
    beaten: str  # the baseline that the forecast has to beat; empty where it was not tried
    anomalies: tuple[Odd, ...] | None
    sufficiency: tuple[Sufficient, ...]
    missing: tuple[Missing, ...]
    features: tuple[str, ...]
    models: tuple[str, ...]


def draw(result: Mapping[str, Any], dataset: Dataset) -> Savings:
    """The picture of an analysis that this version of the code has stored."""
    found = Analysis.model_validate(result)
    titles = TITLES | {each.name: each.title for each in found.strategies}
    known = [each for each in found.strategies if each.saving_usd is not None]
    real, local = dated(found.overview.first_call_at), local_of(dataset)
    return Savings(
        headline=headline(found.joint, local, allowed_first(found)),
        joint=found.joint,
        shares=_shares(found.joint, titles, local),
        overlap=_overlap(found.joint, local),
        left_out=tuple((_title(each.name, titles), each.why) for each in found.joint.left_out) if found.joint else (),
        proven=_items(each for each in known if each.saving_usd and not each.up_to),
        if_allowed=tuple((each.needs, item) for each in found.if_allowed for item in _items([each.strategy])),
        ceilings=_items(each for each in known if each.saving_usd and each.up_to),
        unknown=_items(each for each in found.strategies if each.saving_usd is None),
        nothing=tuple(each for each in known if not each.saving_usd),
        forecast=found.forecast,
        forecast_chart=_forecast(found.forecast, real, local),
        beaten=beaten(found.forecast, local),
        anomalies=_anomalies(found, real, local),
        sufficiency=tuple(_sufficient(name, each, titles) for name, each in found.sufficiency.items()),
        missing=_missing(found.sufficiency, titles),
        features=_keys(found, "feature"),
        models=_keys(found, "model"),
    )


def _keys(found: Analysis, by: str) -> tuple[str, ...]:
    return tuple(row.key for row in found.breakdown[by].rows if row.key)


PERCENT = "\N{NO-BREAK SPACE}%"


def headline(joint: Joint | None, local: Local = UTC, more: IfAllowed | None = None) -> str:
    """The joint saving in one sentence, with its share of the spend and its interval; before it, what one rule adds."""
    if more:
        return f"{if_allowed_line(more, local)} {headline(joint, local)}"
    if joint is None:
        return "Nothing is proven to save on these calls."
    if joint.saving_usd is None:
        return f"Together: {UNKNOWN}."
    said = f"Together: {'up to ' if joint.up_to else ''}{local.money(joint.saving_usd)}"
    if joint.spent_usd:
        said += f" of {local.money(joint.spent_usd)} ({100 * joint.saving_usd / joint.spent_usd:.1f}{PERCENT})"
    if joint.low is None or joint.high is None:
        return said + ", interval not computed"
    return said + f", 95{PERCENT} interval {local.money(joint.low)} to {local.money(joint.high)}"


def _title(name: str, titles: Mapping[str, str]) -> str:
    return titles.get(name, name.replace("_", " ").capitalize())


def _shares(joint: Joint | None, titles: Mapping[str, str], local: Local) -> dict[str, Any] | None:
    if joint is None:
        return None
    known = [(_title(name, titles), usd) for name, usd in joint.shares.items() if usd is not None]
    return bars("Who brings how much of it", sorted(known, key=lambda each: -each[1]), local)


def _overlap(joint: Joint | None, local: Local) -> str:
    """Why the parts do not add up to the whole, in a sentence; empty where there is no whole."""
    if joint is None or joint.overlap_usd is None:
        return ""
    alone = local.money(joint.sum_of_parts_usd)
    if joint.overlap_usd > 0:
        return f"One by one they save {alone}; {local.money(joint.overlap_usd)} of that overlaps and is counted once."
    if joint.overlap_usd < 0:
        return (
            f"One by one they save {alone}; together {local.money(-joint.overlap_usd)} more, as they help each other."
        )
    return "They do not overlap: one by one they save the same." if len(joint.shares) > 1 else ""


def _items(strategies: Iterable[Strategy]) -> tuple[Item, ...]:
    """The largest saving first."""
    ordered = sorted(strategies, key=lambda each: (-(each.saving_usd or 0), each.title))
    return tuple(Item(strategy=each, latency=_latency(each)) for each in ordered)


def _latency(strategy: Strategy) -> tuple[str, ...]:
    """Times before and after, in words; nothing where they were not computed."""
    if strategy.latency is None:
        return ()
    names = {"p50": "median", "p95": "95th percentile", "ttft": "first token"}
    before, after = strategy.latency.before, strategy.latency.after
    return tuple(
        f"{name} {_seconds(before, field)}, then {_seconds(after, field)}"
        for field, name in names.items()
        if getattr(before, field) is not None
    )


def _seconds(times: Times, field: str) -> str:
    seconds: float | None = getattr(times, field)
    return UNKNOWN if seconds is None else spell_seconds(seconds)


def _forecast(forecast: Forecast, real: bool, local: Local) -> dict[str, Any] | None:
    if len(forecast.by_day) < 2:
        return None
    points = [(_day(each.day, real), each.usd) for each in forecast.by_day]
    return bars("Spend to come, by day (UTC)", points, local) | {"kind": "line"}


def _day(day: date, real: bool) -> str:
    return day.isoformat() if real else day_of_trace(day.isoformat())


def _anomalies(found: Analysis, real: bool, local: Local) -> tuple[Odd, ...] | None:
    if found.anomalies is None:
        return None
    return tuple(
        Odd(
            span=f"{_moment(local.time(each.from_), real)} to {_moment(local.time(each.to), real)}",
            excess_usd=each.excess_usd,
            cause=each.cause,
            user=each.user,
            user_excess_usd=each.user_excess_usd,
        )
        for each in found.anomalies
    )


def _moment(moment: datetime, real: bool) -> str:
    return f"{_day(moment.date(), real)} {moment:%H:%M}"


def _sufficient(name: str, found: Sufficiency, titles: Mapping[str, str]) -> Sufficient:
    parts = tuple((words, getattr(found.parts, part)) for part, words in PARTS.items())
    return Sufficient(title=_title(name, titles), found=found, parts=parts)


def _missing(found: Mapping[str, Sufficiency], titles: Mapping[str, str]) -> tuple[Missing, ...]:
    """Each missing field once: what it unlocks, and the spend of the calls that lack it; the largest first."""
    unlocks: dict[str, list[str]] = defaultdict(list)
    at_most: dict[str, Dollars | None] = {}
    for name, each in found.items():
        for lack in each.lacks:
            points = f" (+{lack.points} points)" if lack.points else ""
            unlocks[lack.field].append(f"{_title(name, titles)}{points}")
            at_most[lack.field] = lack.at_most_usd
    rows: Sequence[Missing] = [
        Missing(field=field, unlocks=tuple(several), at_most_usd=at_most[field]) for field, several in unlocks.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-(row.at_most_usd or 0), row.field)))
