"""What follows when a step has settled: the next steps, or the end of the run. Each settling is one transaction."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from apps.accounts.models import User
from apps.conversations import journal, lifecycle
from apps.conversations.journal import Fact, Fenced
from apps.conversations.models import Message, Run, Step, ToolCall
from apps.execution import claims, doorbell
from apps.execution.context import UserExecutionContext
from apps.execution.dispatcher import closing
from apps.execution.registry import Completed, Effect, Failed, Outcome
from apps.llm import ledger

Entry = tuple[Fact, str, int]  # a fact of a step, with the step's name and attempt


def settle(context: UserExecutionContext, outcome: Outcome) -> None:
    """Write down how a step ended, and ready what waited for it or end the run.

    Raises:
        Fenced: the step is not held any more; nothing was written.
    """
    with transaction.atomic():
        # Step, thread, then the rest: in any other order a settling step and a cancelled run wait for each other.
        journal.hold(context.fence)
        if isinstance(outcome, Completed):
            _complete_step(context, outcome)
        else:
            _fail_run(context, outcome)


def _complete_step(context: UserExecutionContext, outcome: Completed) -> None:
    artifact = outcome.artifact.model_dump(mode="json")
    _close_step(
        context, Step.State.COMPLETED, summary=outcome.summary, confidence=outcome.confidence, artifact=artifact
    )
    if outcome.answer is not None:
        Message.objects.filter(run_id=context.run_id, role=Message.Role.ASSISTANT).update(
            text=outcome.answer.text, report=outcome.answer.report
        )
    # Under the thread's lock, so that of two steps settling at once the second sees the first as settled.
    steps = list(Step.objects.filter(run_id=context.run_id))
    if all(step.state == Step.State.COMPLETED for step in steps):
        _complete_run(context)
    else:
        _ready_successors(context.run_id, steps)


def _close_step(
    context: UserExecutionContext, state: str, *, summary: str, confidence: float | None = None, **fields: object
) -> None:
    """Close what the step opened, the step last, and move its row."""
    now = timezone.now()
    said = {"agent": context.agent, "status": str(state), "summary": summary, "confidence": confidence}
    journal.append(context.fence, *_close_calls(context.run_id, context.step, now), Fact("step_completed", said))
    changes = fields | {"summary": summary, "confidence": confidence, "finished_at": now}
    source = Step.State.RUNNING
    if not lifecycle.move_step(context.step_id, attempt=context.attempt, source=source, to=state, **changes):
        raise Fenced(f"Step {context.step} of run {context.run_id} is not ours any more.")


def _ready_successors(run_id: UUID, steps: list[Step]) -> None:
    completed = {step.name for step in steps if step.state == Step.State.COMPLETED}
    unlocked = [step for step in steps if step.state == Step.State.BLOCKED and completed.issuperset(step.depends_on)]
    for step in unlocked:
        lifecycle.move_step(step.pk, attempt=step.attempt, source=Step.State.BLOCKED, to=Step.State.READY)
    # The worker that settles goes on with one of them itself.
    for _ in unlocked[1:]:
        doorbell.ring(run_id)


def _complete_run(context: UserExecutionContext) -> None:
    message, _ = Message.objects.get_or_create(
        run_id=context.run_id, role=Message.Role.ASSISTANT, defaults={"thread_id": context.thread_id}
    )
    usage = ledger.usage_of_run(context.run_id)
    end = Fact(
        "agent_completed",
        {"message": message.pk, "report": message.report, "text": message.text, "usage": usage},
    )
    _end_run(context, Run.State.COMPLETED, end, usage=usage)


def _fail_run(context: UserExecutionContext, outcome: Failed) -> None:
    _close_step(context, Step.State.FAILED, summary=outcome.detail)
    others = close_open_pairs(context.run_id, timezone.now())
    if others:
        journal.append_to_run(thread=context.thread_id, run=context.run_id, facts=others)
    error = {
        "code": outcome.code,
        "detail": outcome.detail,
        "retryable": outcome.retryable,
        "suggestions": list(outcome.suggestions),
        "support_id": outcome.support_id,
    }
    _end_run(
        context,
        Run.State.FAILED,
        Fact("agent_error", error),
        usage=ledger.usage_of_run(context.run_id),
        error_code=outcome.code,
        error_detail=outcome.detail,
        support_id=outcome.support_id,
    )


def _end_run(context: UserExecutionContext, state: str, terminal: Fact, **fields: object) -> None:
    journal.append_to_run(thread=context.thread_id, run=context.run_id, facts=[terminal])
    lifecycle.move_run(context.run_id, source=Run.State.RUNNING, to=state, finished_at=timezone.now(), **fields)
    release_user(context.run_id, context.principal.user_id)


def release_user(run_id: UUID, user_id: UUID) -> None:
    """After a run has ended: skip its untouched steps, and let admission look at the user again."""
    # A step being claimed at this moment is passed over: its claim waits for the thread and then finds itself fenced.
    claims.bury(run_id)
    User.objects.filter(pk=user_id).update(runnable=True)
    # Whoever comes for the ended run admits the next one.
    doorbell.ring(run_id)


def close_open_pairs(run_id: UUID, now: datetime) -> list[Entry]:
    """The facts that close whatever a run opened; the caller holds the thread's lock and appends them.

    Rows of running steps are left alone: they belong to their workers, whose next write finds itself fenced.
    """
    entries: list[Entry] = []
    for step in Step.objects.filter(run_id=run_id, attempt__gt=0).exclude(
        state__in=[Step.State.COMPLETED, Step.State.FAILED, Step.State.SKIPPED]
    ):
        calls = _close_calls(run_id, step.name, now)
        stopped = {"agent": step.agent, "status": "cancelled", "summary": "Stopped.", "confidence": None}
        entries += [(fact, step.name, step.attempt) for fact in (*calls, Fact("step_completed", stopped))]
    return entries


def _close_calls(run_id: UUID, step: str, now: datetime) -> Iterable[Fact]:
    """Close the calls of a step that nobody will finish, and answer their closing facts."""
    facts = []
    for call in ToolCall.objects.filter(run_id=run_id, step=step, state=ToolCall.State.STARTED):
        status = ToolCall.State.FAILED if call.effect == Effect.PURE else ToolCall.State.UNKNOWN
        facts.append(closing(call, status=status, summary="Cut off before it answered.", now=now))
        ToolCall.objects.filter(pk=call.pk).update(state=status, error_code="tool.cut_off", finished_at=now)
    return facts
