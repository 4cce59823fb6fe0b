"""What a person does with runs: start one by sending a message, answer what one asks, stop one."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from uuid6 import uuid7

from apps.accounts.models import Membership, User
from apps.accounts.tenancy import Principal
from apps.conversations import journal, lifecycle
from apps.conversations.journal import Fact, Fenced
from apps.conversations.models import Message, Question, Run, Thread
from apps.conversations.services import get_run, get_thread
from apps.errors import Forbidden, Invalid, NetraError
from apps.execution import doorbell, orchestrator, questions
from apps.execution.registry import Workflow, workflows
from apps.realtime.schema import TEXT_LIMIT

TITLE_LENGTH = 80  # characters of the first message that name a thread


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


@dataclass(frozen=True, kw_only=True)
class Started:
    """What a sent message became."""

    message: UUID
    run: UUID


def start_run(
    *, principal: Principal, thread_id: UUID, text: str, key: str | None = None, dataset: UUID | None = None
) -> Started:
    """Store the message, the run that will answer it and its first events in one transaction, then ring.

    The same `key` with the same request answers what the first call answered. While the thread's run waits for data,
    the message is the answer to that.

    Raises:
        ThreadNotFound, Forbidden, Invalid: the request cannot be made.
        RunWaiting: the thread's run waits for somebody's leave; that comes first.
        IdempotencyMismatch: the key belongs to another request.
    """
    if not principal.may(Membership.Role.MEMBER):
        raise Forbidden("Viewers cannot ask; an owner can give you the member role.")
    if not text.replace("\x00", "").strip() or len(text) > TEXT_LIMIT:
        raise Invalid(f"text: write between 1 and {TEXT_LIMIT} characters.")
    thread = get_thread(principal=principal, thread_id=thread_id)
    workflow = workflows.get(settings.DEFAULT_WORKFLOW)
    workflow.admit(principal, dataset)
    run_id, key = uuid7(), key or uuid7().hex
    digest = _digest(thread_id, text, dataset)
    if (taken := _as_answer(principal, thread, text, dataset, key)) is not None:
        return taken
    try:
        with transaction.atomic():
            if _insert_run(run_id, thread, workflow, text, key=key, digest=digest, dataset=dataset):
                return _begin(run_id, thread, text)
    except (Fenced, IntegrityError):
        # Deleted since it was looked up; where it still is, the error is another one.
        get_thread(principal=principal, thread_id=thread_id)
        raise
    # A second statement sees the winner, which the first could not.
    return _earlier(principal, key, digest)


def _digest(thread_id: UUID, text: str, dataset: UUID | None) -> str:
    return hashlib.sha256(json.dumps([str(thread_id), text, str(dataset)]).encode()).hexdigest()


def _insert_run(
    run_id: UUID, thread: Thread, workflow: Workflow, text: str, *, key: str, digest: str, dataset: UUID | None
) -> bool:
    """Whether this call is the one that the key belongs to."""
    with connection.cursor() as cursor:
        cursor.execute(
            """insert into conversations_run (id, thread_id, organization_id, user_id, state, workflow, goal, dataset,
                key, request_digest, queued_seq, created_at, usage, error_code, error_detail, support_id,
                flags)
            values (%s, %s, %s, %s, 'queued', %s, %s, %s, %s, %s, 0, clock_timestamp(), '{}', '', '', '', '{}')
            on conflict (user_id, key) do nothing returning id""",
            [
                run_id,
                thread.pk,
                thread.organization_id,
                thread.user_id,
                workflow.name,
                text.replace("\x00", ""),
                dataset,
                key,
                digest,
            ],
        )
        return cursor.fetchone() is not None


def _begin(run_id: UUID, thread: Thread, text: str) -> Started:
    text = text.replace("\x00", "")
    message = Message.objects.create(thread=thread, run_id=run_id, role=Message.Role.USER, text=text)
    position = Run.objects.filter(user_id=thread.user_id, state=Run.State.QUEUED).count()
    events = journal.append_to_thread(
        thread=thread.pk,
        run=run_id,
        facts=[
            Fact("message_created", {"message": message.pk, "role": "user", "text": text}),
            Fact("run_queued", {"position": position}),
        ],
    )
    Run.objects.filter(pk=run_id).update(queued_seq=events[-1]["seq"])
    Thread.objects.filter(pk=thread.pk, title="").update(title=" ".join(text.split())[:TITLE_LENGTH])
    User.objects.filter(pk=thread.user_id).update(runnable=True)
    doorbell.ring(run_id)
    return Started(message=message.pk, run=run_id)


def _earlier(principal: Principal, key: str, digest: str) -> Started:
    run = Run.objects.get(user_id=principal.user_id, key=key)
    if run.request_digest != digest:
        raise _mismatch()
    message = run.messages.filter(role=Message.Role.USER).earliest("id")
    return Started(message=message.pk, run=run.pk)


def _mismatch() -> IdempotencyMismatch:
    return IdempotencyMismatch("This idempotency key was used for another message; use a new one.")


def _as_answer(principal: Principal, thread: Thread, text: str, dataset: UUID | None, key: str) -> Started | None:
    """The waiting run that takes the message as its answer; None where no run of the thread waits."""
    earlier = Message.objects.filter(thread=thread, key=key).first()
    if earlier is not None:
        if earlier.text != text.replace("\x00", ""):
            raise _mismatch()
        return Started(message=earlier.pk, run=earlier.run_id)
    if not Run.objects.filter(thread=thread, state=Run.State.WAITING).exists():
        return None
    with transaction.atomic():
        journal.lock_thread(thread.pk)
        run = Run.objects.filter(thread=thread, state=Run.State.WAITING).first()
        if run is None:
            return None
        return _answer_in_words(principal, run, text.replace("\x00", ""), dataset, key)


def _answer_in_words(principal: Principal, run: Run, text: str, dataset: UUID | None, key: str) -> Started:
    asked = questions.open_questions(run)
    wanted = next((question for question in asked if question.reason == Question.Reason.DATA), None)
    if wanted is None:
        raise RunWaiting("The answer being made waits for your leave to go on; give or refuse it first.")
    message = Message.objects.create(thread_id=run.thread_id, run=run, role=Message.Role.USER, text=text, key=key)
    said = Fact("message_created", {"message": message.pk, "role": "user", "text": text})
    journal.append_to_run(thread=run.thread_id, run=run.pk, facts=[said])
    value = {"text": text, "dataset": str(dataset) if dataset else None}
    questions.answer(run, by=principal.user_id, call=wanted.call, value=value)
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
        questions.answer(run, by=principal.user_id, call=call, value=value)
    return get_run(principal=principal, run_id=run_id)


def cancel_run(*, principal: Principal, run_id: UUID) -> Run:
    """End a run now; whatever its workers still write finds itself fenced off.

    Raises:
        RunNotFound: it is not theirs.
        RunFinished: it has ended already.
    """
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
        orchestrator.end_run(
            run=run.pk,
            thread=run.thread_id,
            user=run.user_id,
            source=run.state,
            to=Run.State.CANCELLED,
            terminal=terminal,
        )
