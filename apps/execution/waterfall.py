"""A trace as a waterfall: one row for each span, its bar where in the run's time it was."""

from dataclasses import dataclass
from datetime import datetime

from apps.execution.trace import Attribute, Kind, Span, Trace
from apps.llm.amounts import UNKNOWN, spell_dollars

NARROWEST = 0.4  # percent of the width: what took no time can still be seen
TICKS = 4  # intervals of the scale


@dataclass(frozen=True, kw_only=True)
class Row:
    """A span as it is drawn; `left` and `width` are percent of the run's time, None where nothing was heard of it."""

    span: Span
    depth: int
    left: float | None
    width: float | None
    took: str
    note: str

    @property
    def is_open(self) -> bool:
        """Whether its end is not known; the bar ends with the last that was heard of it."""
        return self.span.end is None


@dataclass(frozen=True, kw_only=True)
class Waterfall:
    trace: Trace
    rows: tuple[Row, ...]
    ticks: tuple[str, ...]  # since the run began, from left to right
    queued: str
    waited: str
    worked: str


def draw(trace: Trace) -> Waterfall:
    """The picture of a trace, from the run's beginning to the last that is known of it."""
    begin = min(span.first_seen for span in trace.spans if span.first_seen)
    whole = (max(span.last_seen for span in trace.spans if span.last_seen) - begin).total_seconds()
    depths: dict[str | None, int] = {None: -1}
    rows = []
    for span in trace.spans:
        depths[span.id] = depths[span.parent] + 1
        left, width = _place(span, begin, whole)
        took, depth = spell_seconds(span.seconds), depths[span.id]
        rows.append(Row(span=span, depth=depth, left=left, width=width, took=took, note=_note(span)))
    return Waterfall(
        trace=trace,
        rows=tuple(rows),
        ticks=tuple(spell_seconds(whole * tick / TICKS) for tick in range(TICKS + 1)),
        queued=spell_seconds(trace.queued_seconds),
        waited=spell_seconds(trace.waiting_seconds),
        worked=spell_seconds(trace.working_seconds),
    )


def spell_seconds(seconds: float | None) -> str:
    """A time as a person says it.

    >>> [spell_seconds(x) for x in (0, 0.0042, 1.234, 75.4, 7260, None)]
    ['0 s', '4 ms', '1.23 s', '1 min 15 s', '2 h 1 min', 'unknown']
    """
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s"


def _place(span: Span, begin: datetime, whole: float) -> tuple[float | None, float | None]:
    if span.first_seen is None or span.last_seen is None:
        return None, None
    if not whole:
        return 0.0, 100.0
    left = 100 * (span.first_seen - begin).total_seconds() / whole
    width = 100 * (span.last_seen - span.first_seen).total_seconds() / whole
    return min(left, 100 - NARROWEST), max(width, NARROWEST)


def _note(span: Span) -> str:
    """What else an operator wants to know at a glance."""
    of = span.attributes.get
    said: list[object] = []
    if span.kind == Kind.MODEL_CALL:
        said = [_tokens(of("gen_ai.usage.input_tokens"), of("gen_ai.usage.output_tokens")), _cost(of("netra.cost_usd"))]
    elif span.kind == Kind.QUESTION:
        said = [f"{of('netra.question.reason')}, asked by {of('netra.step')}"]
    elif span.kind == Kind.STEP:
        said = [f"step {of('netra.step')}", of("netra.interrupted_because")]
    if span.error != span.status:
        said.append(span.error)
    return ", ".join(str(words) for words in said if words)


def _tokens(into: Attribute | None, out: Attribute | None) -> str:
    return "tokens unknown" if into is None or out is None else f"{into:,} tokens in, {out:,} out"


def _cost(dollars: Attribute | None) -> str:
    return "cost unknown" if dollars is None else spell_dollars(str(dollars))
