"""The bill as a whole: what there is, what it cost, and how much of that is known."""

from typing import Any

from apps.optimization.calls import Calls
from apps.optimization.conversion import BLOCK
from apps.optimization.prices import assumed_share
from apps.optimization.results import Overview, Tokens, in_dollars, usd
from apps.optimization.results import part_of as part_of
from apps.optimization.results import share as share

SHOWN_UNPRICED = 20  # models
SHOWN_MODELS = 50
SHOWN_FEATURES = 20

_OWNER = '"user" IS NOT NULL OR session IS NOT NULL OR trace_id IS NOT NULL'
# Field -> the condition under which a call carries it, in a form that the analyses can use.
FIELDS = {
    "started_at": "started_at IS NOT NULL",
    "model": "model IS NOT NULL",
    "tokens": "input_tokens + output_tokens > 0",
    "cost": "cost_pico IS NOT NULL",
    "recorded_cost": "recorded_cost IS NOT NULL",
    "provider": "provider IS NOT NULL",
    "ended_at": "ended_at IS NOT NULL",
    "first_token_at": "first_token_at IS NOT NULL",
    # Sources leave out a zero; one that names the field for any call of a model is taken to do so for all of them.
    "cached_tokens": "model IN (SELECT model FROM calls WHERE cache_told)",
    "status": "status IS NOT NULL",
    "user": '"user" IS NOT NULL',
    "owner": _OWNER,
    "feature": "feature IS NOT NULL",
    "session": "session IS NOT NULL",
    "delay": "interactive IS NOT NULL OR deadline_seconds IS NOT NULL OR batch",
    "temperature": "temperature IS NOT NULL",
    "prompt_hash": "prompt_hash IS NOT NULL",
    "answer": "answer_hash IS NOT NULL",
    # What a provider's cache could read is known: blocks, or that the prompt is too short to have one.
    "blocks": f"len(blocks) > 0 OR prompt_characters < {BLOCK}",
    "quality": "quality IS NOT NULL",
    "trace_id": "trace_id IS NOT NULL",
    # What came of a call, or whether it asks the same again: either shows what was paid in vain.
    "attempts": f"status IS NOT NULL OR (prompt_hash IS NOT NULL AND ({_OWNER}))",
    "history": "history_tokens IS NOT NULL OR session IS NOT NULL",
}
TOKEN_COLUMNS = ("input_tokens", "output_tokens", "cached_read_tokens", "cached_write_tokens")
TOKENS = ", ".join(f"sum({column})" for column in TOKEN_COLUMNS)


def overview(calls: Calls) -> Overview:
    """Counts, tokens and dollars over all calls; a few passes."""
    counts = calls.row(
        """SELECT count(*), count(*) FILTER (billed), count(*) FILTER (status = 'failed'),
                  count(*) FILTER (cached_answer), count(*) FILTER (billed AND cost_pico IS NULL),
                  min(started_at), max(started_at) FROM calls"""
    )
    recorded = calls.row(
        """SELECT count(*), sum(recorded_cost), sum(cost_pico) FROM calls
           WHERE billed AND recorded_cost IS NOT NULL AND cost_pico IS NOT NULL"""
    )
    assumed = assumed_share(calls)
    return Overview(
        calls=counts[0],
        billed_calls=counts[1],
        failed_calls=counts[2],
        cached_answers=counts[3],
        tokens=tokens(calls.row(f"SELECT {TOKENS} FROM calls WHERE billed")),  # noqa: S608
        cost_usd=in_dollars(spend(calls)),
        unpriced_calls=counts[4],
        unpriced_share=_unpriced_share(calls),
        unpriced_models=_unpriced_models(calls),
        assumed_share=assumed,
        recorded_cost_usd=recorded[1],
        recorded_on=recorded[0],
        computed_on_recorded_usd=in_dollars(recorded[2]),
        first_call_at=counts[5],
        last_call_at=counts[6],
        models=_models(calls),
        coverage=coverage(calls),
        assumptions=(*calls.notes, *filter(None, [prices_assumed(assumed, calls.catalogue.version)])),
    )


def prices_assumed(part: float | None, listed: str) -> str | None:
    """The part of the spend at prices of which the list does not say that they held, in a sentence."""
    if not part:
        return None
    said = f"{part:.1%} of the spend is priced at the list of {listed}"
    return f"{said}, which does not say that its prices held on those days."


def spend(calls: Calls) -> int | None:
    """Pico-dollars of all calls whose price is known; None where none is."""
    return known_cost(*calls.known("SELECT count(*), sum(cost_pico) FROM calls WHERE billed")[0])


def known_cost(calls: int, cost: int | None) -> int | None:
    """What SQL's sum says of the pico-dollars of `calls` calls: 0 of no calls, None where no call has a price.

    >>> known_cost(3, 70), known_cost(3, None), known_cost(0, None)
    (70, None, 0)
    """
    if cost is None:
        return None if calls else 0
    return int(cost)


def by_feature(calls: Calls, costs: str, treatment: str) -> list[dict[str, Any]]:
    """The calls of `treatment` by feature, at their whole cost in the table `costs`; the dearest SHOWN_FEATURES."""
    found = calls.rows(
        f"""SELECT feature, count(*), sum(cost_pico) FROM {costs} JOIN {treatment} USING ("call")
            GROUP BY 1 ORDER BY 3 DESC NULLS LAST, 1 LIMIT ?""",  # noqa: S608
        [SHOWN_FEATURES],
    )
    return [{"feature": feature, "calls": count, "saving_usd": usd(cost)} for feature, count, cost in found]


def tokens(sums: tuple[int | None, ...]) -> Tokens:
    """The four sums of `TOKENS`."""
    read, out, cached_read, cached_write = (int(value or 0) for value in sums)
    return Tokens(input=read, output=out, cached_read=cached_read, cached_write=cached_write)


def coverage(calls: Calls) -> dict[str, float]:
    """Field -> share of the spend whose calls carry it; of the calls, where no price is known."""
    weight = "cost_pico" if spend(calls) else "1"
    sums = ", ".join(f"sum({weight}) FILTER ({condition})" for condition in FIELDS.values())
    total, *parts = calls.row(f"SELECT sum({weight}), {sums} FROM calls WHERE billed")  # noqa: S608
    return {name: share(part, total) for name, part in zip(FIELDS, parts, strict=True)}


def _unpriced_share(calls: Calls) -> float:
    unpriced, every = calls.row(
        """SELECT sum(input_tokens + output_tokens) FILTER (cost_pico IS NULL), sum(input_tokens + output_tokens)
           FROM calls WHERE billed"""
    )
    return share(unpriced, every)


def _unpriced_models(calls: Calls) -> tuple[str, ...]:
    found = calls.rows(
        """SELECT coalesce(model, '(no model)') FROM calls WHERE billed AND cost_pico IS NULL
           GROUP BY model ORDER BY sum(input_tokens + output_tokens) DESC, 1 LIMIT ?""",
        [SHOWN_UNPRICED],
    )
    return tuple(model for (model,) in found)


def _models(calls: Calls) -> tuple[str, ...]:
    found = calls.rows(
        """SELECT model FROM calls WHERE model IS NOT NULL
           GROUP BY model ORDER BY sum(cost_pico) DESC NULLS LAST, count(*) DESC, model LIMIT ?""",
        [SHOWN_MODELS],
    )
    return tuple(model for (model,) in found)
