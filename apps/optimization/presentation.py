"""An analysis for a terminal: for people as tables, for machines as one document."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from apps.llm.amounts import UNKNOWN, spell_dollars
from apps.optimization.allowances import allowed_first
from apps.optimization.bills import BillPreview
from apps.optimization.conversion import Conversion, Preview
from apps.optimization.local import UTC, Local, is_trace
from apps.optimization.overview import prices_assumed
from apps.optimization.reconciliation import Reconciliation, spelled
from apps.optimization.results import Analysis, Breakdown, Forecast, IfAllowed, Joint, Lack, Strategy, usd
from apps.optimization.scenarios import Moved, WhatIf
from apps.optimization.wishes import Goal

SHOWN_REJECTS = 5
NOTHING = "–"  # in a cell of a number that is not known


@dataclass(frozen=True, kw_only=True)
class Found:
    """All that `analyze` computes of one file."""

    analysis: Analysis
    conversion: Conversion
    reconciliation: Reconciliation | None = None
    what_if: WhatIf | None = None
    goal: Goal | None = None
    asked: tuple[str, ...] = ()  # what follows from what was allowed and forbidden, in sentences of Markdown
    local: Local = UTC


def document(found: Found) -> dict[str, Any]:
    """The document of `analyze --json`: the analysis, what the import of the file did, and what was asked beside.

    Amounts are dollars always; `report` says in which currency and zone they are printed, where one was chosen.
    """
    conversion, local = found.conversion, found.local
    imported = {
        "source": conversion.source,
        "columns": dict(conversion.columns),
        "rejected_rows": conversion.rejected,
        "rejects": [asdict(reject) for reject in conversion.rejects],
        "conventions": [asdict(verdict) for verdict in conversion.verdicts],
        "prices": conversion.prices,
    }
    asked = {"reconciliation": found.reconciliation, "what_if": found.what_if, "goal": found.goal}
    shown = {"time_zone": local.time_zone, "currency": local.currency, "currency_rate": format(local.rate, "f")}
    return (
        found.analysis.model_dump(mode="json")
        | {"import": imported}
        | ({} if local == UTC else {"report": shown})
        | {name: answer.model_dump(mode="json") for name, answer in asked.items() if answer}
    )


def _show_reconciliation(console: Console, found: Reconciliation) -> None:
    """A bill beside the calls as a person reads it."""
    billed, captured = spelled(found.billed, found.unit), spelled(found.captured, found.unit)
    share = "" if found.rate is None else f"; of token charges on days and models of both, {found.rate:.1%} is captured"
    console.print(_plain(f"Bill: {billed}; calls: {captured}{share}"), style="bold", soft_wrap=True)
    for sentence in (*(each.sentence for each in found.differences), *_unread(found), *found.assumptions):
        console.print(_plain(f"- {sentence}"), soft_wrap=True)


def _unread(found: Reconciliation) -> Iterator[str]:
    """The first rows of the bill that could not be read."""
    for reject in found.rejects:
        yield f"Bill, row {reject.line}{f', {reject.column}' if reject.column else ''}: {reject.reason}"


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


def preview_document(found: Preview | BillPreview) -> dict[str, Any]:
    """A preview as JSON: of calls, or of a bill."""
    if isinstance(found, BillPreview):
        return _bill_document(found)
    conversion = found.conversion
    return {
        "kind": "calls",
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


def _bill_document(found: BillPreview) -> dict[str, Any]:
    bill, amounts = found.conversion, defaultdict[str, Decimal](Decimal)
    for each in found.sums:
        if each.amount is not None:
            amounts[each.currency] += each.amount
    return {
        "kind": "bill",
        "source": bill.source,
        "notes": list(bill.notes),
        "rows": bill.rows,
        "rejected_rows": bill.rejected,
        "rejects": [asdict(reject) for reject in bill.rejects],
        "days": len({each.day for each in found.sums}),
        "first_day": bill.first_day.isoformat(),
        "last_day": bill.last_day.isoformat(),
        "amounts": {currency: format(amount, "f") for currency, amount in sorted(amounts.items())},  # currency -> sum
        "tokens": sum(each.tokens or 0 for each in found.sums),
        "whole": found.whole,
    }


def _as_json(value: Any) -> Any:
    return f"{value.isoformat()}Z" if isinstance(value, datetime) else value


def show(console: Console, name: str, found: Found) -> None:
    """The analysis as a person reads it."""
    analysis, local = found.analysis, found.local
    tokens = analysis.tokens
    cost = "cost unknown" if analysis.cost_usd is None else local.money(analysis.cost_usd)
    calls = counted(analysis.calls, "call")
    _say(console, f"{name}: {calls}, {tokens.input:,} tokens in, {tokens.output:,} out, {cost}", style="bold")
    for sentence in (*_remarks(analysis, found.conversion, local), *filter(None, [local.note])):
        _say(console, f"- {sentence}")
    for by in ("model", "feature", "user"):
        if any(row.key for row in analysis.breakdown[by].rows):
            console.print(_spend_table(analysis.breakdown[by], local))
    if more := allowed_first(analysis):
        _say(console, if_allowed_line(more, local), style="bold")
    _show_joint(console, analysis.joint, local)
    for sentence in found.asked:
        _say(console, f"- {sentence.replace('**', '')}")
    if found.goal:
        _say(console, f"Goal of {found.goal.share:.0%}: {found.goal.sentence}")
    console.print(_savings_table(analysis, local))
    _say(console, "Savings overlap: do not add them up. “up to” is a ceiling, not an expectation.")
    console.print(_sufficiency_table(analysis, local))
    _show_outlook(console, analysis, local)
    if found.what_if:
        _show_scenario(console, found.what_if, local)
    if found.reconciliation:
        _show_reconciliation(console, found.reconciliation)


def _say(console: Console, sentence: str, style: str | None = None) -> None:
    console.print(_plain(sentence), style=style, soft_wrap=True)


def interval(low: Decimal | None, high: Decimal | None, local: Local) -> str:
    """Both ends; a dash where they were not computed."""
    return NOTHING if low is None or high is None else f"{local.money(low)} to {local.money(high)}"


def if_allowed_line(more: IfAllowed, local: Local = UTC) -> str:
    """What a rule would add that only the owner can allow, in a sentence."""
    return f"{local.money(more.more_usd)} beyond what is proven, if {more.needs}: {more.strategy.title}."


def _show_joint(console: Console, joint: Joint | None, local: Local) -> None:
    if joint is None:
        _say(console, "Together: nothing is proven to save on these calls.", style="bold")
        return
    saving = f"{'up to ' if joint.up_to else ''}{local.money(joint.saving_usd)}"
    share = f" ({joint.saving_usd / joint.spent_usd:.1%})" if joint.saving_usd is not None and joint.spent_usd else ""
    ends = interval(joint.low, joint.high, local)
    said = "interval not computed" if ends == NOTHING else f"95 % interval {ends}"
    _say(console, f"Together: {saving} of {local.money(joint.spent_usd)}{share}, {said}", style="bold")
    for sentence in filter(None, (joint.interval_note, joint.drift.why)):
        _say(console, f"- {sentence}")


def _sufficiency_table(analysis: Analysis, local: Local) -> Table:
    table = Table(title="How far this data carries", title_justify="left")
    for name in ("analysis", "state", "missing, and the spend at stake at most"):
        table.add_column(name)
    table.add_column("score", justify="right")
    for name, each in analysis.sufficiency.items():
        lacks = (f"{lack.field} ({_points(lack)}{_at_most(lack, local)})" for lack in each.lacks)
        table.add_row(name.replace("_", " "), each.state, ", ".join(lacks) or NOTHING, str(each.score))
    return table


def _points(lack: Lack) -> str:
    return f"+{lack.points}, " if lack.points else ""


def _at_most(lack: Lack, local: Local) -> str:
    return UNKNOWN if lack.at_most_usd is None else local.money(lack.at_most_usd)


def _show_outlook(console: Console, analysis: Analysis, local: Local) -> None:
    coming = analysis.forecast
    if coming.usd is None:
        _say(console, f"Forecast: {UNKNOWN}. {coming.why or ''}")
    else:
        ends = interval(coming.low, coming.high, local)
        level = "" if ends == NOTHING or coming.level is None else f", {coming.level:.0%} interval {ends}"
        _say(console, f"Forecast: {local.money(coming.usd)} in the {coming.days} days after the log{level}.")
        for sentence in filter(None, (beaten(coming, local), coming.why)):
            _say(console, f"- {sentence}")
    if analysis.anomalies is None:
        _say(console, "What stood out: unknown; the log is too short to know what is usual, or nothing has a price.")
    elif not analysis.anomalies:
        _say(console, "What stood out: nothing.")
    for odd in analysis.anomalies or ():
        span = f"{local.time(odd.from_):%Y-%m-%d %H:%M} to {local.time(odd.to):%Y-%m-%d %H:%M} {local.time_zone}"
        _say(console, f"What stood out: {local.money(odd.excess_usd)} above the usual, {span}. {odd.cause}")


def beaten(coming: Forecast, local: Local) -> str:
    """The forecast beside its baseline, in a sentence; empty where neither was tried on days it had not seen."""
    if coming.baseline_error_usd is None or not coming.windows:
        return ""
    said = (
        f"Over {coming.windows} stretches of days that it had not seen, repeating the week before missed by "
        f"{local.money(coming.baseline_error_usd)} a day"
    )
    if coming.better_error_usd is not None:
        said += f", and the best other model by {local.money(coming.better_error_usd)}"
    return f"{said}; used is {coming.model}."


def _show_scenario(console: Console, found: WhatIf, local: Local) -> None:
    _say(console, "What if", style="bold")
    for sentence in (*scenario_lines(found, local), *found.assumptions):
        _say(console, f"- {sentence}")


def scenario_lines(found: WhatIf, local: Local) -> Iterator[str]:
    """The answer to a scenario in sentences."""
    yield f"These calls cost {local.money(found.spent_usd)}; as many as asked: {local.money(found.grown_usd)}."
    for each in found.moves:
        yield _moved(each, local)
    if found.moves:
        yield f"With all moves they would cost {local.money(found.moved_usd)}."
    yield f"With the ways to save that are proven and allowed: {local.money(found.saved_usd)}."
    if found.forecast_usd is not None:
        ends = interval(found.forecast_low, found.forecast_high, local)
        said = "" if ends == NOTHING else f" ({ends})"
        many = f"The next {found.forecast_days} days, as many as asked and without any of that"
        yield f"{many}: {local.money(found.forecast_usd)}{said}."
    for promise in found.promises:
        kept = {True: "keep", False: "do not keep", None: "may or may not keep"}[promise.keeps]
        slow = (
            "the log has no times of them" if promise.p95 is None else f"95 % come within {promise.p95 * 1000:,.0f} ms"
        )
        yield f"Answers of {promise.feature} {kept} to {promise.limit_seconds * 1000:,.0f} ms: {slow}."


def _moved(moved: Moved, local: Local) -> str:
    what = f"{moved.move.feature or 'Every feature'} from {moved.move.model or 'any model'} to {moved.move.to}"
    if moved.why:
        return f"{what}: {UNKNOWN}. {moved.why}"
    return (
        f"{what}: {counted(moved.calls, 'call')} would cost {local.money(moved.would_cost_usd)} instead of "
        f"{local.money(moved.cost_usd)} ({interval(moved.low_usd, moved.high_usd, local)}, as it takes fewer or more "
        "tokens)."
    )


def counted(number: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "call"), counted(19366, "call")
    ('1 call', '19,366 calls')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _remarks(analysis: Analysis, conversion: Conversion, local: Local) -> list[str]:
    whole, remarks = analysis.overview, []
    if whole.first_call_at and whole.last_call_at and not is_trace(whole.first_call_at):
        first, last = local.time(whole.first_call_at), local.time(whole.last_call_at)
        remarks.append(f"From {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} {local.time_zone}.")
    if whole.unpriced_calls:
        names = ", ".join(whole.unpriced_models[:5])
        remarks.append(f"The price of {counted(whole.unpriced_calls, 'call')} is unknown and not in the sum: {names}.")
    if assumed := prices_assumed(whole.assumed_share, conversion.prices):
        remarks.append(assumed)
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


def _spend_table(breakdown: Breakdown, local: Local) -> Table:
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
            local.money(row.cost_usd),
            share,
        )
        table.add_row(_plain(row.key or "(not said)"), *counts)
    return table


def _savings_table(analysis: Analysis, local: Local) -> Table:
    """The widest column holds both texts of a row, so that a narrow terminal shows them as well."""
    table = Table(title="Where it could be less", title_justify="left")
    table.add_column("saving", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", max_width=16)
    table.add_column("evidence")
    table.add_column("way to save, and what to know")
    rows = [(each, each.title, _remark(each)) for each in analysis.strategies]
    rows += [
        (
            each.strategy,
            f"{each.strategy.title}, if allowed",
            f"If {each.needs}: {local.money(each.more_usd)} of it is beyond what is proven.",
        )
        for each in analysis.if_allowed
    ]
    for strategy, title, remark in sorted(rows, key=lambda row: (row[0].up_to, -(row[0].saving_usd or 0))):
        evidence = NOTHING if strategy.saving_usd is None else strategy.evidence
        ends = interval(strategy.low, strategy.high, local)
        told = Text.assemble((title, "bold"), "\n", _plain(remark))
        table.add_row(_saving(strategy, local), ends, evidence, told)
    return table


def _saving(strategy: Strategy, local: Local) -> str:
    if strategy.saving_usd is None:
        return UNKNOWN
    return f"{'up to ' if strategy.up_to else ''}{local.money(strategy.saving_usd)}"


def _remark(strategy: Strategy) -> str:
    return strategy.why or strategy.assumptions[0]


def _plain(text: str) -> Text:
    """Text from a file, without markup and without anything that could steer a terminal."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
