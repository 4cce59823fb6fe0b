"""What a step asks a person: asked once, answered once, or expired."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from apps.accounts.models import User
from apps.conversations import journal, lifecycle
from apps.conversations.journal import Fact
from apps.conversations.models import Question, Run, Step
from apps.errors import Invalid, NetraError
from apps.execution import doorbell
from apps.execution.context import UserExecutionContext
from apps.operations.database import storable

LEAVE_WITHIN = timedelta(hours=24)
DATA_WITHIN = timedelta(days=7)
DEEPEST_ANSWER = 50  # lists and objects within each other

# What may be answered, by the reason of the question; data may be anything.
ANSWERS: Mapping[str, tuple[str, str]] = {
    Question.Reason.UNSAFE: ("approve", "deny"),
    Question.Reason.SIZE: ("approve", "deny"),
    Question.Reason.UNKNOWN_EFFECT: ("retry", "skip"),
}


class NotWaiting(NetraError):
    """Nothing is asked, or it has been answered already."""

    code = "run.not_waiting"
    status = 409


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a person said, and about which effect; `value` is None while they have said nothing."""

    value: Any
    effect_key: str = ""  # empty: about data


def ask_for_leave(
    context: UserExecutionContext, *, call: str, tool: str, arguments: Mapping[str, Any], reason: str, effect_key: str
) -> Answered:
    """The answer to whether a tool call may be made; asks if it was not asked before. `arguments` are shown.

    What was asked before under that name may have been about another effect: compare the keys.

    Raises:
        Fenced: the step is not held any more.
    """
    expires_at = timezone.now() + LEAVE_WITHIN
    said = {"call": call, "tool": tool, "arguments": arguments, "reason": reason, "expires_at": expires_at}
    return _ask(context, call, reason, expires_at, Fact("approval_requested", said), effect_key)


def ask_for_data(context: UserExecutionContext, *, call: str, items: Sequence[Mapping[str, Any]]) -> Answered:
    """As `ask_for_leave`, for data: `items` as in the event `data_requested`."""
    expires_at = timezone.now() + DATA_WITHIN
    asked = Fact("data_requested", {"call": call, "items": list(items), "expires_at": expires_at})
    return _ask(context, call, Question.Reason.DATA, expires_at, asked)


def _ask(
    context: UserExecutionContext, call: str, reason: str, expires_at: Any, asked: Fact, effect_key: str = ""
) -> Answered:
    with transaction.atomic():
        named = {"run_id": context.run_id, "step": context.step, "call": call, "reason": reason}
        earlier = Question.objects.filter(**named).first()
        if earlier is not None:
            return Answered(value=earlier.value, effect_key=earlier.effect_key)
        journal.append(context.fence, asked)
        Question.objects.create(**named, expires_at=expires_at, effect_key=effect_key)
    return Answered(value=None, effect_key=effect_key)


def forget(context: UserExecutionContext, *, call: str, reason: str) -> None:
    """Have the same thing asked anew the next time; the journal keeps what was answered."""
    Question.objects.filter(run_id=context.run_id, step=context.step, call=call, reason=reason).delete()


def answer(run: Run, question: Question, *, by: UUID, value: Any) -> None:
    """Take the answer to what `run` asks and let the step go on.

    The caller has a transaction open, and holds the thread's lock.

    Raises:
        NotWaiting: nothing is asked, or somebody was quicker.
        Invalid: the value is none that can be given; the detail names those that can.
    """
    allowed = ANSWERS.get(question.reason)
    if allowed is not None and value not in allowed:
        raise Invalid(f"value: say {allowed[0]!r} or {allowed[1]!r}.")
    if _is_deeper(value, DEEPEST_ANSWER):
        raise Invalid(f"value: lists and objects may be nested {DEEPEST_ANSWER} deep.")
    kept = storable(value)
    if kept is None:
        # Nor may it become nothing: a step that finds no answer would wait for one that nobody can give any more.
        raise Invalid("value: say something.")
    taken = Question.objects.filter(pk=question.pk, answered_at=None)
    if taken.update(value=kept, answered_by=by, answered_at=timezone.now()) != 1:
        raise NotWaiting("This has been answered already.")
    said = Fact("answer_received", {"by": by, "call": question.call, "value": value if allowed else None})
    journal.append_to_run(thread=run.thread_id, run=run.pk, facts=[said])
    waiting = Step.objects.filter(run_id=run.pk, name=question.step, state=Step.State.WAITING)
    if not waiting.update(state=Step.State.READY, reason="", rung_at=timezone.now()):
        return  # it has not come to rest yet, and finds the answer when it asks again; or it is over
    if lifecycle.move_run(run.pk, source=Run.State.WAITING, to=Run.State.QUEUED, rung_at=timezone.now()) or (
        # Another step of it is postponed; this one need not wait for that.
        Run.objects.filter(pk=run.pk, state=Run.State.QUEUED).update(not_before=None)
    ):
        User.objects.filter(pk=run.user_id).update(runnable=True)
    doorbell.ring(run.pk)


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether more than `levels` lists and objects are nested in each other."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else None
    if inner is None:
        return False
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


def open_questions(run: Run) -> list[Question]:
    """What the run asks and nobody has answered, the oldest first."""
    return list(Question.objects.filter(run_id=run.pk, answered_at=None).order_by("id"))


def open_question(run: Run, call: str | None) -> Question:
    """The oldest open question under `call`; without one, the only open question of the run.

    Raises:
        NotWaiting: there is none.
        Invalid: there are several, and `call` does not say which.
    """
    found = [question for question in open_questions(run) if call in (None, question.call)]
    if not found:
        raise NotWaiting("The run asks nothing of that kind; it may have been answered already.")
    if len(found) > 1 and call is None:
        names = ", ".join(question.call for question in found)
        raise Invalid(f"call: the run asks several things; say which of them is answered: {names}.")
    return found[0]
