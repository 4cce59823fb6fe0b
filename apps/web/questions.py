"""What is asked on a page of a dataset beside the plain savings: forms as parameters, answers as charts and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from apps.llm.amounts import UNKNOWN
from apps.optimization.local import Local
from apps.optimization.models import StoredAnalysis
from apps.optimization.options import ImpossibleOption
from apps.optimization.presentation import scenario_lines
from apps.optimization.results import Changes, Contribution
from apps.optimization.scenarios import Pareto, Point, WhatIf
from apps.optimization.simulators.exact_cache import life
from apps.optimization.wishes import share_from, times_from
from apps.web.templatetags.web import percent, spell_seconds

TITLES = {  # what has a page of its own; sufficiency and reconciliation, which agents ask for, are told on others
    "what_if": "What if",
    "pareto": "What may be had for what",
    "changes": "What changed",
    "savings": "Savings under conditions",
}
STAGES = {  # short: several stand in one label of a chart
    "drop": "no vain attempts",
    "trim": "shorter",
    "route": "other models",
    "answer": "own cache",
    "prefix": "prefix cache",
    "batch": "batch",
}
LONGEST_COMPARED = timedelta(days=7)  # where no later file says what was new


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a question; charts and tables in the shape that reports use."""

    said: tuple[str, ...]
    charts: tuple[dict[str, Any], ...]
    tables: tuple[dict[str, Any], ...]
    assumptions: tuple[str, ...] = ()


# --- Asking ----------------------------------------------------------------------------------------------------------


def parameters_of(kind: str, form: Mapping[str, str], local: Local) -> dict[str, Any]:
    """The parameters of a question from the fields of its form; empty fields say nothing.

    Raises:
        ImpossibleOption: a field cannot be understood.
    """
    written = {name: value.strip() for name, value in form.items() if value.strip()}
    if kind == "changes":
        return {name: _midnight(written.get(name, ""), name, local) for name in PERIODS}
    asked: dict[str, Any] = {}
    if "quality" in written:
        asked["quality_floor"] = _percent(written["quality"], "Quality to keep")
    if "waits" in written:
        asked["waits"] = times_from(_listed(written["waits"]), "May wait")
    if "keep" in written:
        asked["keep"] = _listed(written["keep"])
    if "answers_kept" in written:
        asked["answers_kept"] = None if written["answers_kept"] == "good" else written["answers_kept"]
    if "answers_shared" in written:
        asked["answers_shared"] = written["answers_shared"]
    if "bill" in written:
        asked["bill"] = written["bill"]
    return asked | (_scenario(written) if kind == "what_if" else {})


def _scenario(written: Mapping[str, str]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if "growth" in written:
        asked["growth"] = _percent(written["growth"], "More calls")
    if "within" in written:
        asked["within"] = times_from(_listed(written["within"]), "Must stay within")
    if "move_to" in written:
        move = {"feature": written.get("move_feature"), "model": written.get("move_model"), "to": written["move_to"]}
        asked["moves"] = [move]
    elif "move_feature" in written or "move_model" in written:
        raise ImpossibleOption("A move needs the model to ask instead.")
    return asked


def _percent(text: str, name: str) -> float:
    """A share from a number of percents, with or without its sign."""
    return share_from(f"{text.removesuffix('%')}%", name)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


PERIODS = ("before_from", "before_until", "after_from", "after_until")


def _midnight(text: str, name: str, local: Local) -> str:
    """The begin of a day in the zone, as the question takes it."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ImpossibleOption(f"{name.replace('_', ' ')}: {text!r} is no day. Write it as 2026-12-31.") from None
    zone = UTC if day.year <= 1970 else ZoneInfo(local.time_zone)
    return datetime(day.year, day.month, day.day, tzinfo=zone).isoformat()


def periods(*, first: datetime | None, since: datetime | None, last: datetime | None, local: Local) -> dict[str, date]:
    """What to compare if nobody says otherwise: the days from `since` on, else the last week, with as many before."""
    if first is None or last is None:
        return {}
    begin, end = local.time(first).date(), local.time(last).date() + timedelta(days=1)
    half = timedelta(days=max(1, (end - begin).days // 2))
    start = local.time(since).date() if since else end - min(LONGEST_COMPARED, half)
    return dict(zip(PERIODS, (max(begin, start - (end - start)), start, start, end), strict=True))


# --- Answering -------------------------------------------------------------------------------------------------------


def answer(kind: str, result: Mapping[str, Any], local: Local) -> Answer:
    """The result of an analysis that is no savings."""
    if kind == "what_if":
        return _what_if(WhatIf.model_validate(result), local)
    if kind == "pareto":
        return _pareto(Pareto.model_validate(result), local)
    return _changes(Changes.model_validate(result), local)


def asked_in_words(analysis: StoredAnalysis, local: Local) -> str:
    """The parameters of a question in one line."""
    asked = analysis.parameters
    if analysis.kind == "changes":
        days = [f"{local.time(datetime.fromisoformat(asked[name])):%Y-%m-%d}" for name in PERIODS]
        return f"{days[0]} until {days[1]}, then {days[2]} until {days[3]}"
    said = [
        *(f"{share:+.0%} calls" for share in [asked.get("growth")] if share),
        *(
            f"{move.get('feature') or 'every feature'} from {move.get('model') or 'any model'} to {move['to']}"
            for move in asked.get("moves", ())
        ),
        *(f"{feature} may wait {wait * 1000:,.0f} ms" for feature, wait in asked.get("waits", {}).items()),
        *(f"{feature} within {wait * 1000:,.0f} ms" for feature, wait in asked.get("within", {}).items()),
        *(f"{feature} as it is" for feature in asked.get("keep", ())),
        *(f"cached answers kept {life(asked['answers_kept'])}" for name in asked if name == "answers_kept"),
        *("cached answers for everybody" for shared in [asked.get("answers_shared")] if shared),
        *("beside a bill" for bill in [asked.get("bill")] if bill),
    ]
    known = {"growth", "moves", "waits", "within", "keep", "answers_kept", "answers_shared", "bill"}
    said += [f"{name.replace('_', ' ')}: {value}" for name, value in asked.items() if name not in known]
    return "; ".join(said) or "on these calls as they are"


def _what_if(found: WhatIf, local: Local) -> Answer:
    steps = (
        ("As it is", found.spent_usd),
        ("As many calls as asked", found.grown_usd),
        ("With the moves", found.moved_usd if found.moves else None),
        ("With what is proven to save", found.saved_usd),
    )
    return Answer(
        said=tuple(scenario_lines(found, local)),
        charts=(bars("What it would cost", [(name, usd) for name, usd in steps if usd is not None], local),),
        tables=(),
        assumptions=found.assumptions,
    )


def _pareto(found: Pareto, local: Local) -> Answer:
    front = [point for point in found.points if point.best]
    rows = sorted(found.points, key=lambda point: (not point.best, point.cost_usd or 0))
    return Answer(
        said=(
            f"{len(front)} of {len(found.points)} choices are beaten by no other in cost, time and quality at once.",
        ),
        charts=(bars("Cost of the choices that nothing beats", [(_named(p), p.cost_usd or 0) for p in front], local),),
        tables=(
            {
                "title": "Every choice of ways to save",
                "columns": ["Choice", "Cost", "95 % of answers within", "Quality kept", "Beaten"],
                "rows": [_row(point, local) for point in rows],
            },
        ),
        assumptions=found.assumptions,
    )


def _named(point: Point) -> str:
    return " + ".join(STAGES.get(stage, stage) for stage in point.stages) or "nothing changed"


def _row(point: Point, local: Local) -> list[str]:
    seconds = UNKNOWN if point.p95_seconds is None else spell_seconds(point.p95_seconds)
    return [_named(point), local.money(point.cost_usd), seconds, percent(point.quality), "" if point.best else "yes"]


def _changes(found: Changes, local: Local) -> Answer:
    more = "more" if found.change_usd >= 0 else "less"
    change = local.money(abs(found.change_usd))
    return Answer(
        said=(
            f"{local.money(found.before_usd)} before, {local.money(found.after_usd)} after: {change} {more}.",
            found.cause or "Nothing changed.",
        ),
        charts=(),
        tables=(
            {
                "title": "What made it so",
                "columns": ["Factor", "Change"],
                "rows": [[name, local.money(usd)] for name, usd in found.factors.items()],
            },
            {
                "title": "The largest single causes",
                "columns": ["Factor", "Feature", "Model", "Tokens", "Change"],
                "rows": [_cause(each, local) for each in found.contributions],
            },
        ),
    )


def _cause(each: Contribution, local: Local) -> list[str | None]:
    return [each.factor, each.feature, each.model, each.tokens, local.money(each.usd)]


def bars(title: str, steps: Sequence[tuple[str, Any]], local: Local) -> dict[str, Any]:
    """A bar chart of dollars in the currency of the reader."""
    points = [{"label": name, "value": float(usd * local.rate)} for name, usd in steps]
    return {"title": title, "kind": "bar", "unit": local.currency, "points": points}
