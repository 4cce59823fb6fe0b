"""Answer a call that repeats an earlier one, word for word, from a cache."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.llm.amounts import spell_dollars
from apps.optimization.calls import Calls
from apps.optimization.latency import latency
from apps.optimization.overview import known_cost, part_of, spend
from apps.optimization.repeats import (
    APART,
    COMPLETE,
    KIND,
    NOBODY,
    OWNER,
    PLAIN,
    SAME,
    exact_sum,
    forever,
    look_up_seconds,
    served_by,
    taken_for_granted,
)
from apps.optimization.results import Strategy, in_dollars, usd
from apps.optimization.simulators import DEFAULTS, Options, free_sql, priceless, strategy

SHOWN = 10
LIVES: tuple[float | None, ...] = (3600.0, 86400.0, None)  # seconds that answers are kept; None is for good
LATENCY = "A repeat answers after a look-up instead of the model's time, its first word too; other calls keep theirs."
# Only calls that somebody asked twice. Without a recorded end, the start stands for it.
_ASKED = """
    CREATE OR REPLACE TEMP TABLE asked AS
    SELECT "call", line, model, feature, prompt_hash, cost_pico, {same} AS same, {owner} AS owner,
           epoch(started_at) AS began, epoch(greatest(coalesce(ended_at, started_at), started_at)) AS ended,
           {complete} AS complete, temperature IS NULL AS unsaid, {kind} AS kind
    FROM calls WHERE billed AND prompt_hash IS NOT NULL AND started_at IS NOT NULL AND {free}
    QUALIFY count(*) OVER (PARTITION BY same) > 1
"""


def _wider(found: Strategy, options: Options) -> Options | None:
    """The choice that saves most; of several that do, the one that allows least."""
    unshared = False if options.answers_shared else options.answers_shared
    amounts = [
        (
            Decimal(each["saving_usd"]),
            replace(options, answers_shared=each["shared"] or unshared, answers_kept=each["kept_seconds"]),
        )
        for each in found.detail.get("choices", ())
        if each["saving_usd"] is not None and not (each["shared"] and options.answers_shared is False)
    ]
    most, wider = max(amounts, key=itemgetter(0), default=(Decimal(0), None))
    return wider if most > (found.saving_usd or 0) else None


@strategy(stage="answer", wider=_wider)
def exact_cache(calls: Calls, options: Options = DEFAULTS) -> Strategy:
    """The cost of every call that an exact cache would have answered, replayed in time order.

    Counted is what `options` allow: how long answers are kept, and whether users share them. What other choices would
    save is told beside it.
    """
    hashed, timed, owned = calls.row(
        f"""SELECT count(*) FILTER (prompt_hash IS NOT NULL), count(*) FILTER (started_at IS NOT NULL),
                   count(*) FILTER (({OWNER}) IS NOT NULL) FROM calls WHERE billed"""  # noqa: S608
    )
    if not hashed or not timed:
        missing = ([] if hashed else ["prompt"]) + ([] if timed else ["started_at"])
        return _strategy(
            options,
            saving_usd=None,
            missing=tuple(missing),
            why=f"The calls carry no {' and no '.join(missing)}, so repeats cannot be told from new questions.",
        )
    calls.connection.execute(
        _ASKED.format(same=SAME, owner=OWNER, complete=COMPLETE, kind=KIND, free=free_sql(options))
    )
    # One scope after the other, for each holds a row per repeated call.
    other = _choices(_Replay(calls, shared=not options.answers_shared))
    mine = _Replay(calls, shared=bool(options.answers_shared))
    choices = sorted([*other, *_choices(mine)], key=lambda each: bool(each["shared"]))
    if not owned and not options.answers_shared:
        return _strategy(
            options,
            saving_usd=None,
            missing=("user",),
            why="No call names its user, its session or its trace, so that whose answer a cache would give to whom is "
            "unknown. What users would save if they shared one is in `choices`.",
            detail={"repeats": None, "choices": choices},
        )
    return _result(calls, options, mine, mine.served(options.answers_kept), choices, owned)


class _Replay:
    """The calls of one scope in the order in which its caches meet them."""

    def __init__(self, calls: Calls, *, shared: bool) -> None:
        self.shared = shared
        whose, named = ("same", "true") if shared else ("hash(same, owner)", "owner IS NOT NULL")
        rows: dict[str, NDArray[Any]] = calls.connection.execute(
            f"""SELECT "call", {whose} AS same, began, ended, complete, kind, coalesce(cost_pico, -1) AS cost
                FROM asked WHERE {named} QUALIFY count(*) OVER (PARTITION BY {whose}) > 1
                ORDER BY same, began, "call" """  # noqa: S608
        ).fetchnumpy()
        self.rows = {name: np.asarray(values) for name, values in rows.items()}

    def served(self, kept: float | None) -> NDArray[np.bool_]:
        """Which calls find an answer that is at most `kept` seconds old."""
        ended = self.rows["ended"]
        found = served_by(
            self.rows["same"], self.rows["began"], ended, ended + forever(kept), self.rows["complete"].astype(bool)
        )
        answered: NDArray[np.bool_] = found != NOBODY
        return answered


def _choices(replay: _Replay) -> list[dict[str, Any]]:
    """What the scope would save, by how long answers are kept."""
    return [
        {"shared": replay.shared, "kept_seconds": kept} | _told(replay, replay.served(kept), PLAIN) for kept in LIVES
    ]


def _told(replay: _Replay, served: NDArray[np.bool_], kind: int) -> dict[str, Any]:
    """How many calls of a kind are served, and what they cost."""
    costs = replay.rows["cost"][served & (replay.rows["kind"] == kind)]
    priced = costs[costs >= 0]
    return {"repeats": len(costs), "saving_usd": usd(exact_sum(priced) if len(priced) or not len(costs) else None)}


def _result(
    calls: Calls,
    options: Options,
    replay: _Replay,
    served: NDArray[np.bool_],
    choices: list[dict[str, Any]],
    owned: int,
) -> Strategy:
    answered = served & (replay.rows["kind"] == PLAIN)
    calls.connection.execute(
        'CREATE OR REPLACE TEMP TABLE treatment_exact_cache AS SELECT unnest(?::BIGINT[]) AS "call"',
        [replay.rows["call"][answered].tolist()],
    )
    repeats, saving, unpriced, unsaid = calls.row(
        """SELECT count(*), sum(cost_pico), count(*) FILTER (cost_pico IS NULL), count(*) FILTER (unsaid)
           FROM asked JOIN treatment_exact_cache USING ("call")"""
    )
    covered = calls.row("SELECT count(*), sum(cost_pico) FROM calls WHERE billed AND prompt_hash IS NOT NULL")
    seconds, measured = look_up_seconds(calls)
    amount = in_dollars(known_cost(repeats, saving))
    remarks = (
        _counted(repeats, unsaid, options),
        priceless(unpriced, repeats, "repeats"),
        _dearer(amount, [each for each in choices if not (each["shared"] and options.answers_shared is False)]),
    )
    return _strategy(
        options,
        granted=taken_for_granted(calls, "treatment_exact_cache", "repeats"),
        saving_usd=amount,
        missing=("price",) if repeats and unpriced == repeats else (),
        why=" ".join(filter(None, remarks)),
        latency=latency(
            calls, changed='SELECT "call" FROM treatment_exact_cache', seconds=str(seconds), first=str(seconds)
        ),
        detail={
            "repeats": repeats,
            "repeats_unpriced": unpriced,
            "repeats_temperature_unknown": unsaid,
            "choices": choices,
            "apart": [
                {"because": because} | told
                for kind, because in APART.items()
                if (told := _told(replay, served, kind))["repeats"]
            ],
            "calls_with_owner": owned,
            "covered_share_of_spend": part_of(known_cost(*covered), spend(calls)),
            "look_up_seconds": seconds,
            "look_up_measured": measured,
            "top": _most_repeated(calls),
        },
    )


def _counted(repeats: int, unsaid: int, options: Options) -> str:
    """What is counted, and under which rule.

    >>> _counted(3, 3, DEFAULTS)
    '3 repeats of what the same user was answered, kept for an hour; 3 of them do not say their temperature.'
    >>> _counted(0, 0, DEFAULTS)
    'No repeat of what the same user was answered, kept for an hour.'
    """
    whose = "anybody" if options.answers_shared else "the same user"
    many = {0: "No repeat", 1: "1 repeat"}.get(repeats, f"{repeats:,} repeats")
    said = f"{many} of what {whose} was answered"
    warm = f"; {unsaid:,} of them do not say their temperature" if unsaid else ""
    return f"{said}, kept {life(options.answers_kept)}{warm}."


def _dearer(saving: Decimal | None, choices: Sequence[Mapping[str, Any]]) -> str | None:
    """What the best choice within each scope would save, where that is more than what is counted.

    >>> choice = {"shared": True, "kept_seconds": None, "repeats": 4, "saving_usd": "3.5"}
    >>> _dearer(Decimal(1), [choice])
    'Other rules would save more: $3.50 with answers given to everybody and kept for good.'
    >>> _dearer(Decimal("3.5"), [choice]), _dearer(None, [choice])
    (None, None)
    """
    if saving is None:
        return None
    said, most = [], saving
    for shared in (False, True):
        amounts = [
            (Decimal(each["saving_usd"]), each["kept_seconds"])
            for each in choices
            if each["shared"] is shared and each["saving_usd"] is not None
        ]
        best, kept = max(amounts, key=itemgetter(0), default=(most, None))
        if best > most:
            whom, most = "everybody" if shared else "the same user", best
            said.append(f"{spell_dollars(best)} with answers given to {whom} and kept {life(kept)}")
    return f"Other rules would save more: {', '.join(said)}." if said else None


def _most_repeated(calls: Calls) -> list[dict[str, Any]]:
    found = calls.rows(
        """SELECT model, feature, count(*), sum(cost_pico), min(line)
           FROM asked JOIN treatment_exact_cache USING ("call")
           GROUP BY prompt_hash, model, feature ORDER BY 4 DESC NULLS LAST, 3 DESC, 5 LIMIT ?""",
        [SHOWN],
    )
    return [
        {"model": model, "feature": feature, "repeats": count, "saving_usd": usd(cost), "line": line}
        for model, feature, count, cost, line in found
    ]


def life(seconds: float | None) -> str:
    """For how long an answer is kept, in words.

    >>> life(3600), life(5400), life(86400), life(None)
    ('for an hour', 'for 5,400 seconds', 'for a day', 'for good')
    """
    return {3600.0: "for an hour", 86400.0: "for a day", None: "for good"}.get(
        seconds, f"for {seconds or 0:,.0f} seconds"
    )


def _strategy(options: Options, *, granted: tuple[str, ...] = (), **more: Any) -> Strategy:
    shared = (
        "All users share the answers." if options.answers_shared else "Nobody gets an answer given to another user."
    )
    return Strategy(
        name="exact_cache",
        title="Answer exact repeats from a cache",
        evidence="E2",
        up_to=False,
        assumptions=(
            "A repeat has the same prompt, model and parameters as an earlier call whose complete answer was there.",
            f"An answer is kept {life(options.answers_kept)} and asked for again after that; hits do not renew it.",
            f"{shared} Without a user, a session or a trace is one.",
            "Calls above temperature 0 and calls with tools are told apart and not counted.",
            *granted,
        ),
        latency_effect=LATENCY,
        **more,
    )
