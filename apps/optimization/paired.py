"""The same question answered by several models, and judged: the pairs that a change of model can be decided on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from apps.llm.pricing import PICO
from apps.optimization.calls import Calls
from apps.optimization.latency import latency
from apps.optimization.options import Options, free_sql
from apps.optimization.quality.bounds import Ints
from apps.optimization.quality.policies import Pairs
from apps.optimization.results import Latency

MAX_PAIRS = 50_000  # of one task and candidate; more are sampled
_LENGTHS = 4  # segments of a task, by the length of the input


@dataclass(frozen=True, kw_only=True)
class Model:
    name: str
    provider: str | None  # as the calls say


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One feature's model in use beside one that answered the same questions for less."""

    feature: str | None
    used: Model
    candidate: Model
    pairs: Pairs
    segments: Ints  # by the length of the input
    texts: list[str]  # the prompts where they are kept, else what is known of the calls
    prompts: list[Any]  # the hash of each pair's question
    spend_pico: int  # of the model in use in this feature, paired or not


def comparisons(calls: Calls, options: Options) -> list[Comparison]:
    """Every feature's comparisons, the cheapest candidate first."""
    _judge(calls, options)
    found = [c for row in _candidates(calls, options) if (c := _comparison(calls, options, row)) is not None]
    return sorted(found, key=lambda c: (c.feature or "", float(c.pairs.new_cost.sum() / c.pairs.old_cost.sum())))


def _judge(calls: Calls, options: Options) -> None:
    """One row per question and model. An answer that failed visibly needs no judge."""
    calls.connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE judged AS
            SELECT feature, prompt_hash, model, provider, avg(quality) AS quality, avg(cost_pico) / {PICO} AS cost,
                   min(coalesce("session", trace_id, prompt_hash::VARCHAR)) AS cluster, min(prompt) AS prompt,
                   avg(input_tokens) AS input, bool_or(coalesce(tools, false)) AS tools
            FROM calls WHERE prompt_hash IS NOT NULL AND model IS NOT NULL AND cost_pico IS NOT NULL
              AND cached_answer IS NOT TRUE AND (quality IS NOT NULL OR status = 'failed') AND {free_sql(options)}
            GROUP BY ALL"""  # noqa: S608
    )


def _candidates(calls: Calls, options: Options) -> Iterator[tuple[Any, ...]]:
    """(feature, model in use, its provider, its spend, candidate, its provider); in use is what most is spent on."""
    found = calls.rows(
        """WITH used AS (SELECT feature, model, provider, sum(cost_pico) AS spend FROM calls
                         WHERE billed AND model IS NOT NULL AND cost_pico > 0 GROUP BY feature, model, provider
                         QUALIFY row_number() OVER (PARTITION BY feature ORDER BY spend DESC, model, provider) = 1)
           SELECT DISTINCT used.feature, used.model, used.provider, used.spend, j.model, j.provider
           FROM used JOIN judged j ON j.feature IS NOT DISTINCT FROM used.feature
            AND (j.model <> used.model OR j.provider IS DISTINCT FROM used.provider)
           ORDER BY ALL"""
    )
    for row in found:
        if options.candidates is None or {row[4], f"{row[5]}/{row[4]}"} & set(options.candidates):
            yield row


def _comparison(calls: Calls, options: Options, row: tuple[Any, ...]) -> Comparison | None:
    feature, model, provider, spend, other, its_provider = row
    rows = calls.rows(
        """SELECT o.quality, n.quality, o.cost, n.cost, o.cluster, coalesce(o.prompt, ''), o.input, o.tools,
                  o.prompt_hash
           FROM judged o JOIN judged n USING (prompt_hash)
           WHERE o.feature IS NOT DISTINCT FROM ? AND o.model = ? AND o.provider IS NOT DISTINCT FROM ?
             AND n.feature IS NOT DISTINCT FROM ? AND n.model = ? AND n.provider IS NOT DISTINCT FROM ?
             AND o.quality IS NOT NULL AND o.cost > 0
           ORDER BY hash(prompt_hash), prompt_hash LIMIT ?""",
        [feature, model, provider, feature, other, its_provider, MAX_PAIRS],
    )
    if not rows:
        return None
    old, new, old_cost, new_cost, clusters, prompts, inputs, tools, hashes = zip(*rows, strict=True)
    pairs = _pairs(options, old, new, old_cost, new_cost, clusters)
    if pairs.new_cost.sum() >= pairs.old_cost.sum():
        return None
    lengths = np.asarray(inputs, dtype=np.float64)
    segments = np.searchsorted(np.quantile(lengths, np.linspace(0, 1, _LENGTHS + 1)[1:-1]), lengths)
    return Comparison(
        feature=feature,
        used=Model(name=model, provider=provider),
        candidate=Model(name=other, provider=its_provider),
        pairs=pairs,
        segments=segments.astype(np.int64),
        texts=[_text(*known) for known in zip(prompts, inputs, tools, strict=True)],
        prompts=list(hashes),
        spend_pico=int(spend),
    )


def _pairs(options: Options, old: Any, new: Any, old_cost: Any, new_cost: Any, clusters: Any) -> Pairs:
    """A candidate's visible failure is answered by the model in use: its quality, and both costs."""
    quality, judged = np.array(old, dtype=np.float64), np.array(new, dtype=np.float64)  # None becomes not a number
    failed = np.isnan(judged)
    dear, cheap = np.array(old_cost, dtype=np.float64), np.array(new_cost, dtype=np.float64)
    return Pairs(
        old=quality,
        new=np.where(failed, quality, judged),
        old_cost=dear,
        new_cost=cheap + np.where(failed, dear, 0.0) + float(options.router_usd),
        clusters=np.unique(np.array(clusters), return_inverse=True)[1].astype(np.int64),
    )


def _text(prompt: str, tokens: float, tools: bool) -> str:
    """The words of a call, and its size and tools as words more."""
    return f"{prompt} size_{int(tokens).bit_length()} tools_{tools}"


def swapped_latency(calls: Calls, treatment: str) -> Latency:
    """Seconds now, and with the calls of `treatment` at the time in which their candidate answered the same question.

    A candidate's failure is followed by the model in use, one after the other. A call that no candidate answered makes
    the times after the swap unknown.
    """
    return latency(
        calls,
        changed=f"""
            SELECT t."call", avg(epoch(n.ended_at) - epoch(n.started_at)
                       + CASE WHEN n.status = 'failed' THEN epoch(o.ended_at) - epoch(o.started_at) ELSE 0 END) AS took,
                   avg(epoch(n.first_token_at) - epoch(n.started_at)) AS started
            FROM {treatment} t JOIN calls o USING ("call")
            LEFT JOIN calls n ON n.prompt_hash = o.prompt_hash AND n.model = t.model
              AND n.provider IS NOT DISTINCT FROM t.provider AND n.feature IS NOT DISTINCT FROM o.feature
            GROUP BY 1""",  # noqa: S608
        seconds="x.took",
        first="x.started",
    )
