"""What to do about it: made from analyses, decided on by people, measured on the calls that came after."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast

from django.db.models import QuerySet

from apps.optimization.allowances import allowed
from apps.optimization.confidence import calibrated, prior
from apps.optimization.models import Outcome, Recommendation, StoredAnalysis
from apps.optimization.playbook import PLAYS, play
from apps.optimization.results import State
from apps.optimization.simulators import has_rules

MONTH = timedelta(days=30)
SHORTEST = timedelta(days=7)  # a log that is shorter says too little about a month
_RENEWED = (  # by a later analysis
    "organization_id",
    "analysis",
    "title",
    "saving_usd",
    "low_usd",
    "high_usd",
    "monthly_usd",
    "evidence",
    "sufficiency",
    "sufficiency_state",
    "confidence",
    "calibrated",
    "detail",
)


def renew(analysis: StoredAnalysis) -> None:
    """Make the open recommendations of a dataset those of this analysis; decided ones stay as they are."""
    rows = Recommendation.objects.filter(dataset=analysis.dataset_id)
    open_ones = rows.filter(state=Recommendation.State.OPEN)
    adopted = rows.filter(state=Recommendation.State.ADOPTED).values_list("strategy", "needs")
    found = [row for row in advise(analysis) if not _adopted(row, adopted)]
    named = {(row.strategy, row.needs) for row in found}
    open_ones.filter(pk__in=[row.pk for row in open_ones if (row.strategy, row.needs) not in named]).delete()
    for row in found:
        open_ones.update_or_create(
            dataset_id=row.dataset_id,
            strategy=row.strategy,
            needs=row.needs,
            state=Recommendation.State.OPEN,
            defaults={name: getattr(row, name) for name in _RENEWED},
        )


def _adopted(row: Recommendation, adopted: Iterable[tuple[str, str]]) -> bool:
    """Whether the same is done already, or under a rule that allows more."""
    return any(strategy == row.strategy and (needs or not row.needs) for strategy, needs in adopted)


def advise(analysis: StoredAnalysis) -> list[Recommendation]:
    """What an analysis recommends, ranked: rows that are not stored, also of an analysis that was asked with wishes."""
    result, record = analysis.result or {}, _record(analysis)
    plain = (_written(analysis, strategy, record) for strategy in result.get("strategies", ()) if _known(strategy))
    more = (_if_allowed(analysis, each) for each in result.get("if_allowed", ()) if _known(each["strategy"]))
    return ranked((*plain, *more))


def ranked(rows: Iterable[Recommendation]) -> list[Recommendation]:
    """Proven savings before ceilings; within each, the most dollars per day of effort first."""
    return sorted(rows, key=lambda row: (row.detail["up_to"], -per_day(row), row.strategy))


def per_day(row: Recommendation) -> Decimal:
    """Dollars (per month where it is known, else on the log) for each day of effort."""
    saving: Decimal = row.saving_usd if row.monthly_usd is None else row.monthly_usd
    return saving / Decimal(str(row.detail["effort_days"]))


def of_organization(rows: QuerySet[Recommendation]) -> list[Recommendation]:
    """`rows`, ranked, with their datasets. One query."""
    return ranked(rows.select_related("dataset"))


def _known(strategy: Mapping[str, Any]) -> bool:
    """Whether it would save something, and we know how to put it to work."""
    return strategy["name"] in PLAYS and Decimal(strategy["saving_usd"] or 0) > 0


def _written(analysis: StoredAnalysis, strategy: Mapping[str, Any], record: list[tuple[float, bool]]) -> Recommendation:
    rules = allowed(analysis.parameters) if has_rules(strategy["name"]) else {}
    row = _row(analysis, strategy, Decimal(strategy["saving_usd"]), rules)
    if not strategy["up_to"]:  # how complete data is says nothing about whether a ceiling can be reached
        stated = prior(row.sufficiency, cast(State, row.sufficiency_state))
        learnt = calibrated(stated, record)
        row.confidence, row.calibrated = (stated, False) if learnt is None else (learnt, True)
    return row


def _if_allowed(analysis: StoredAnalysis, found: Mapping[str, Any]) -> Recommendation:
    """What a rule would add that its owner may allow or not, which nothing in the data says: so without confidence."""
    strategy, options = found["strategy"], found["options"]
    row = _row(analysis, strategy, Decimal(found["more_usd"]), options)
    row.title, row.needs = f"{row.title}, if {found['needs']}", found["needs"]
    if row.saving_usd != Decimal(strategy["saving_usd"]):  # the interval is of the whole
        row.low_usd = row.high_usd = None
    return row


def _row(
    analysis: StoredAnalysis, strategy: Mapping[str, Any], saving: Decimal, options: Mapping[str, Any] | None = None
) -> Recommendation:
    """A recommendation, not stored; `options` are those that its owner has to allow, or has allowed."""
    result = analysis.result or {}
    assessed = result["sufficiency"].get(strategy["name"], {"score": 0, "state": "insufficient"})
    return Recommendation(
        organization_id=analysis.organization_id,
        dataset_id=analysis.dataset_id,
        analysis=analysis,
        strategy=strategy["name"],
        title=strategy["title"],
        saving_usd=saving,
        low_usd=_decimal(strategy["low"]),
        high_usd=_decimal(strategy["high"]),
        monthly_usd=monthly(saving, result["overview"], strategy["detail"].get("counted_since")),
        evidence=strategy["evidence"],
        sufficiency=assessed["score"],
        sufficiency_state=assessed["state"],
        detail=play(strategy["name"], options or ()).document()
        | {name: strategy[name] for name in ("up_to", "assumptions")}
        | {"latency": strategy["latency_effect"], "options": dict(options or {})},
    )


def _decimal(amount: str | None) -> Decimal | None:
    return None if amount is None else Decimal(amount)


def monthly(saving: Decimal, overview: Mapping[str, Any], since: str | None = None) -> Decimal | None:
    """A saving on a log, or on its calls `since` a moment, as dollars for 30 days of the same; None below a week."""
    first, last = since or overview["first_call_at"], overview["last_call_at"]
    if first is None or last is None:
        return None
    length = datetime.fromisoformat(last) - datetime.fromisoformat(first)
    if length < SHORTEST:
        return None
    return (saving * Decimal(str(MONTH / length))).quantize(Decimal("0.000001"))


def _record(analysis: StoredAnalysis) -> list[tuple[float, bool]]:
    """(confidence stated, whether it came true) of the organization's recommendations; a ceiling stated none."""
    told = ("recommendation__sufficiency", "recommendation__sufficiency_state", "held")
    return [
        (prior(score, cast(State, state)), held)
        for score, state, held in Outcome.of_stated_confidence(analysis.organization_id).values_list(*told)
    ]
