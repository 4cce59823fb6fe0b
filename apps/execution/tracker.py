"""Where a run's time went, told by the rows that its execution leaves anyway. Nothing is recorded for it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Max, Min, QuerySet

from apps.conversations.models import Event, Question, Run, Step, ToolCall
from apps.execution.trace import Attribute, Kind, Span, Trace, span_id, trace_id
from apps.llm.models import ModelCall

_TOLD = ("step_started", "run_recovering", "step_completed", "tool_executing", "data_requested", "approval_requested")
_QUESTIONS = frozenset({"data_requested", "approval_requested"})
_FAILED_CALLS = frozenset({ToolCall.State.FAILED, ToolCall.State.UNKNOWN, ToolCall.State.REFUSED})

AttemptKey = tuple[str, int]  # a step's name and an attempt of it


@dataclass
class _Told:
    """What the events say of one attempt of a step."""

    opened_at: datetime | None = None
    closed_at: datetime | None = None
    first_at: datetime | None = None
    last_at: datetime | None = None
    status: str = ""
    reason: str = ""  # why it goes on where another attempt ended
    asked: bool = False
    calls: set[str] = field(default_factory=set)


class AgentExecutionTracker:
    """The rows of one run, read once, and the trace that follows from them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._root = span_id(Kind.RUN, run.pk)
        self._steps = list(Step.objects.filter(run=run).order_by("position"))
        self._tool_calls = list(ToolCall.objects.filter(run=run).order_by("id"))
        self._model_calls = list(ModelCall.objects.filter(run=run.pk).order_by("started_at"))
        self._questions = list(Question.objects.filter(run=run).order_by("id"))
        self._told = _told(run.pk)

    @classmethod
    def trace(cls, run: Run) -> Trace:
        """The spans of a run as far as it has come, and how much of its time it queued, waited and worked."""
        return cls(run)._trace()

    def _trace(self) -> Trace:
        run = self._run
        # A run that was stopped in the queue was never admitted.
        queued = _seconds(run.created_at, run.started_at or run.finished_at)
        within = tuple(self._within())
        waiting = working = None
        if run.finished_at and queued is not None:
            working = _seconds_in_any((span.first_seen, span.last_seen) for span in within if span.kind is Kind.STEP)
            # Two clocks may have written the times; no rest is less than nothing.
            waiting = max(0.0, (run.finished_at - run.created_at).total_seconds() - queued - working)
        return Trace(
            id=trace_id(run.pk),
            run=run.pk,
            thread=run.thread_id,
            status=run.state,
            queued_seconds=queued,
            waiting_seconds=waiting,
            working_seconds=working,
            spans=(self._run_span(), *within),
        )

    def _within(self) -> Iterator[Span]:
        """What the run consists of, in order of time, each followed by what it consists of itself."""
        groups = [[self._queue_span()], *([self._question_span(question)] for question in self._questions)]
        for step in self._steps:
            groups += [self._attempt(step, attempt) for attempt in range(1, step.attempt + 1)]
            if not step.attempt:
                groups.append([self._attempt_span(step, 0, ())])
        for group in sorted(groups, key=lambda spans: _by_time(spans[0])):
            yield from group

    # --- The run -----------------------------------------------------------------------------------------------------

    def _run_span(self) -> Span:
        run = self._run
        return self._span(
            Kind.RUN,
            run.pk,
            None,
            name=f"invoke_workflow {run.workflow}",
            status=run.state,
            error=run.error_code or None,
            start=run.created_at,
            end=run.finished_at,
            attributes={"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": run.workflow},
        )

    def _queue_span(self) -> Span:
        run = self._run
        end = run.started_at or run.finished_at
        status = "queued" if end is None else "admitted" if run.started_at else run.state
        return self._span(Kind.QUEUE, run.pk, self._root, name="queue", status=status, start=run.created_at, end=end)

    def _question_span(self, question: Question) -> Span:
        return self._span(
            Kind.QUESTION,
            question.pk,
            self._root,
            name=f"question {question.call}",
            status="answered" if question.answered_at else "unanswered" if self._run.finished_at else "open",
            start=question.asked_at,
            end=question.answered_at or self._run.finished_at,
            attributes={"netra.step": question.step, "netra.question.reason": question.reason},
        )

    # --- A step ------------------------------------------------------------------------------------------------------

    def _attempt(self, step: Step, attempt: int) -> list[Span]:
        """One attempt of a step, and the calls that it began, in order of time."""
        parent = span_id(Kind.STEP, step.pk, attempt)
        models = [
            self._model_span(call, step, parent)
            for call in self._model_calls
            if (call.step, call.attempt) == (step.name, attempt)
        ]
        tools = [
            self._tool_span(call, step, attempt, parent)
            for call in self._tool_calls
            if call.step == step.name and call.call in self._told[step.name, attempt].calls
        ]
        return [self._attempt_span(step, attempt, models), *sorted([*models, *tools], key=_by_time)]

    def _attempt_span(self, step: Step, attempt: int, models: Iterable[Span]) -> Span:
        told, following = self._told[step.name, attempt], self._told.get((step.name, attempt + 1))
        status = self._status(step, attempt)
        heard = [at for span in models for at in (span.first_seen, span.last_seen) if at]
        heard += [at for at in (told.first_at, told.last_at) if at]
        return self._span(
            Kind.STEP,
            step.pk,
            self._root,
            name=f"invoke_agent {step.agent}",
            status=status,
            error=status if status in ("failed", "interrupted") else None,
            attempt=attempt,
            start=told.opened_at,
            end=told.closed_at,
            first_seen=min(heard, default=None),
            last_seen=max(heard, default=None),
            attributes={
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": step.agent,
                "netra.step": step.name,
                "netra.interrupted_because": following.reason if following and status == "interrupted" else "",
            },
        )

    def _status(self, step: Step, attempt: int) -> str:
        """How an attempt ended: as it was told, else by a question, else by a loss that nobody could tell of."""
        told = self._told[step.name, attempt]
        if told.status:
            return told.status
        if not attempt or (attempt == step.attempt and step.state != Step.State.READY):
            return step.state
        return "waited" if told.asked else "interrupted"

    # --- Its calls ---------------------------------------------------------------------------------------------------

    def _model_span(self, call: ModelCall, step: Step, parent: str) -> Span:
        held = step.attempt == call.attempt and step.state == Step.State.RUNNING and not self._run.finished_at
        # Who would have written that it was cut is gone.
        state = ModelCall.State.CUT if call.state == ModelCall.State.ASKED and not held else call.state
        return self._span(
            Kind.MODEL_CALL,
            call.pk,
            parent,
            name=f"chat {call.model}",
            status=state,
            error="cut" if state == ModelCall.State.CUT else None,
            attempt=call.attempt,
            start=call.started_at,
            end=call.finished_at,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": call.provider,
                "gen_ai.request.model": call.model,
                "gen_ai.usage.input_tokens": call.input_tokens,
                "gen_ai.usage.cache_read.input_tokens": call.cached_read_tokens,
                "gen_ai.usage.output_tokens": call.output_tokens,
                "gen_ai.agent.name": step.agent,
                "server.address": call.provider,
                "netra.cost_usd": None if call.cost_usd is None else f"{call.cost_usd.normalize():f}",
            },
        )

    def _tool_span(self, call: ToolCall, step: Step, attempt: int, parent: str) -> Span:
        return self._span(
            Kind.TOOL_CALL,
            call.pk,
            parent,
            name=f"execute_tool {call.tool}",
            status=call.state,
            error=(call.error_code or call.state) if call.state in _FAILED_CALLS else None,
            attempt=attempt,
            start=call.started_at or call.created_at,
            end=call.finished_at,
            attributes={
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": call.tool,
                "gen_ai.tool.call.id": call.call,
                "gen_ai.agent.name": step.agent,
                "netra.tool.effect": call.effect,
                "netra.tool.place": call.place,
                "netra.tool.queued_seconds": _seconds(call.created_at, call.started_at),
            },
        )

    def _span(
        self,
        kind: Kind,
        of: object,
        parent: str | None,
        *,
        name: str,
        status: str,
        start: datetime | None,
        end: datetime | None,
        error: str | None = None,
        attempt: int | None = None,
        first_seen: datetime | None = None,
        last_seen: datetime | None = None,
        attributes: Mapping[str, Attribute | None] | None = None,
    ) -> Span:
        """A span of the run; what is not known is left out of its attributes."""
        known = {name: value for name, value in (attributes or {}).items() if value is not None and value != ""}
        return Span(
            id=span_id(kind, of, attempt or 0),
            parent=parent,
            kind=kind,
            name=name,
            status=status,
            error=error,
            attempt=attempt,
            start=start,
            end=end,
            first_seen=start or first_seen,
            last_seen=end or last_seen or start,
            attributes={**known, "gen_ai.conversation.id": str(self._run.thread_id)},
        )


def _told(run: UUID) -> dict[AttemptKey, _Told]:
    """What a run's events say of the attempts of its steps."""
    told: dict[AttemptKey, _Told] = defaultdict(_Told)
    events: QuerySet[Any] = Event.objects.filter(run_id=run, step__isnull=False)
    for step, attempt, first_at, last_at in events.values_list("step", "attempt").annotate(Min("at"), Max("at")):
        told[step, attempt].first_at, told[step, attempt].last_at = first_at, last_at
    chosen = events.filter(type__in=_TOLD).order_by("seq").values_list("step", "attempt", "type", "at", "data")
    for step, attempt, type_, at, data in chosen:
        one = told[step, attempt]
        if type_ in ("step_started", "run_recovering"):
            one.opened_at, one.reason = at, data.get("reason", "")
        elif type_ == "step_completed":
            one.closed_at, one.status = at, data["status"]
        elif type_ == "tool_executing":
            one.calls.add(data["call"])
        elif type_ in _QUESTIONS:
            one.asked = True
    return told


def _by_time(span: Span) -> tuple[bool, datetime | None]:
    """In order of time; what never began comes last."""
    return span.first_seen is None, span.first_seen


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return (end - start).total_seconds() if start and end else None


def _seconds_in_any(spans: Iterable[tuple[datetime | None, datetime | None]]) -> float:
    """The length of what the given times cover together; what never began covers nothing."""
    covered, until = 0.0, None
    for start, end in sorted((start, end) for start, end in spans if start and end):
        begin = start if until is None else max(start, until)
        covered += max(0.0, (end - begin).total_seconds())
        until = end if until is None else max(until, end)
    return covered
