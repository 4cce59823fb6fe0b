"""What follows when a step has settled: the next steps, a pause, or the end of the run. One transaction each."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from pydantic import BaseModel

from apps.accounts.models import User
from apps.conversations import journal, lifecycle
from apps.conversations.journal import Entry, Fact, Fenced
from apps.conversations.models import Message, Question, Run, Step, ToolCall
from apps.errors import NetraError
from apps.execution import claims, doorbell
from apps.execution.calls import closing
from apps.execution.claims import Artifact, Claim
from apps.execution.registry import (
    Completed,
    Effect,
    Failed,
    Outcome,
    Place,
    Postponed,
    StepSpec,
    Waiting,
    agents,
    workflows,
)
from apps.llm import ledger
from apps.operations.debug_points import point

_UNSETTLED = frozenset({Step.State.BLOCKED, Step.State.READY, Step.State.RUNNING, Step.State.WAITING})
_ACTIVE = frozenset({Step.State.READY, Step.State.RUNNING})


class WorkflowOrchestrator:
    """Walks the graph of one run's workflow, a settled step at a time."""

    def __init__(self, claim: Claim) -> None:
        self._context = claim.context
        self._specs = {spec.name: spec for spec in workflows.get(claim.workflow).steps}

    def settle(self, outcome: Outcome) -> None:
        """Write down how the step ended, and ready what waited for it, pause the run or end it.

        Raises:
            Fenced: the step is not held any more; nothing was written.
        """
        point("step.settling")
        with transaction.atomic():
            # Step, thread, then the rest: in any other order a settling step and a cancelled run wait for each other.
            journal.hold(self._context.fence)
            match outcome:
                case Completed():
                    self._complete(outcome)
                case Failed():
                    self._fail(outcome)
                case Waiting():
                    self._rest(outcome)
                case Postponed():
                    self._postpone(outcome)
                case _:
                    assert_never(outcome)

    # --- The step ----------------------------------------------------------------------------------------------------

    def _complete(self, outcome: Completed) -> None:
        artifact = outcome.artifact.model_dump(mode="json")
        summary, confidence = outcome.summary, outcome.confidence
        self._close(Step.State.COMPLETED, summary=summary, confidence=confidence, artifact=artifact)
        if outcome.answer is not None:
            Message.objects.filter(run_id=self._context.run_id, role=Message.Role.ASSISTANT).update(
                text=outcome.answer.text, report=outcome.answer.report
            )
        self._advance()

    def _fail(self, outcome: Failed) -> None:
        self._close(Step.State.FAILED, summary=outcome.detail)
        spec = self._specs.get(self._context.step)
        if spec is not None and spec.continue_on_error:
            self._advance()
        else:
            fail_run(
                run=self._context.run_id,
                thread=self._context.thread_id,
                user=self._context.principal.user_id,
                failure=outcome,
            )

    def _rest(self, outcome: Waiting) -> None:
        """Wait for a person; one who was quick has answered already."""
        asked = Question.objects.filter(run_id=self._context.run_id, step=self._context.step, call=outcome.call)
        if asked.filter(answered_at=None).exists():
            self._move(Step.State.WAITING, worker=None)
            self._pause()
        else:
            self._move(Step.State.READY, worker=None, reason="")

    def _postpone(self, outcome: Postponed) -> None:
        """Give the step back until later; with nothing else to do, the run gives back its place."""
        later = timezone.now() + timedelta(seconds=outcome.seconds)
        said = {"thought": f"Waiting {outcome.seconds:.0f} s: {outcome.reason}", "progress": 0}
        journal.append(self._context.fence, Fact("agent_thinking", said))
        self._move(Step.State.READY, worker=None, not_before=later, reason=outcome.reason[:200], rung_at=later)
        others = Step.objects.filter(run_id=self._context.run_id, state__in=_ACTIVE)
        if not others.exclude(pk=self._context.step_id).exists():
            moved = {"not_before": later, "rung_at": later}
            lifecycle.move_run(self._context.run_id, source=Run.State.RUNNING, to=Run.State.QUEUED, **moved)
            User.objects.filter(pk=self._context.principal.user_id).update(runnable=True)

    def _close(self, state: str, *, summary: str, confidence: float | None = None, **fields: object) -> None:
        """Close what the step opened, the step last, and move its row."""
        now = timezone.now()
        said = {"agent": self._context.agent, "status": str(state), "summary": summary, "confidence": confidence}
        calls = close_calls(self._context.run_id, self._context.step, now)
        journal.append(self._context.fence, *calls, Fact("step_completed", said))
        self._move(state, summary=summary, confidence=confidence, finished_at=now, **fields)

    def _move(self, state: str, **fields: object) -> None:
        context = self._context
        source = Step.State.RUNNING
        if not lifecycle.move_step(context.step_id, attempt=context.attempt, source=source, to=state, **fields):
            raise Fenced(f"Step {context.step} of run {context.run_id} is not ours any more.")

    # --- The graph ---------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Ready or skip what the settled steps unlock, and end the run when nothing is left.

        Under the thread's lock, so that of two steps settling at once the second sees the first as settled.
        """
        steps = {step.name: step for step in Step.objects.filter(run_id=self._context.run_id).order_by("position")}
        readied = 0
        while unlocked := next(self._unlocked(steps), None):
            if self._is_wanted(unlocked, steps):
                self._ready(unlocked)
                readied += 1
            else:
                self._skip(unlocked)
        if all(step.state not in _UNSETTLED for step in steps.values()):
            self._complete_run()
        elif all(step.state not in _ACTIVE for step in steps.values()):
            self._wait()
        # The worker that settles goes on with one of them itself.
        for _ in range(readied - 1):
            doorbell.ring(self._context.run_id)

    @staticmethod
    def _unlocked(steps: Mapping[str, Step]) -> Iterator[Step]:
        """Blocked steps all of whose predecessors have settled."""
        for step in steps.values():
            if step.state == Step.State.BLOCKED and all(
                steps[name].state not in _UNSETTLED for name in step.depends_on
            ):
                yield step

    def _is_wanted(self, step: Step, steps: Mapping[str, Step]) -> bool:
        spec: StepSpec | None = self._specs.get(step.name)
        if spec is None or spec.condition is None:
            return True
        done = (other for other in steps.values() if other.state == Step.State.COMPLETED)
        artifacts = {other.name: Artifact(agent=other.agent, body=other.artifact or {}) for other in done}
        return spec.condition(typed(artifacts))

    @staticmethod
    def _ready(step: Step) -> None:
        lifecycle.move_step(step.pk, attempt=step.attempt, source=step.state, to=Step.State.READY)
        step.state = Step.State.READY

    def _skip(self, step: Step) -> None:
        """A step that is not wanted is opened and closed at once, so that whoever watches knows of it."""
        skipped = {"agent": step.agent, "status": "skipped", "summary": "Not needed.", "confidence": None}
        facts = [(Fact("step_started", {"agent": step.agent}), step.name, 0)]
        facts.append((Fact("step_completed", skipped), step.name, 0))
        journal.append_to_run(thread=self._context.thread_id, run=self._context.run_id, facts=facts)
        now, source = timezone.now(), step.state
        lifecycle.move_step(step.pk, attempt=step.attempt, source=source, to=Step.State.SKIPPED, finished_at=now)
        step.state = Step.State.SKIPPED

    # --- The run -----------------------------------------------------------------------------------------------------

    def _pause(self) -> None:
        """If nobody works on the run any more, it waits: its owner's place is free, its thread's line is kept."""
        if not Step.objects.filter(run_id=self._context.run_id, state__in=_ACTIVE).exists():
            self._wait()

    def _wait(self) -> None:
        lifecycle.move_run(self._context.run_id, source=Run.State.RUNNING, to=Run.State.WAITING)
        User.objects.filter(pk=self._context.principal.user_id).update(runnable=True)

    def _complete_run(self) -> None:
        run = self._context.run_id
        message, _ = Message.objects.get_or_create(
            run_id=run, role=Message.Role.ASSISTANT, defaults={"thread_id": self._context.thread_id}
        )
        usage = ledger.usage_of_run(run)
        said = {"message": message.pk, "report": message.report, "text": message.text, "usage": usage}
        end_run(
            run=run,
            thread=self._context.thread_id,
            user=self._context.principal.user_id,
            source=Run.State.RUNNING,
            to=Run.State.COMPLETED,
            terminal=Fact("agent_completed", said),
            usage=usage,
        )


class HandOverInvalid(NetraError):
    """What a step handed over is not what its agent promised; a bug, or a release that changed its mind."""

    code = "artifact.invalid"
    status = 500


def typed(artifacts: Mapping[str, Artifact]) -> dict[str, BaseModel]:
    """Stored artifacts, checked against the types that their agents promise.

    Raises:
        HandOverInvalid: one does not fit.
    """
    checked = {}
    for name, artifact in artifacts.items():
        promised = agents.get(artifact.agent).artifact
        try:
            checked[name] = promised.model_validate(artifact.body)
        except ValueError as error:
            raise HandOverInvalid(f"{name} handed over no {promised.__name__}.") from error
    return checked


# --- The end of a run, by whoever brings it about; the caller has a transaction open ---------------------------------


def fail_run(*, run: UUID, thread: UUID, user: UUID, failure: Failed, source: str = Run.State.RUNNING) -> None:
    """End a run with one `agent_error`; as `end_run`.

    Raises:
        Fenced: it is not the live run of its thread.
    """
    said = {
        "code": failure.code,
        "detail": failure.detail,
        "retryable": failure.retryable,
        "suggestions": list(failure.suggestions),
        "support_id": failure.support_id,
    }
    end_run(
        run=run,
        thread=thread,
        user=user,
        source=source,
        to=Run.State.FAILED,
        terminal=Fact("agent_error", said),
        usage=ledger.usage_of_run(run),
        error_code=failure.code,
        error_detail=failure.detail,
        support_id=failure.support_id,
    )


def end_run(*, run: UUID, thread: UUID, user: UUID, source: str, to: str, terminal: Fact, **fields: object) -> None:
    """Close whatever the run opened, say how it ended, and let its owner's next run start.

    The caller holds the thread's lock.

    Raises:
        Fenced: it is not the live run of its thread, or not in the state `source`.
    """
    now = timezone.now()
    entries: Sequence[Fact | Entry] = [*_open_pairs(run, now), terminal]
    journal.append_to_run(thread=thread, run=run, facts=entries)
    if not lifecycle.move_run(run, source=source, to=to, finished_at=now, **fields):
        raise Fenced(f"Run {run} has ended already.")
    # A step being claimed at this moment is passed over: its claim waits for the thread and then finds itself fenced.
    claims.bury(run)
    User.objects.filter(pk=user).update(runnable=True)


def _open_pairs(run_id: UUID, now: datetime) -> list[Entry]:
    """The facts that close whatever a run opened; the caller holds the thread's lock and appends them.

    Rows of running steps are left alone: they belong to their workers, whose next write finds itself fenced.
    """
    entries: list[Entry] = []
    for step in Step.objects.filter(run_id=run_id, attempt__gt=0, state__in=_UNSETTLED):
        stopped = {"agent": step.agent, "status": "cancelled", "summary": "Stopped.", "confidence": None}
        facts = [*close_calls(run_id, step.name, now), Fact("step_completed", stopped)]
        entries += [(fact, step.name, step.attempt) for fact in facts]
    return entries


def close_calls(run_id: UUID, step: str, now: datetime) -> list[Fact]:
    """Close the calls of a step that nobody will finish, and answer their closing facts."""
    facts = []
    for call in ToolCall.objects.filter(run_id=run_id, step=step, finished_at=None).order_by("id"):
        begun = call.state != ToolCall.State.INTENDED
        harmless = call.effect == Effect.PURE or not begun
        status = ToolCall.State.FAILED if harmless else ToolCall.State.UNKNOWN
        ToolCall.objects.filter(pk=call.pk).update(state=status, error_code="tool.cut_off", finished_at=now)
        if begun or call.place == Place.WORKER:  # else it still waited for leave, and nothing was said of it
            facts.append(closing(call, status=status, summary="Cut off before it answered.", now=now))
    return facts
