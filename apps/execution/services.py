"""What a person does with runs: start one by sending a message, answer what one asks, stop one."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from uuid6 import uuid7

from apps.accounts.models import Membership, User
from apps.accounts.tenancy import Principal
from apps.conversations import journal, lifecycle
from apps.conversations.journal import Fact, Fenced
from apps.conversations.models import Message, Question, Run
from apps.conversations.services import get_run, thread_not_found
from apps.errors import Forbidden, Invalid, NetraError
from apps.execution import doorbell, endings, questions, releases
from apps.execution.registry import Workflow, workflows
from apps.operations.database import storable
from apps.realtime.schema import TEXT_LIMIT
from apps.statements import change, fetch

SOON = 30.0  # seconds, after which one of many queued runs is likely to have started
TITLE_LENGTH = 80  # characters of the first message that name a thread


_LOOK = """
select case when exists (select from conversations_question question
                         where question.run_id = thread.live_run and question.answered_at is null)
            then thread.live_run end,
    taken.id, taken.run_id, taken.text,
    exists (select from conversations_run opened where opened.id = taken.run_id and opened.key = taken.key)
from conversations_thread thread
left join conversations_message taken on taken.thread_id = thread.id and taken.key = %(key)s
where thread.id = %(thread)s and thread.user_id = %(user)s and thread.organization_id = %(organization)s
"""
_QUEUE = """
insert into conversations_run (id, thread_id, organization_id, user_id, state, workflow, goal, dataset, key,
    request_digest, queued_seq, created_at, usage, error_code, error_detail, support_id)
values (%(run)s, %(thread)s, %(organization)s, %(user)s, 'queued', %(workflow)s, %(goal)s, %(dataset)s, %(key)s,
    %(digest)s, 0, clock_timestamp(), '{}', '', '', '')
on conflict (user_id, key) do nothing
returning (select 1 + count(*) from conversations_run where user_id = %(user)s and state = 'queued'),
    (select max_queued_runs from accounts_plan where code = %(plan)s)
"""
_FILE = """
with message as (
    insert into conversations_message (id, thread_id, run_id, role, text, attempt, key, created_at)
    values (%(message)s, %(thread)s, %(run)s, 'user', %(text)s, 1, %(key)s, clock_timestamp())
), thread as (
    update conversations_thread set title = %(title)s where id = %(thread)s and title = ''
), owner as (
    update accounts_user set runnable = true where id = %(user)s
)
update conversations_run set queued_seq = %(seq)s where id = %(run)s
"""


class IdempotencyMismatch(NetraError):
    """The key was used before, for something else."""

    code = "idempotency.mismatch"
    status = 409


class RunFinished(NetraError):
    """The run has ended already."""

    code = "run.finished"
    status = 409


class RunWaiting(NetraError):
    """The thread's run waits for a decision, and a message is none."""

    code = "run.waiting"
    status = 409


class TooManyQueued(NetraError):
    """As many runs of the user wait for a place as their plan allows."""

    code = "run.too_many_queued"
    status = 429
    retryable = True


@dataclass(frozen=True, kw_only=True)
class Started:
    """What a sent message became."""

    message: UUID
    run: UUID


def start_run(
    *, principal: Principal, thread_id: UUID, text: str, key: str | None = None, dataset: UUID | None = None
) -> Started:
    """Store the message, the run that will answer it and its first events in one transaction, then ring.

    The same `key` with the same request answers what the first call answered. While the thread's run asks for data, the
    message is the answer to that.

    Raises:
        ThreadNotFound, Forbidden, Invalid: the request cannot be made.
        RunWaiting: the thread's run waits for somebody's leave; that comes first.
        IdempotencyMismatch: the key belongs to another request.
        TooManyQueued: other runs have to start or be stopped first. Messages sent at the same moment may pass together.
    """
    if not principal.may(Membership.Role.MEMBER):
        raise Forbidden("Viewers cannot ask; an owner can give you the member role.")
    if not storable(text).strip() or len(text) > TEXT_LIMIT:
        raise Invalid(f"text: write between 1 and {TEXT_LIMIT} characters.")
    workflow = workflows.get(_workflow_for(principal))
    workflow.admit(principal, dataset)
    asked = _Asked(
        principal=principal,
        thread=thread_id,
        text=storable(text),
        dataset=dataset,
        key=key or uuid7().hex,
        digest=_digest(thread_id, text, dataset),
    )
    if (taken := _as_answer(asked)) is not None:
        return taken
    run = uuid7()
    try:
        with transaction.atomic():
            if (position := _insert_run(run, asked, workflow)) is not None:
                return _begin(run, asked, position)
    except (Fenced, IntegrityError):
        # The thread was deleted since it was looked at, or the key became that of an answer.
        if (taken := _as_answer(asked)) is not None:
            return taken
        raise
    # A second statement sees the winner, which the first could not.
    return _earlier(asked)


def _workflow_for(principal: Principal) -> str:
    """The version of the workflow that the principal gets."""
    name = settings.DEFAULT_WORKFLOW
    if name not in {release.old for release in releases.releases}:
        return name
    is_staff = User.objects.filter(pk=principal.user_id, is_staff=True).exists()
    return releases.workflow_for(name, user_id=principal.user_id, is_staff=is_staff)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A message that may be sent, as it was sent."""

    principal: Principal
    thread: UUID
    text: str
    dataset: UUID | None
    key: str
    digest: str


def _digest(thread_id: UUID, text: str, dataset: UUID | None) -> str:
    return hashlib.sha256(json.dumps([str(thread_id), text, str(dataset)]).encode()).hexdigest()


def _insert_run(run: UUID, asked: _Asked, workflow: Workflow) -> int | None:
    """How many runs of the user go first, plus one; None where the key belongs to an earlier call.

    Raises:
        TooManyQueued: too many would go first.
    """
    principal = asked.principal
    row: dict[str, Any] = {
        "run": run,
        "thread": asked.thread,
        "organization": principal.organization_id,
        "user": principal.user_id,
    }
    row |= {"workflow": workflow.name, "goal": asked.text, "dataset": asked.dataset}
    rows = fetch(_QUEUE, {**row, "key": asked.key, "digest": asked.digest, "plan": principal.plan})
    if not rows:
        return None
    position, most = rows[0]
    if position > most:
        raise TooManyQueued(
            f"{most} of your messages wait for an answer to be begun, as many as your plan allows. "
            "Wait for some of them, or stop those that you do not need.",
            retry_after=SOON,
        )
    return int(position)


def _begin(run: UUID, asked: _Asked, position: int) -> Started:
    message = uuid7()
    facts = [
        Fact("message_created", {"message": message, "role": "user", "text": asked.text}),
        Fact("run_queued", {"position": position}),
    ]
    events = journal.append_to_thread(thread=asked.thread, run=run, facts=facts)
    filed = {"run": run, "thread": asked.thread, "user": asked.principal.user_id, "message": message}
    title = " ".join(asked.text.split())[:TITLE_LENGTH]
    change(_FILE, {**filed, "text": asked.text, "key": asked.key, "seq": events[-1]["seq"], "title": title})
    doorbell.ring(run)
    return Started(message=message, run=run)


def _earlier(asked: _Asked) -> Started:
    run = Run.objects.get(user_id=asked.principal.user_id, key=asked.key)
    if run.request_digest != asked.digest:
        raise _mismatch()
    message = run.messages.filter(role=Message.Role.USER).earliest("id")
    return Started(message=message.pk, run=run.pk)


def _mismatch() -> IdempotencyMismatch:
    return IdempotencyMismatch("This idempotency key was used for another message; use a new one.")


@dataclass(frozen=True)
class _Thread:
    """A row of `_LOOK`, in its order: the run that asks something, and whose the key is already."""

    asking: UUID | None
    taken: UUID | None  # the message with that key
    taken_run: UUID | None
    taken_text: str | None
    opened: bool  # by that message: its run, which knows more of it, tells whether it is the same


def _look(asked: _Asked) -> _Thread:
    principal = asked.principal
    owner = {"user": principal.user_id, "organization": principal.organization_id}
    found = fetch(_LOOK, {"thread": asked.thread, "key": asked.key, **owner})
    if not found:
        raise thread_not_found(asked.thread)
    return _Thread(*found[0])


def _as_answer(asked: _Asked) -> Started | None:
    """What the message became as an answer, now or when it was sent before; None where nothing waits for it.

    Raises:
        ThreadNotFound, RunWaiting, IdempotencyMismatch: see `start_run`.
    """
    thread = _look(asked)
    if thread.asking is not None and thread.taken is None:
        with transaction.atomic():
            journal.lock_thread(asked.thread)
            # Whoever was quicker has committed: a rival with the same key, or with another answer.
            thread = _look(asked)
            if thread.asking is not None and thread.taken is None:
                return _answer_in_words(Run.objects.get(pk=thread.asking), asked)
    if thread.taken is None or thread.taken_run is None or thread.opened:
        return None
    if thread.taken_text != asked.text:
        raise _mismatch()
    return Started(message=thread.taken, run=thread.taken_run)


def _answer_in_words(run: Run, asked: _Asked) -> Started | None:
    open_questions = questions.open_questions(run)
    wanted = next((question for question in open_questions if question.reason == Question.Reason.DATA), None)
    if wanted is None:
        if run.state == Run.State.WAITING:
            raise RunWaiting("The answer being made waits for your leave to go on; give or refuse it first.")
        return None
    message = Message.objects.create(
        thread_id=run.thread_id, run=run, role=Message.Role.USER, text=asked.text, key=asked.key
    )
    said = Fact("message_created", {"message": message.pk, "role": "user", "text": asked.text})
    journal.append_to_run(thread=run.thread_id, run=run.pk, facts=[said])
    value = {"text": asked.text, "dataset": str(asked.dataset) if asked.dataset else None}
    questions.answer(run, wanted, by=asked.principal.user_id, value=value)
    return Started(message=message.pk, run=run.pk)


def answer_run(*, principal: Principal, run_id: UUID, call: str | None, value: Any) -> Run:
    """Answer what a waiting run asks; it goes on as soon as its owner has a free place.

    Raises:
        Forbidden: viewers cannot.
        RunNotFound: it is not theirs.
        NotWaiting: it asks nothing, or was answered already.
        Invalid: that is no possible answer.
    """
    if not principal.may(Membership.Role.MEMBER):
        raise Forbidden("Viewers cannot answer; an owner can give you the member role.")
    run = get_run(principal=principal, run_id=run_id)
    with transaction.atomic():
        journal.lock_thread(run.thread_id)
        run.refresh_from_db()
        if run.state not in lifecycle.UNFINISHED:
            raise questions.NotWaiting(f"The run has {run.state} already.")
        questions.answer(run, questions.open_question(run, call), by=principal.user_id, value=value)
    return get_run(principal=principal, run_id=run_id)


def cancel_run(*, principal: Principal, run_id: UUID) -> Run:
    """End a run now; whatever its workers still write finds itself fenced off.

    Raises:
        Forbidden: viewers cannot.
        RunNotFound: it is not theirs.
        RunFinished: it has ended already.
    """
    if not principal.may(Membership.Role.MEMBER):
        raise Forbidden("Viewers cannot stop runs; an owner can give you the member role.")
    run = get_run(principal=principal, run_id=run_id)
    with transaction.atomic():
        # The thread's lock first, so that admission and settling are either done or wait.
        journal.lock_thread(run.thread_id)
        run.refresh_from_db()
        if run.state not in lifecycle.UNFINISHED:
            raise RunFinished(f"The run has {run.state} already.")
        _cancel(run, principal)
        doorbell.ring(run.pk)  # whoever comes admits the next one
    return get_run(principal=principal, run_id=run_id)


def _cancel(run: Run, principal: Principal) -> None:
    terminal = Fact("run_cancelled", {"by": principal.user_id})
    if run.started_at is None:
        # No step of it has ever written, and another run may be the live one.
        journal.append_to_thread(thread=run.thread_id, run=run.pk, facts=[terminal])
        lifecycle.move_run(run.pk, source=run.state, to=Run.State.CANCELLED, finished_at=timezone.now())
        User.objects.filter(pk=run.user_id).update(runnable=True)
    else:
        endings.end_run(
            run=run.pk,
            thread=run.thread_id,
            user=run.user_id,
            source=run.state,
            to=Run.State.CANCELLED,
            terminal=terminal,
        )
