"""What if: more calls, other models, slower answers, some savings and not others; and what may be had for what.

Each question is a value that is stored with its answer, so that the same question can be put again.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import compress
from math import prod
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field

from apps.errors import Invalid
from apps.llm.pricing import STAGES, Stage
from apps.optimization.calls import Calls
from apps.optimization.changes import Span, changes
from apps.optimization.coalitions import ROUTED, Coalition, Saved, leave_priced, saved, subsets
from apps.optimization.duck import quoted
from apps.optimization.forecast import forecast
from apps.optimization.joint import chosen, joint, merged, saved_by, staged
from apps.optimization.options import Options
from apps.optimization.overview import spend
from apps.optimization.readers import is_storable
from apps.optimization.repeats import look_up_seconds
from apps.optimization.results import Changes, Dollars, Joint, Result, Strategy, in_dollars
from apps.optimization.simulators import known
from apps.optimization.simulators.batch_eligible import BATCH_WINDOW
from apps.optimization.simulators.model_swap_ceiling import FEWER_TOKENS, MORE_TOKENS
from apps.optimization.waits import no_such_feature, told_wait

MOST_MOVES = 20
MOST_NAMES = 1000  # of features or models in one wish


def _storable(name: str) -> str:
    if not is_storable(name):
        raise ValueError("a character in it is none that can be kept")
    return name


Name = Annotated[str, Field(max_length=1000), AfterValidator(_storable)]  # as long as one of a call may be
MOST_SECONDS = 1e9


def _no_answer(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("yes or no is no number of seconds")
    return value


Seconds = Annotated[float, BeforeValidator(_no_answer), Field(ge=0, le=MOST_SECONDS)]
# Nobody compares other centuries, and at the ends of the calendar a moment has no date in every zone.
Moment = Annotated[AwareDatetime, Field(ge=datetime(1969, 12, 30, tzinfo=UTC), le=datetime(2200, 1, 1, tzinfo=UTC))]


class Asked(Result):
    """What the owner of the calls allows and asks of every analysis; see `Options`."""

    model_config = ConfigDict(allow_inf_nan=False)

    candidates: tuple[Name, ...] | None = Field(
        None, max_length=MOST_NAMES, description="Models that may be asked instead; null: any."
    )
    quality_floor: float = Field(0.95, ge=0, le=1, description="Share of today's quality that must be kept.")
    waits: dict[Name, Seconds] = Field(
        default_factory=dict, max_length=MOST_NAMES, description="Feature -> seconds that its answers may take."
    )
    keep: tuple[Name, ...] = Field((), max_length=MOST_NAMES, description="Features that nothing may touch.")
    trimmed: float = Field(0.1, ge=0, le=1)
    output_percentile: float = Field(0.95, ge=0, le=1)
    answers_kept: Seconds | None = Field(3600, description="Seconds that a cache may keep an answer; null: for good.")
    answers_shared: bool | None = Field(
        None, description="One user may get the answer that another one was given; null: nobody has said."
    )
    false_hits: float = Field(0.05, ge=0, le=1, description="Share of a semantic cache's hits that may be wrong.")
    ceilings: bool = Field(False, description="Let those that only bound a saving take part in the joint one.")
    bill: UUID | None = Field(None, description="A bill of the organization to compare with.")

    def may_take(self) -> dict[str, float]:
        """Feature -> seconds that its answers may take, by all that was said of it."""
        return self.waits

    def options(self) -> Options:
        """The same as simulators take it.

        Raises:
            ImpossibleOption: a feature would wait for less than no time.
        """
        return Options(
            candidates=self.candidates,
            quality_floor=self.quality_floor,
            waits=self.may_take(),
            keep=self.keep,
            trimmed=self.trimmed,
            output_percentile=self.output_percentile,
            answers_kept=self.answers_kept,
            answers_shared=self.answers_shared,
            false_hits=self.false_hits,
        )


class Beside(Result):
    """What the calls are compared with, if anything."""

    bill: UUID | None = Field(None, description="A bill of the organization.")


class BesideBill(Result):
    """What the calls are compared with."""

    bill: UUID = Field(description="A bill of the organization.")


class Move(Result):
    """Ask another model: the calls of a feature, of a model, or of both."""

    feature: Name | None = Field(None, min_length=1, description="Null: of every feature.")
    model: Name | None = Field(None, min_length=1, description="That they ask now; null: any.")
    to: Name = Field(min_length=1, max_length=200, description="The model to ask instead.")
    provider: Name | None = Field(None, description="Who offers it; null: whoever the price list knows.")


class Scenario(Asked):
    """A question."""

    growth: float = Field(0.0, ge=-1, le=100, description="0.5: half as many calls more, of the same kind.")
    moves: tuple[Move, ...] = Field((), max_length=MOST_MOVES)
    within: dict[Name, Seconds] = Field(
        default_factory=dict,
        max_length=MOST_NAMES,
        description="Feature -> seconds that its answers must keep; nothing that takes longer is done with its calls.",
    )

    def may_take(self) -> dict[str, float]:
        """The smaller one of what a feature may wait and what it must keep: who must answer in a second waits for no
        batch."""
        return {**self.waits, **{name: min(limit, self.waits.get(name, limit)) for name, limit in self.within.items()}}


class Moved(Result):
    """What a move would have cost: the same tokens at other list prices."""

    move: Move
    calls: int  # that move
    cost_usd: Dollars | None  # of these calls, today
    would_cost_usd: Dollars | None  # None: the model has no known price
    low_usd: Dollars | None  # if the other model takes a fifth fewer tokens
    high_usd: Dollars | None  # if it takes three tenths more
    why: str | None


class Promise(Result):
    """Whether a feature's answers keep to a time, as the log shows them."""

    feature: str
    limit_seconds: float
    p50: float | None
    p95: float | None
    keeps: bool | None  # whether 95 % of its answers do; None where the log has no times
    calls: int | None = None  # of the feature; None in an answer from before they were counted


class WhatIf(Result):
    """The answer to a scenario."""

    spent_usd: Dollars | None  # on these calls
    grown_usd: Dollars | None  # the same calls, as many as the scenario says
    forecast_usd: Dollars | None  # of the next `forecast_days`, grown alike; None where the log is too short
    forecast_low: Dollars | None
    forecast_high: Dollars | None
    forecast_days: int
    moves: tuple[Moved, ...]
    moved_usd: Dollars | None  # grown, with all moves
    joint: Joint | None  # what the allowed ways to save bring beside the moves, on as many calls as there are
    saved_usd: Dollars | None  # `moved_usd` less that, grown alike
    promises: tuple[Promise, ...]
    assumptions: tuple[str, ...]


class Point(Result):
    """One choice of ways to save."""

    stages: tuple[str, ...]
    cost_usd: Dollars | None
    p95_seconds: float | None  # of all answers; None where it cannot be told
    quality: float | None  # share of today's that is kept, at least; 1: nothing changes answers
    best: bool  # no other choice is better in one respect and as good in the others


class Pareto(Result):
    """What may be had for what: cost, latency and quality of every choice of ways to save."""

    points: tuple[Point, ...]
    strategies: dict[str, tuple[str, ...]]  # stage -> the ways to save that act there
    assumptions: tuple[str, ...]


class Periods(Result):
    """Two periods to compare."""

    before_from: Moment
    before_until: Moment
    after_from: Moment
    after_until: Moment


class UnknownFeature(Invalid):
    """A wish is about a feature that no call is of."""

    code = "analysis.unknown_feature"


def features_of(asked: Scenario) -> set[str]:
    """The features that a question is about."""
    return {*asked.waits, *asked.within, *asked.keep, *(move.feature for move in asked.moves if move.feature)}


def refuse_unknown_features(calls: Calls, named: Collection[str]) -> None:
    """Raises UnknownFeature for a wish that would do nothing, since no call is of the feature that it names."""
    if not named:
        return
    there = _features(calls)
    if missing := sorted(set(named) - there):
        known = ", ".join(sorted(there)[:20]) or "no features at all"
        raise UnknownFeature(f"No call is of feature {missing[0]!r}; the log has {known}.")


def _features(calls: Calls) -> set[str]:
    return {feature for (feature,) in calls.rows("SELECT DISTINCT feature FROM calls WHERE feature IS NOT NULL")}


def told_waits(calls: Calls, asked: Asked) -> tuple[str, ...]:
    """What follows from the times that features may take, in sentences; also where no call is of one of them."""
    limits = asked.may_take()
    there = _features(calls) if limits else set()
    return tuple(
        told_wait(name, seconds) if name in there else no_such_feature(name) for name, seconds in limits.items()
    )


Told = Callable[[float], None]  # hears percents, and stops the work by an error


def _simulated(calls: Calls, asked: Asked, progress: Told) -> list[Strategy]:
    """Every way to save, on these calls; some four fifths of an answer."""
    found: list[Strategy] = []
    for simulator in (every := known().values()):
        found.append(simulator(calls, asked.options()))
        progress(80 * len(found) / len(every))
    return found


def what_if(calls: Calls, asked: Scenario, progress: Told = lambda percent: None) -> WhatIf:
    """Cost of the scenario on the owner's calls: grown, moved, then saved on."""
    strategies = _simulated(calls, asked, progress)
    moves = _all_moved(calls, asked.moves)
    moving = MOVED if any(move.would_cost_usd is not None for move in moves) else None
    return _answer(calls, asked, moves, joint(calls, strategies, ceilings=asked.ceilings, moves=moving))


def what_if_with(calls: Calls, asked: Scenario, together: Joint | None) -> WhatIf:
    """The same where the joint saving of these calls as they are, under what is `asked`, is known already; only moves
    change it."""
    return what_if(calls, asked) if asked.moves else _answer(calls, asked, (), together)


def _answer(calls: Calls, asked: Scenario, moves: tuple[Moved, ...], together: Joint | None) -> WhatIf:
    """`together` is the joint saving of the calls once they are moved."""
    whole, factor = spend(calls), Decimal(str(1 + asked.growth))
    less = sum((_less(move) for move in moves), Decimal(0))
    spent = in_dollars(whole)
    coming = forecast(calls)
    moved = None if spent is None else (spent - less) * factor
    return WhatIf(
        spent_usd=spent,
        grown_usd=None if spent is None else spent * factor,
        forecast_usd=_times(coming.usd, factor),
        forecast_low=_times(coming.low, factor),
        forecast_high=_times(coming.high, factor),
        forecast_days=coming.days,
        moves=moves,
        moved_usd=moved,
        joint=together,
        saved_usd=_times(together.would_cost_usd, factor) if together else moved,
        promises=tuple(_promise(calls, feature, limit) for feature, limit in asked.within.items()),
        assumptions=(*_ASSUMED, *told_waits(calls, asked)),
    )


_ASSUMED = (
    "More calls are more of the same: features, models, sizes and hours stay as they are.",
    "A call moves once, by the first move that names it.",
    "A move asks the same tokens at the other model's list price; whether it answers well enough is not measured.",
    "A call whose price at the other model is not known stays where it is.",
    "Ways to save change the calls that they would change today, at the prices of the model that is asked after the "
    "moves; none of them sends a call that moves elsewhere.",
)


def _less(move: Moved) -> Decimal:
    """What a move takes off the cost; nothing where its price is not known."""
    if move.cost_usd is None or move.would_cost_usd is None:
        return Decimal(0)
    return move.cost_usd - move.would_cost_usd


def _times(amount: Decimal | None, factor: Decimal) -> Decimal | None:
    return None if amount is None else amount * factor


MOVED = "moved"  # the relation of all calls that move, as one of a route is


def _all_moved(calls: Calls, moves: Sequence[Move]) -> tuple[Moved, ...]:
    """What each move would cost; leaves MOVED."""
    calls.connection.execute(f"CREATE OR REPLACE TEMP TABLE {MOVED} (call BIGINT, model VARCHAR, provider VARCHAR)")
    return tuple(_moved(calls, move) for move in moves)


def _moved(calls: Calls, move: Move) -> Moved:
    """What a move would cost, of the calls that no earlier one took."""
    tests = [
        f"{column} = {quoted(value)}" for column, value in (("feature", move.feature), ("model", move.model)) if value
    ]
    condition = " AND ".join(
        ["billed", "cost_pico IS NOT NULL", f"call NOT IN (SELECT call FROM {MOVED})", *tests]  # noqa: S608
    )
    provider = "NULL" if move.provider is None else quoted(move.provider)
    calls.connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE move AS
            SELECT call, {quoted(move.to)} AS model, {provider}::VARCHAR AS provider FROM calls WHERE {condition}"""  # noqa: S608
    )
    count, cost = calls.row(f"SELECT count(*), sum(cost_pico) FROM calls WHERE {condition}")  # noqa: S608
    if not count:
        return _nothing(move, calls=0, cost=0, why="No priced call is of this feature and model.")
    leave_priced(calls, "move")
    moving, moving_cost = calls.row("SELECT count(*), sum(cost_pico) FROM calls SEMI JOIN move USING (call)")
    if not moving:
        return _nothing(move, calls=count, cost=int(cost), why=f"No price is known for {move.to}.")
    would = int(moving_cost) - saved(calls, {"route": "move"}).total(ROUTED)
    calls.connection.execute(f"INSERT INTO {MOVED} FROM move")
    return Moved(
        move=move,
        calls=moving,
        cost_usd=in_dollars(moving_cost),
        would_cost_usd=in_dollars(would),
        low_usd=in_dollars(int(would * FEWER_TOKENS)),
        high_usd=in_dollars(int(would * MORE_TOKENS)),
        why=None,
    )


def _nothing(move: Move, *, calls: int, cost: int, why: str) -> Moved:
    return Moved(
        move=move, calls=calls, cost_usd=in_dollars(cost), would_cost_usd=None, low_usd=None, high_usd=None, why=why
    )


def _promise(calls: Calls, feature: str, limit: float) -> Promise:
    count, p50, p95 = calls.row(
        """SELECT count(*), quantile_cont(epoch(ended_at) - epoch(started_at), 0.5),
                  quantile_cont(epoch(ended_at) - epoch(started_at), 0.95)
           FROM calls WHERE feature = ? AND status IS DISTINCT FROM 'failed' AND batch IS NOT TRUE""",
        [feature],
    )
    keeps = None if p95 is None else bool(p95 <= limit)
    return Promise(feature=feature, calls=count, limit_seconds=limit, p50=p50, p95=p95, keeps=keeps)


# --- Cost, latency and quality at once -------------------------------------------------------------------------------


def pareto(calls: Calls, asked: Asked, progress: Told = lambda percent: None) -> Pareto:
    """Every choice among the stages at which something is proven, and which of them nothing beats."""
    strategies = _simulated(calls, asked, progress)
    taking, _ = chosen(strategies, asked.ceilings)
    by_stage = staged(taking)
    treatments = {stage: merged(calls, stage, several) for stage, several in by_stage.items() if several}
    found = saved_by(calls, by_stage)
    judged = not any(each.up_to for each in by_stage["route"])
    kept = {"route": asked.quality_floor if judged else None, "trim": None}
    if any(each.name == "semantic_cache" for each in by_stage["answer"]):
        kept["answer"] = 1 - asked.false_hits
    seconds, measured = look_up_seconds(calls)
    points = [_point(calls, found, stages, treatments, kept, seconds) for stages in subsets(list(treatments))]
    best = [not any(_beats(other, point) for other in points) for point in points]
    return Pareto(
        points=tuple(
            point.model_copy(update={"best": True}) if wins else point for point, wins in zip(points, best, strict=True)
        ),
        strategies={stage: tuple(each.name for each in several) for stage, several in by_stage.items() if several},
        assumptions=(
            f"A cache of answers takes {seconds * 1000:,.0f} ms, which is {'measured' if measured else 'assumed'}; "
            "a batch is answered within a day.",
            "Quality is what pairs of judged answers prove to be kept, less the false hits of a semantic cache; what "
            "is neither routed, trimmed nor answered for another question keeps all.",
            "How long a routed or trimmed call takes is not known, so the latency of such a choice is not either.",
            *told_waits(calls, asked),
        ),
    )


def _point(
    calls: Calls,
    found: Saved,
    stages: Coalition,
    treatments: Mapping[Stage, str],
    kept: Mapping[str, float | None],
    look_up: float,
) -> Point:
    """One choice; `kept` is the share of quality that a stage keeps, where it takes any; None: unknown. `look_up` is in
    seconds."""
    shares = [kept.get(stage, 1.0) for stage in stages]
    changed = stages & {"route", "trim"}
    return Point(
        stages=tuple(compress(STAGES, (stage in stages for stage in STAGES))),
        cost_usd=in_dollars(found.spent - found.total(stages)),
        p95_seconds=None if changed else _p95(calls, stages, treatments, look_up),
        quality=None if None in shares else prod(share for share in shares if share is not None),
        best=False,
    )


def _p95(calls: Calls, stages: Coalition, treatments: Mapping[Stage, str], look_up: float) -> float | None:
    """Seconds within which 95 % of the answers would come, of the calls whose times the log shows."""
    drop, answer, batch = (
        f"call IN (SELECT call FROM {treatments[stage]})" if stage in stages else "false"  # noqa: S608
        for stage in ("drop", "answer", "batch")
    )
    own = "epoch(ended_at) - epoch(started_at)"
    taken = f"CASE WHEN {answer} THEN {look_up} WHEN {batch} THEN {BATCH_WINDOW} ELSE {own} END"
    found: float | None = calls.row(
        f"""SELECT quantile_cont({taken}, 0.95) FROM calls
            WHERE status IS DISTINCT FROM 'failed' AND batch IS NOT TRUE AND ended_at IS NOT NULL AND NOT ({drop})"""  # noqa: S608
    )[0]
    return found


def _beats(one: Point, other: Point) -> bool:
    """Whether `one` is at least as good in everything and better in something; what is unknown is worst."""
    mine, theirs = _goods(one), _goods(other)
    return mine != theirs and all(mine[part] <= theirs[part] for part in range(len(mine)))


def _goods(point: Point) -> Sequence[float]:
    """Cost, latency and lost quality, all better when smaller."""
    return (
        float(point.cost_usd or 0),
        float("inf") if point.p95_seconds is None else point.p95_seconds,
        1.0 if point.quality is None else 1.0 - point.quality,
    )


# --- Then and now ----------------------------------------------------------------------------------------------------


def compare_periods(calls: Calls, asked: Periods) -> Changes:
    """Why the later period cost more or less than the earlier one."""
    before = Span(start=asked.before_from, end=asked.before_until)
    return changes(calls, before, Span(start=asked.after_from, end=asked.after_until))
