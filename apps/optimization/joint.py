"""What several ways to save would have saved together: no dollar is counted twice.

Joint saving = what was paid - what would have been paid with all of them. It is shared out by Shapley values over the
six causal stages (Shapley 1953: a stage's mean marginal saving over all orders in which stages can be added), which add
up to it exactly. Intervals come from resampling whole clusters of calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from itertools import combinations
from math import factorial

import numpy as np

from apps.llm.pricing import PICO, STAGES, Stage
from apps.optimization.calls import Calls
from apps.optimization.coalitions import ROUTED, Coalition, Saved, saved, saved_behind
from apps.optimization.results import Drift, Interaction, Joint, LeftOut, Strategy, in_dollars
from apps.optimization.simulators import learnt_until, replay_of, stage_of
from apps.optimization.statistics.backtest import backtest
from apps.optimization.statistics.bootstrap import Interval, Ratio, cluster_interval, of_enough, widened
from apps.optimization.statistics.dependence import resembling
from apps.optimization.statistics.stationarity import stationarity


def joint(
    calls: Calls, strategies: Sequence[Strategy], *, ceilings: bool = False, moves: str | None = None
) -> Joint | None:
    """The joint saving of the strategies that prove something, after their simulators ran on `calls`.

    With `ceilings`, those that only bound a saving from above take part as well, and so the result is a ceiling too.
    With `moves`, a relation as one of a route is, the calls in it ask another model whatever else is done: `spent_usd`
    is what all calls cost then, and the rest is about that. None if no strategy takes part.
    """
    taking, left_out = chosen(strategies, ceilings)
    if moves:
        taking = [_behind(calls, each, moves) for each in taking]
        left_out += tuple(LeftOut(name=each.name, why=_MOVED) for each in taking if not _saves(each))
        taking = list(filter(_saves, taking))
    if not taking:
        return None
    by_stage = staged(taking)
    return _told(saved_by(calls, by_stage, moves), by_stage, taking, left_out)


_MOVED = "Once the calls are moved, it saves nothing."


def _saves(strategy: Strategy) -> bool:
    return (strategy.saving_usd or 0) > 0


def _behind(calls: Calls, strategy: Strategy, moves: str) -> Strategy:
    """The strategy with what it saves alone of what the calls cost once they are moved. One that routes changes only
    the calls that do not move: its table loses the others, and it keeps its share of what is left at list prices."""
    stage, table = stage_of(strategy.name), _table(strategy)
    if stage != "route":
        found = saved_behind(calls, moves, {stage: table}, replay_of(strategy.name))
        return strategy.model_copy(update={"saving_usd": in_dollars(found.total(frozenset({stage})))})
    whole = _alone(calls, strategy).total(ROUTED)
    calls.connection.execute(f"DELETE FROM {table} WHERE call IN (SELECT call FROM {moves})")  # noqa: S608
    left = _alone(calls, strategy).total(ROUTED)
    pico = Fraction(strategy.saving_usd or 0) * PICO * (Fraction(left, whole) if whole else 0)
    return strategy.model_copy(update={"saving_usd": in_dollars(round(pico))})


def chosen(strategies: Sequence[Strategy], ceilings: bool) -> tuple[list[Strategy], tuple[LeftOut, ...]]:
    """Those that take part, and why the others do not."""
    taking, left_out = [], []
    for each in strategies:
        if each.saving_usd is None:
            left_out.append(LeftOut(name=each.name, why=each.why or "It cannot be computed on these calls."))
        elif each.up_to and not ceilings:
            left_out.append(LeftOut(name=each.name, why="It is a ceiling; whether it can be reached was not measured."))
        elif each.saving_usd > 0:
            taking.append(each)
    return taking, tuple(left_out)


def _table(strategy: Strategy) -> str:
    return f"treatment_{strategy.name}"


def staged(strategies: Sequence[Strategy]) -> dict[Stage, list[Strategy]]:
    """The strategies by the stage at which they act; empty where none does."""
    return {stage: [each for each in strategies if stage_of(each.name) == stage] for stage in STAGES}


def saved_by(calls: Calls, by_stage: Mapping[Stage, Sequence[Strategy]], moves: str | None = None) -> Saved:
    """What the strategies save under every coalition of their stages; with `moves`, see `saved_behind`.

    A routed call is priced at its own tokens here. What the candidate's answers really cost (longer ones, failures,
    the router) only their strategies know, so of what routing adds that part counts which they found.
    """
    treatments = {stage: merged(calls, stage, several) for stage, several in by_stage.items() if several}
    weight = _found_share(calls, by_stage["route"]) if by_stage["route"] else Fraction(1)
    replays = [replay_of(each.name) for each in by_stage["prefix"]]
    replay = replays[0] if replays else None
    found = saved_behind(calls, moves, treatments, replay) if moves else saved(calls, treatments, replay)
    found = found if weight == 1 else found.weighed("route", weight)
    # Behind a route, the provider's cache may cost more than it saves; nobody would use it there.
    return found.at_will("prefix")


def _found_share(calls: Calls, strategies: Sequence[Strategy]) -> Fraction:
    """What strategies found that they save, as a share of what their calls save at list prices; at most 1. A call
    counts by the share of the strategy that changes it, see `merged`. A ceiling is one of list prices."""
    if any(each.up_to for each in strategies):
        return Fraction(1)
    listed, found = 0, Fraction(0)
    taken: list[str] = []
    for each in _larger_first(strategies):
        whole = _alone(calls, each).total(frozenset({"route"}))
        left = _alone(calls, each, but=taken).total(frozenset({"route"})) if taken else whole
        if whole > 0:
            listed += left
            found += left * min(Fraction(each.saving_usd or 0) * PICO / whole, Fraction(1))
        taken.append(_table(each))
    return found / listed if listed > 0 else Fraction(1)


def _alone(calls: Calls, strategy: Strategy, but: Sequence[str] = ()) -> Saved:
    """What a strategy saves by itself, on the calls that the relations of `but` do not change."""
    others = " ".join(f"ANTI JOIN {relation} USING (call)" for relation in but)
    return saved(calls, {stage_of(strategy.name): f"(FROM {_table(strategy)} {others})" if but else _table(strategy)})


def _larger_first(strategies: Sequence[Strategy]) -> list[Strategy]:
    return sorted(strategies, key=lambda each: -(each.saving_usd or 0))


def merged(calls: Calls, stage: Stage, strategies: Sequence[Strategy]) -> str:
    """One relation of what the strategies of a stage change. Where two change the same call, the larger saving wins,
    except that tokens which two of them trim away are trimmed by both."""
    ordered = _larger_first(strategies)
    if len(ordered) == 1:
        return _table(ordered[0])
    columns = {"route": ", model, provider", "trim": ", less_input, less_output"}.get(stage, "")
    rows = " UNION ALL ".join(
        f"SELECT {place} AS place, call{columns} FROM {_table(each)}"  # noqa: S608
        for place, each in enumerate(ordered)
    )
    if stage == "trim":
        query = f"""SELECT call, sum(less_input)::BIGINT AS less_input, sum(less_output)::BIGINT AS less_output
                    FROM ({rows}) GROUP BY call"""  # noqa: S608
    else:
        query = f"""SELECT * EXCLUDE (place) FROM ({rows})
                    QUALIFY row_number() OVER (PARTITION BY call ORDER BY place) = 1"""  # noqa: S608
    calls.connection.execute(f"CREATE OR REPLACE TEMP TABLE merged_{stage} AS {query}")
    return f"merged_{stage}"


def _told(
    found: Saved,
    by_stage: Mapping[Stage, Sequence[Strategy]],
    taking: Sequence[Strategy],
    left_out: tuple[LeftOut, ...],
) -> Joint:
    everything = frozenset(stage for stage, several in by_stage.items() if several)
    whole = found.total(everything)
    values = shapley({each: found.total(each) for each in found.coalitions}, sorted(everything, key=STAGES.index))
    singles = sum(found.total(frozenset({stage})) for stage in everything)
    interval, drift = _interval(found, everything, max(filter(None, map(learnt_until, taking)), default=None))
    return Joint(
        saving_usd=in_dollars(whole),
        low=_scaled(interval.low, found.spent),
        high=_scaled(interval.high, found.spent),
        interval_note=interval.why,
        drift=drift,
        spent_usd=in_dollars(found.spent),
        would_cost_usd=in_dollars(found.spent - whole),
        strategies=tuple(each.name for each in taking),
        left_out=left_out,
        stages={stage: in_dollars(value) for stage, value in values.items()},
        shares=_by_strategy(values, by_stage),
        sum_of_parts_usd=in_dollars(singles),
        overlap_usd=in_dollars(singles - whole),
        interactions=tuple(_interactions(found, sorted(everything, key=STAGES.index))),
        up_to=any(each.up_to for each in taking),
    )


LIST_PRICES = "model_swap_ceiling"  # what is unknown of it is no matter of samples; it has a range of tokens instead


def with_interval(calls: Calls, strategy: Strategy) -> Strategy:
    """A strategy that changes calls, with the interval of what it saves alone; any other as it is.

    So is a ceiling that lacks data: what nobody says leaves more open than a sample does.
    """
    if not strategy.saving_usd or strategy.name == LIST_PRICES or (strategy.up_to and strategy.missing):
        return strategy
    stage = stage_of(strategy.name)
    found, coalition = _alone(calls, strategy), frozenset({stage})
    if not found.total(coalition):
        return strategy  # a ceiling on calls of which nobody says that they may change
    if stage == "route":
        found = found.weighed(stage, Fraction(strategy.saving_usd) * PICO / found.total(coalition))
    interval, _ = _interval(found, coalition, learnt_until(strategy))
    return strategy.model_copy(
        update={"low": _scaled(interval.low, found.spent), "high": _scaled(interval.high, found.spent)}
    )


_NO_DAYS = "No call has a time."
WEEK = 7  # days of one origin of the backtest


def _interval(found: Saved, coalition: Coalition, learnt: date | None) -> tuple[Interval, Drift]:
    """The interval of the share of spend that is saved: as wide as days resemble each other, and never narrower than
    weeks missed by that were not seen. Days until `learnt` tell neither: what learned from them saved nothing there."""
    both = np.column_stack([found.of_clusters(coalition), found.paid])
    days = found.of_days(coalition, after=learnt)
    tested = backtest(days, first=WEEK, horizon=WEEK)
    moving = stationarity(days) if len(days) else None
    drift = Drift(
        verdict=moving.verdict if moving else "unknown",
        p=moving.p if moving else None,
        why=moving.why if moving else _NO_DAYS if learnt is None else "Every day taught what is counted.",
        weeks=len(tested.windows),
        bias=tested.bias,
        mape=tested.mape,
    )
    clusters, share = both[found.paid > 0], Ratio(0, 1)
    part = float(days[:, -1].sum() / clusters[:, -1].sum())
    sampled = resembling(cluster_interval(clusters, share), days, clusters, share, part=part)
    interval = of_enough(widened(sampled, tested.residuals), int(np.count_nonzero(clusters[:, 0])))
    return _possible(interval, always_saves=bool((both[:, 0] >= 0).all())), drift


def _possible(interval: Interval, *, always_saves: bool) -> Interval:
    """The interval without shares that cannot be: nobody saves more than was paid, and where no call becomes dearer,
    nobody loses. A few calls that cost as much as all others would else give an interval far beyond the spend."""
    if interval.low is None or interval.high is None:
        return interval
    return replace(
        interval,
        low=min(max(interval.low, 0.0), interval.value) if always_saves else interval.low,
        high=min(interval.high, 1.0),
    )


def _scaled(share: float | None, spent: int) -> Decimal | None:
    return None if share is None else in_dollars(int(share * spent))


def shapley(saved_by: Mapping[Coalition, int], players: Sequence[Stage]) -> dict[Stage, int]:
    """Each player's mean marginal saving over all orders, in whole pico-dollars that add up exactly to the whole.

    What rounding leaves goes to the last player; it is less than one pico-dollar for each of them.
    """
    exact: dict[Stage, Fraction] = {}
    for player in players:
        others = [other for other in players if other != player]
        exact[player] = sum(
            (
                Fraction(factorial(size) * factorial(len(others) - size), factorial(len(players)))
                * (saved_by[frozenset(group) | {player}] - saved_by[frozenset(group)])
                for size in range(len(others) + 1)
                for group in combinations(others, size)
            ),
            Fraction(0),
        )
    values = {player: round(value) for player, value in exact.items()}
    if players:
        values[players[-1]] += saved_by[frozenset(players)] - sum(values.values())
    return values


def _by_strategy(values: Mapping[Stage, int], by_stage: Mapping[Stage, Sequence[Strategy]]) -> dict[str, object]:
    """A stage's share among its strategies, by what each would have saved alone."""
    shares: dict[str, object] = {}
    for stage, value in values.items():
        alone = {each.name: each.saving_usd or 0 for each in by_stage[stage]}
        left = value
        for place, (name, saving) in enumerate(alone.items(), start=1):
            part = left if place == len(alone) else round(Fraction(saving) / Fraction(sum(alone.values())) * value)
            left -= part
            shares[name] = in_dollars(part)
    return shares


def _interactions(found: Saved, stages: Sequence[Stage]) -> list[Interaction]:
    """Of each pair of stages: what they save together minus what they save one by one; mostly negative, an overlap."""
    return [
        Interaction(stages=(one, other), usd=in_dollars(together))
        for one, other in combinations(stages, 2)
        if (
            together := found.total(frozenset({one, other}))
            - found.total(frozenset({one}))
            - found.total(frozenset({other}))
        )
    ]
