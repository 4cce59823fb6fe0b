"""The end of a run, by whoever brings it about: its last worker, its owner, or the sweep that found it expired."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.utils import timezone

from apps.conversations import journal, lifecycle
from apps.conversations.journal import Entry, Fact, Fenced
from apps.conversations.models import Question, Run, Step, ToolCall
from apps.execution import claims, releases
from apps.execution.calls import closing
from apps.execution.registry import Effect, Failed
from apps.llm import ledger
from apps.statements import change, fetch

UNSETTLED = frozenset({Step.State.BLOCKED, Step.State.READY, Step.State.RUNNING, Step.State.WAITING})

_HOLD_USER = "select id from accounts_user where id = %(user)s for no key update"
_LET_NEXT_START = """
update accounts_user set runnable = true where id = %(user)s and exists (
    select from conversations_run run where run.user_id = %(user)s and run.state = 'queued')
"""


def let_next_start(user: UUID) -> None:
    """Have admission look at the user again: a place of theirs may be free.

    Whoever queues a run and whoever admits one changes the user's row, so that after the lock nothing is overlooked.
    """
    fetch(_HOLD_USER, {"user": user})
    change(_LET_NEXT_START, {"user": user})


def withdraw_questions(run: UUID, step: str) -> None:
    """Ask nobody any more what a step that is over wanted to know."""
    Question.objects.filter(run_id=run, step=step, answered_at=None).delete()


def workflow_of(run: UUID) -> str:
    """The workflow that the run has now; a release may have fallen back to another one."""
    return Run.objects.values_list("workflow", flat=True).get(pk=run)


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
    ledger.close_run(run)
    if to == Run.State.FAILED:
        releases.record_outcomes(run_id=run, user_id=user, workflow=workflow_of(run), succeeded=False)
    # A step being claimed at this moment is passed over: its claim waits for the thread and then finds itself fenced.
    claims.bury(run)
    let_next_start(user)


def _open_pairs(run_id: UUID, now: datetime) -> list[Entry]:
    """The facts that close whatever a run opened; the caller holds the thread's lock and appends them.

    Rows of running steps are left alone: they belong to their workers, whose next write finds itself fenced.
    """
    entries: list[Entry] = []
    for step in Step.objects.filter(run_id=run_id, attempt__gt=0, state__in=UNSETTLED):
        stopped = {"agent": step.agent, "status": "cancelled", "summary": "Stopped.", "confidence": None}
        facts = [*close_calls(run_id, step.name, now), Fact("step_completed", stopped)]
        entries += [(fact, step.name, step.attempt) for fact in facts]
    return entries


def close_calls(run_id: UUID, step: str, now: datetime) -> list[Fact]:
    """Close the calls of a step that nobody will finish, and answer their closing facts."""
    facts = []
    # Locked, so that a tool worker begins none of them in between.
    open_calls = ToolCall.objects.select_for_update(no_key=True).filter(run_id=run_id, step=step, finished_at=None)
    for call in open_calls.order_by("id"):
        harmless = call.effect == Effect.PURE or call.started_at is None
        status = ToolCall.State.FAILED if harmless else ToolCall.State.UNKNOWN
        closed = {"state": status, "error_code": "tool.cut_off", "finished_at": now, "payload": None}
        ToolCall.objects.filter(pk=call.pk).update(**closed)
        facts.append(closing(call, status=status, summary="Cut off before it answered.", now=now))
    return facts
