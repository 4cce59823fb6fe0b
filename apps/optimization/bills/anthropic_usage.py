"""Anthropic: pages of `GET /v1/organizations/usage_report/messages`, which counts and does not charge.

Source of the field names: "Usage and Cost API" of Anthropic's reference. Input is told apart already.
"""

from collections.abc import Iterable
from pathlib import Path

from apps.optimization.bills import Charge, Row, bill_source, count_of, text_of
from apps.optimization.bills.pages import Pages, Result, pages_in

NOTES = (
    "Anthropic usage: tokens per day, no amounts; sums of tokens are never priced, so they are compared as tokens.",
    "Anthropic usage: the model is unknown where the report was not grouped by model.",
)


@bill_source
def anthropic_usage(path: Path) -> Pages | None:
    """Takes buckets with `starting_at` whose results count tokens."""
    pages = pages_in(path, begins="starting_at", telling=r'"uncached_input_tokens"\s*:')
    return (
        None
        if pages is None
        else Pages(kind="anthropic_usage", notes=NOTES, begins="starting_at", pages=pages, read=_rows)
    )


def _rows(result: Result) -> Iterable[Row]:
    def count(*names: str) -> int:
        return count_of(*result.at(*names)) or 0

    model = text_of(result.at("model")[0]) or None
    tier = text_of(result.at("service_tier")[0])
    written = sum(count("cache_creation", f"ephemeral_{kept}_input_tokens") for kept in ("5m", "1h"))
    counts: tuple[tuple[Charge, int], ...] = (
        ("input", count("uncached_input_tokens")),
        ("cached_read", count("cache_read_input_tokens")),
        ("cached_write", written),
        ("output", count("output_tokens")),
    )
    for charge, tokens in counts:
        if tokens or charge == "input":
            yield Row(
                day=result.day,
                provider="anthropic",
                model=model,
                charge=charge,
                tokens=tokens,
                description=tier,
                line=result.number,
            )
    if searches := count("server_tool_use", "web_search_requests"):
        yield Row(
            day=result.day,
            provider="anthropic",
            model=model,
            charge="web_search",
            requests=searches,
            line=result.number,
        )
