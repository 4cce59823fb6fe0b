"""OpenAI: pages of `GET /v1/organization/usage/completions`, which counts and does not charge.

Source of the field names: `usage_completions_response.py` of openai 3.52. `input_tokens` includes cached ones.
"""

from collections.abc import Iterable
from pathlib import Path

from apps.optimization.bills import Charge, Row, Unreadable, bill_source, count_of, text_of
from apps.optimization.bills.pages import Pages, Result, pages_in

NOTES = (
    "OpenAI usage: tokens per day, no amounts; sums of tokens are never priced, so they are compared as tokens.",
    "OpenAI usage: the model is unknown where the report was not grouped by model.",
)


@bill_source
def openai_usage(path: Path) -> Pages | None:
    """Takes buckets with `start_time` whose results count tokens."""
    pages = pages_in(path, begins="start_time", telling=r'"num_model_requests"\s*:')
    return (
        None if pages is None else Pages(kind="openai_usage", notes=NOTES, begins="start_time", pages=pages, read=_rows)
    )


def _rows(result: Result) -> Iterable[Row]:
    whole, read, written = (
        count_of(*result.at(name)) or 0 for name in ("input_tokens", "input_cached_tokens", "input_cache_write_tokens")
    )
    if read + written > whole:
        raise Unreadable(result.at("input_cached_tokens")[1], "More cached tokens than input tokens.")
    counts: tuple[tuple[Charge, int], ...] = (
        ("input", whole - read - written),
        ("cached_read", read),
        ("cached_write", written),
        ("output", count_of(*result.at("output_tokens")) or 0),
    )
    requests = count_of(*result.at("num_model_requests"))
    for charge, tokens in counts:
        if tokens or charge == "input":
            yield Row(
                day=result.day,
                provider="openai",
                model=text_of(result.at("model")[0]) or None,
                charge=charge,
                tokens=tokens,
                requests=requests if charge == "input" else None,
                description="batch" if result.at("batch")[0] is True else "",
                line=result.number,
            )
