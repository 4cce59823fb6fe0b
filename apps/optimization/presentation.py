"""An analysis for a terminal: for people as tables, for machines as one document."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from apps.llm.amounts import UNKNOWN, spell_dollars
from apps.optimization.conversion import Conversion, Preview
from apps.optimization.reconciliation import Reconciliation, spelled
from apps.optimization.results import Analysis, Breakdown, Strategy, usd

SHOWN_REJECTS = 5
EPOCH_YEAR = 1970  # of the calls of a trace that counts from its own start
NOTHING = "–"  # in a cell of a number that is not known


def document(
    analysis: Analysis, conversion: Conversion, reconciliation: Reconciliation | None = None
) -> dict[str, Any]:
    """The document of `analyze --json`: the analysis, and what the import of the file did."""
    imported = {
        "source": conversion.source,
        "columns": dict(conversion.columns),
        "rejected_rows": conversion.rejected,
        "rejects": [asdict(reject) for reject in conversion.rejects],
        "conventions": [asdict(verdict) for verdict in conversion.verdicts],
        "prices": conversion.prices,
    }
    compared = {"reconciliation": reconciliation.model_dump(mode="json")} if reconciliation else {}
    return analysis.model_dump(mode="json") | {"import": imported} | compared


def show_reconciliation(console: Console, found: Reconciliation) -> None:
    """A bill beside the calls as a person reads it."""
    billed, captured = spelled(found.billed, found.unit), spelled(found.captured, found.unit)
    share = "" if found.rate is None else f"; of token charges on days and models of both, {found.rate:.1%} is captured"
    console.print(_plain(f"Bill: {billed}; calls: {captured}{share}"), style="bold", soft_wrap=True)
    for sentence in (*(each.sentence for each in found.differences), *found.assumptions):
        console.print(_plain(f"- {sentence}"), soft_wrap=True)


_SHOWN_OF_A_CALL = (
    "line",
    "started_at",
    "model",
    "provider",
    "input_tokens",
    "cached_read_tokens",
    "cached_write_tokens",
    "output_tokens",
    "status",
    "feature",
    "user",
    "session",
)


def preview_document(found: Preview) -> dict[str, Any]:
    """A preview as JSON."""
    conversion = found.conversion
    return {
        "source": conversion.source,
        "columns": dict(conversion.columns),
        "conventions": [asdict(verdict) for verdict in conversion.verdicts],
        "notes": list(conversion.notes),
        "rows": conversion.rows,
        "rejected_rows": conversion.rejected,
        "rejects": [asdict(reject) for reject in conversion.rejects],
        "calls": [
            {name: _as_json(call[name]) for name in _SHOWN_OF_A_CALL} | {"cost_usd": usd(call["cost_pico"])}
            for call in found.calls
        ],
        "whole": found.whole,
        "disk_bytes": found.disk_bytes,
    }


def _as_json(value: Any) -> Any:
    return f"{value.isoformat()}Z" if isinstance(value, datetime) else value


def show(console: Console, name: str, analysis: Analysis, conversion: Conversion) -> None:
    """The analysis as a person reads it."""
    tokens = analysis.tokens
    cost = "cost unknown" if analysis.cost_usd is None else spell_dollars(analysis.cost_usd)
    console.print(
        _plain(f"{name}: {counted(analysis.calls, 'call')}, {tokens.input:,} tokens in, {tokens.output:,} out, {cost}"),
        style="bold",
        soft_wrap=True,
    )
    for sentence in _remarks(analysis, conversion):
        console.print(_plain(f"- {sentence}"), soft_wrap=True)
    for by in ("model", "feature"):
        if any(row.key for row in analysis.breakdown[by].rows):
            console.print(_spend_table(analysis.breakdown[by]))
    console.print(_savings_table(analysis))
    console.print("Savings overlap: do not add them up. “up to” is a ceiling, not an expectation.", soft_wrap=True)


def counted(number: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "call"), counted(19366, "call")
    ('1 call', '19,366 calls')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _remarks(analysis: Analysis, conversion: Conversion) -> list[str]:
    whole, remarks = analysis.overview, []
    if whole.first_call_at and whole.last_call_at and whole.first_call_at.year > EPOCH_YEAR:
        remarks.append(f"From {whole.first_call_at:%Y-%m-%d %H:%M} to {whole.last_call_at:%Y-%m-%d %H:%M} UTC.")
    if whole.unpriced_calls:
        names = ", ".join(whole.unpriced_models[:5])
        remarks.append(f"The price of {counted(whole.unpriced_calls, 'call')} is unknown and not in the sum: {names}.")
    if whole.failed_calls or whole.cached_answers:
        unbilled = whole.calls - whole.billed_calls
        remarks.append(f"Not billed: {counted(unbilled, 'call')} (failures, answers from an own cache).")
    if whole.recorded_cost_usd is not None and whole.computed_on_recorded_usd is not None:
        remarks.append(
            f"The source recorded {spell_dollars(whole.recorded_cost_usd)} for {counted(whole.recorded_on, 'call')}; "
            f"computed: {spell_dollars(whole.computed_on_recorded_usd)}."
        )
    if conversion.rejected:
        remarks.append(f"Not usable: {counted(conversion.rejected, 'row')}.")
        remarks += [
            f"  line {reject.line}{f', {reject.column}' if reject.column else ''}: {reject.reason}"
            for reject in conversion.rejects[:SHOWN_REJECTS]
        ]
    return [*remarks, *conversion.notes]


def _spend_table(breakdown: Breakdown) -> Table:
    table = Table(title=f"Spend by {breakdown.by}", title_justify="left")
    table.add_column(breakdown.by)
    for name in ("calls", "tokens in", "tokens out", "cost", "share"):
        table.add_column(name, justify="right")
    for row in breakdown.rows[:15]:
        share = NOTHING if row.share is None else f"{row.share:.1%}"
        counts = (
            f"{row.calls:,}",
            f"{row.tokens.input:,}",
            f"{row.tokens.output:,}",
            spell_dollars(row.cost_usd),
            share,
        )
        table.add_row(_plain(row.key or "(not said)"), *counts)
    return table


def _savings_table(analysis: Analysis) -> Table:
    table = Table(title="Where it could be less", title_justify="left")
    table.add_column("strategy")
    table.add_column("saving", justify="right")
    table.add_column("evidence")
    table.add_column("what to know")
    for strategy in sorted(analysis.strategies, key=lambda s: (s.up_to, -(s.saving_usd or 0))):
        evidence = NOTHING if strategy.saving_usd is None else strategy.evidence
        table.add_row(strategy.title, _saving(strategy), evidence, _plain(_remark(strategy)))
    return table


def _saving(strategy: Strategy) -> str:
    if strategy.saving_usd is None:
        return UNKNOWN
    return f"{'up to ' if strategy.up_to else ''}{spell_dollars(strategy.saving_usd)}"


def _remark(strategy: Strategy) -> str:
    return strategy.why or strategy.assumptions[0]


def _plain(text: str) -> Text:
    """Text from a file, without markup and without anything that could steer a terminal."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
