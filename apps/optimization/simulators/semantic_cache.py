"""Answer a call that asks nearly what an earlier one asked; only as far as the answers show that this is safe."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.optimization.calls import Calls
from apps.optimization.latency import latency
from apps.optimization.overview import known_cost, spend
from apps.optimization.repeats import (
    COMPLETE,
    KIND,
    OWNER,
    PLAIN,
    SETTING,
    exact_sum,
    forever,
    look_up_seconds,
    taken_for_granted,
)
from apps.optimization.results import Strategy, in_dollars, usd
from apps.optimization.similarity import Vectors, vectors
from apps.optimization.simulators import DEFAULTS, Options, free_sql, priceless, strategy, taught_before
from apps.optimization.simulators.exact_cache import life
from apps.optimization.statistics.proportion import CONFIDENCE, at_most

# Calls and characters that are looked at, the latest: how alike n texts are takes n * n / 2 products.
MOST_CALLS = 10_000
MOST_CHARACTERS = 5_000_000
LONGEST = 4_000  # characters of a prompt; nobody should guess what a longer one asks
THRESHOLDS = (0.98, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
SAME, ONLY_SAME = 3.0, 2.0  # how alike equal prompts are, and a threshold that nothing else reaches
BLOCK = 256
LATENCY = "A hit answers after a look-up instead of the model's time, its first word too; other calls keep theirs."
_ASKED = """
    CREATE OR REPLACE TEMP TABLE alike AS
    WITH open AS (
        SELECT "call", cost_pico, prompt_hash, answer_hash, started_at, prompt_characters, {complete} AS complete,
               epoch(started_at) AS began, epoch(greatest(coalesce(ended_at, started_at), started_at)) AS ended,
               hash({setting}{owner}) AS cache
        FROM calls WHERE billed AND prompt_hash IS NOT NULL AND started_at IS NOT NULL
          AND prompt_characters <= {longest} AND {kind} = {plain}
          AND {owned} AND {free}
        QUALIFY min(prompt_hash) OVER (PARTITION BY cache) < max(prompt_hash) OVER (PARTITION BY cache)
    )
    SELECT *, count(*) OVER () AS found FROM open
    WINDOW latest AS (ORDER BY started_at DESC, "call" DESC ROWS UNBOUNDED PRECEDING)
    QUALIFY row_number() OVER latest <= {most} AND sum(prompt_characters) OVER latest <= {characters}
"""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The calls that are looked at, cache by cache in the order of their starts; all arrays (calls,)."""

    call: NDArray[np.int64]
    cache: NDArray[np.int64]
    began: NDArray[np.float64]
    ended: NDArray[np.float64]
    complete: NDArray[np.bool_]
    question: NDArray[np.int64]  # the same number for the same prompt
    answer: NDArray[np.int64]  # the same number for the same answer; -1 where none is recorded
    cost: NDArray[np.int64]  # pico-dollars; -1 where unknown
    vectors: Vectors  # (questions, dimensions)
    made_from: str


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """Pairs of different questions, one of which was answered for the other, and whose answers are both known."""

    pairs: int
    differ: int

    @property
    def bound(self) -> float:
        """The share of them that differs at most, with CONFIDENCE."""
        return at_most(self.differ, self.pairs)


def _wider(found: Strategy, options: Options) -> Options | None:
    """A cache for good, and for everybody where that is not refused; not where the calls lack what that needs too."""
    free = replace(options, answers_shared=options.answers_shared is not False, answers_kept=None)
    return None if free == options or set(found.missing) - {"user"} else free


@strategy(stage="answer", wider=_wider)
def semantic_cache(calls: Calls, options: Options = DEFAULTS) -> Strategy:
    """What near repeats cost, at the threshold that half of the calls prefers and the other half proves to be safe.

    Exact repeats are left to the exact cache. Counted is the half of the calls that the threshold was not chosen on.
    """
    if spend(calls) is None:
        return _strategy(options, saving_usd=None, missing=("price",), why="No call has a known price.")
    asked, facts = _asked(calls, options)
    if asked is None:
        return _strategy(options, **facts)
    partners = _replay(asked, forever(options.answers_kept))
    taught = asked.began[asked.began < taught_before(options)]
    middle = float(np.median(taught)) if len(taught) else float(asked.began.min())
    first = asked.began < middle
    curve = [_point(asked, partners, place, first) for place in range(len(THRESHOLDS))]
    detail = facts | {
        "made_from": asked.made_from,
        "allowed": options.false_hits,
        "counted_since": datetime.fromtimestamp(middle, tz=UTC).isoformat(),
        "curve": [told for told, _ in curve],
    }
    if not (asked.answer >= 0).any():
        return _strategy(
            options,
            saving_usd=None,
            missing=("answer",),
            why="No answer is recorded, so nobody knows which near repeats may get the answer of another question.",
            detail=detail,
        )
    safe = [place for place, (_, judged) in enumerate(curve) if judged.bound <= options.false_hits]
    chosen = max(safe, key=lambda place: exact_sum(_costs(asked, _near(asked, partners, place) & first)), default=None)
    if chosen is None:
        return _unsafe(calls, options, detail, min((judged for _, judged in curve), key=lambda each: each.bound))
    near = _near(asked, partners, chosen) & ~first
    judged = _judged(asked, partners[chosen], near, but=_near(asked, partners, chosen) & first)
    detail |= {
        "threshold": THRESHOLDS[chosen],
        "pairs": judged.pairs,
        "different": judged.differ,
        "bound": judged.bound,
    }
    if judged.bound > options.false_hits:
        return _unsafe(calls, options, detail, judged)
    return _result(calls, options, asked, near, detail)


def _asked(calls: Calls, options: Options) -> tuple[_Asked | None, dict[str, Any]]:
    """The calls to look at, and what was left out; or None, and why."""
    hashed, timed, owned, long = calls.row(
        f"""SELECT count(*) FILTER (prompt_hash IS NOT NULL), count(*) FILTER (started_at IS NOT NULL),
                   count(*) FILTER (({OWNER}) IS NOT NULL), count(*) FILTER (prompt_characters > {LONGEST})
            FROM calls WHERE billed"""  # noqa: S608
    )
    told = (("prompt", hashed), ("started_at", timed), ("user", owned or options.answers_shared))
    missing = tuple(name for name, said in told if not said)
    if missing:
        return None, {
            "saving_usd": None,
            "missing": missing,
            "why": f"The calls carry no {' and no '.join(missing)}, so what could answer one of them is unknown.",
        }
    calls.connection.execute(
        _ASKED.format(
            complete=COMPLETE,
            setting=SETTING,
            kind=KIND,
            plain=PLAIN,
            owner="" if options.answers_shared else f", {OWNER}",
            owned="true" if options.answers_shared else f"({OWNER}) IS NOT NULL",
            free=free_sql(options),
            longest=LONGEST,
            most=MOST_CALLS,
            characters=MOST_CHARACTERS,
        )
    )
    rows: dict[str, NDArray[Any]] = calls.connection.execute(
        """SELECT "call", cache, began, ended, complete, coalesce(cost_pico, -1) AS cost,
                  dense_rank() OVER (ORDER BY prompt_hash) - 1 AS question,
                  CASE WHEN answer_hash IS NULL THEN -1 ELSE dense_rank() OVER (ORDER BY answer_hash) END AS answer
           FROM alike ORDER BY cache, began, "call" """
    ).fetchnumpy()
    if not len(rows["call"]):
        return None, {
            "saving_usd": in_dollars(0),
            "why": "No two different questions were asked where one could answer.",
        }
    # Only their stretch of time is read, for its texts are most of a file.
    texts = calls.rows(
        """SELECT any_value(c.prompt) FROM calls c JOIN alike a USING ("call")
           WHERE c.started_at >= (SELECT min(started_at) FROM alike) GROUP BY a.prompt_hash ORDER BY a.prompt_hash"""
    )
    if any(text is None for (text,) in texts):
        return None, {
            "saving_usd": None,
            "missing": ("prompt",),
            "why": "Of the prompts only fingerprints were kept, which show what is the same and not what is alike.",
        }
    found = calls.row("SELECT coalesce(max(found), 0), min(started_at) FROM alike")
    made, made_from = vectors([text for (text,) in texts])
    asked = _Asked(
        call=np.asarray(rows["call"], np.int64),
        cache=np.unique(rows["cache"], return_inverse=True)[1].astype(np.int64),
        began=np.asarray(rows["began"], np.float64),
        ended=np.asarray(rows["ended"], np.float64),
        complete=np.asarray(rows["complete"], bool),
        question=np.asarray(rows["question"], np.int64),
        answer=np.asarray(rows["answer"], np.int64),
        cost=np.asarray(rows["cost"], np.int64),
        vectors=made,
        made_from=made_from,
    )
    return asked, {
        "calls": len(asked.call),
        "calls_left_out": found[0] - len(asked.call),
        "calls_too_long": long,
        "since": found[1] and found[1].isoformat(),
    }


def _replay(asked: _Asked, kept: float) -> NDArray[np.int64]:
    """(thresholds + 1, calls): for each call the place of the one whose answer it gets, -1 where it has to ask.

    The last row is of a cache of equal prompts only. A cache holds the complete answers of the calls that had to ask,
    from their end until they are `kept` seconds old, and gives the one whose question is most alike.
    """
    levels = np.array([*THRESHOLDS, ONLY_SAME])
    partners = np.full((len(levels), len(asked.call)), -1, np.int64)
    starts = np.flatnonzero(np.diff(asked.cache, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(asked.call)], strict=True):
        partners[:, start:stop] = _one_cache(asked, slice(int(start), int(stop)), kept, levels)
    return partners


def _one_cache(asked: _Asked, calls: slice, kept: float, levels: NDArray[np.float64]) -> NDArray[np.int64]:
    question, made = asked.question[calls], asked.vectors[asked.question[calls]]
    began, ended, complete = asked.began[calls], asked.ended[calls], asked.complete[calls]
    held = np.zeros((len(levels), len(question)), bool)
    partners = np.full((len(levels), len(question)), -1, np.int64)
    for call in range(len(question)):
        if call % BLOCK == 0:
            products = made[call : call + BLOCK] @ made[: call + BLOCK].T
        live = held[:, :call] & (ended[:call] < began[call]) & (began[call] <= ended[:call] + kept)
        if live.any():
            like = np.where(question[:call] == question[call], SAME, products[call % BLOCK, :call])
            best = np.where(live, like, -1.0)
            nearest = best.argmax(axis=1)
            hit = best[np.arange(len(levels)), nearest] >= levels
            partners[hit, call] = nearest[hit] + calls.start
            held[:, call] = ~hit & complete[call]
        else:
            held[:, call] = complete[call]
    return partners


def _near(asked: _Asked, partners: NDArray[np.int64], place: int) -> NDArray[np.bool_]:
    """The calls that get the answer of another question, and no answer from a cache of equal prompts."""
    partner = partners[place]
    near: NDArray[np.bool_] = (partner >= 0) & (asked.question[partner] != asked.question) & (partners[-1] < 0)
    return near


def _costs(asked: _Asked, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    costs: NDArray[np.int64] = asked.cost[chosen & (asked.cost >= 0)]
    return costs


def _judged(
    asked: _Asked, partner: NDArray[np.int64], near: NDArray[np.bool_], but: NDArray[np.bool_] | None = None
) -> _Judged:
    """The pairs of questions among the calls `near`, each once however often it came; a pair differs if its answers did
    even once. Pairs that are also among the calls `but` are left out."""
    seen = _pairs(asked, partner, but) if but is not None else {}
    found = {pair: differ for pair, differ in _pairs(asked, partner, near).items() if pair not in seen}
    return _Judged(pairs=len(found), differ=sum(found.values()))


def _pairs(asked: _Asked, partner: NDArray[np.int64], near: NDArray[np.bool_]) -> dict[tuple[int, int], bool]:
    own = np.flatnonzero(near & (asked.answer >= 0))
    own = own[asked.answer[partner[own]] >= 0]
    differ = asked.answer[own] != asked.answer[partner[own]]
    found: dict[tuple[int, int], bool] = {}
    for one, other, different in zip(
        asked.question[own].tolist(), asked.question[partner[own]].tolist(), differ.tolist(), strict=True
    ):
        found[one, other] = found.get((one, other), False) or different
    return found


def _point(
    asked: _Asked, partners: NDArray[np.int64], place: int, first: NDArray[np.bool_]
) -> tuple[dict[str, Any], _Judged]:
    """What a threshold would do on all calls, and how it was judged on the first half."""
    near = _near(asked, partners, place)
    judged, costs = _judged(asked, partners[place], near & first), _costs(asked, near)
    told = {
        "threshold": THRESHOLDS[place],
        "hits": int(near.sum()),
        "cost_usd": usd(exact_sum(costs) if len(costs) or not near.any() else None),
        "pairs": judged.pairs,
        "different": judged.differ,
        "bound": round(judged.bound, 4),
    }
    return told, judged


def _unsafe(calls: Calls, options: Options, detail: dict[str, Any], judged: _Judged) -> Strategy:
    calls.connection.execute('CREATE OR REPLACE TEMP TABLE treatment_semantic_cache ("call" BIGINT)')
    if judged.pairs:
        seen = f"{judged.differ:,} of {judged.pairs:,} pairs of near questions were answered differently"
    else:
        seen = "no two near questions were both answered"
    return _strategy(
        options,
        saving_usd=in_dollars(0),
        why=f"No threshold is safe: {seen}, so {judged.bound:.0%} of the hits may be wrong, where "
        f"{options.false_hits:.0%} are allowed.",
        latency=latency(calls),
        detail={"threshold": None} | detail | {"safe": False},
    )


def _result(calls: Calls, options: Options, asked: _Asked, near: NDArray[np.bool_], detail: dict[str, Any]) -> Strategy:
    calls.connection.execute(
        'CREATE OR REPLACE TEMP TABLE treatment_semantic_cache AS SELECT unnest(?::BIGINT[]) AS "call"',
        [asked.call[near].tolist()],
    )
    hits, saving, unpriced = calls.row(
        """SELECT count(*), sum(cost_pico), count(*) FILTER (cost_pico IS NULL)
           FROM calls JOIN treatment_semantic_cache USING ("call")"""
    )
    seconds, measured = look_up_seconds(calls)
    return _strategy(
        options,
        granted=taken_for_granted(calls, "treatment_semantic_cache", "near repeats"),
        saving_usd=in_dollars(known_cost(hits, saving)),
        missing=("price",) if hits and unpriced == hits else (),
        why=priceless(unpriced, hits, "near repeats"),
        latency=latency(
            calls, changed='SELECT "call" FROM treatment_semantic_cache', seconds=str(seconds), first=str(seconds)
        ),
        detail=detail | {"safe": True, "hits": hits, "look_up_seconds": seconds, "look_up_measured": measured},
    )


def _strategy(options: Options, *, granted: tuple[str, ...] = (), **more: Any) -> Strategy:
    shared = "all users share the answers" if options.answers_shared else "nobody gets an answer given to another user"
    return Strategy(
        name="semantic_cache",
        title="Answer near repeats from a cache",
        evidence="E2",
        up_to=False,
        assumptions=(
            "Exact repeats are left to the exact cache; calls above temperature 0 and with tools always ask.",
            f"An answer is kept {life(options.answers_kept)}, and {shared}.",
            f"At most {options.false_hits:.0%} of the pairs of questions differ in their answers, with "
            f"{CONFIDENCE:.0%} confidence; the same answer is the same words, whatever their case and spacing.",
            "The threshold was chosen on the earlier half of the calls; proven and counted is the later half.",
            f"Prompts beyond {LONGEST:,} characters always ask; looked at are the latest {MOST_CALLS:,} calls, or "
            f"fewer with {MOST_CHARACTERS:,} characters.",
            *granted,
        ),
        latency_effect=LATENCY,
        **more,
    )
