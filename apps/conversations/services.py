"""What a person does with threads; every query is narrowed to its creator."""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from uuid6 import uuid7

from apps.accounts.models import Membership
from apps.accounts.tenancy import Principal
from apps.conversations.lifecycle import UNFINISHED
from apps.conversations.models import Event, Message, Run, Step, Thread
from apps.conversations.source import ThreadNotFound
from apps.errors import Forbidden, NetraError, NotFound
from apps.llm import ledger
from apps.statements import fetch, loaded

_COLUMNS = [field.attname for field in Thread._meta.concrete_fields]
_CREATE = f"""
insert into conversations_thread (id, organization_id, user_id, title, created_at, updated_at)
values (%(id)s, %(organization_id)s, %(user_id)s, %(title)s, statement_timestamp(), statement_timestamp())
returning {", ".join(_COLUMNS)}
"""  # noqa: S608  # fixed parts only


class RunNotFound(NotFound):
    """The run does not exist, or is somebody else's."""

    code = "run.not_found"


class ThreadBusy(NetraError):
    """A run of the thread is unfinished."""

    code = "thread.busy"
    status = 409
    retryable = True


def create_thread(*, principal: Principal, title: str = "") -> Thread:
    """A new, empty thread of the principal.

    Raises:
        Forbidden: the principal may only look.
    """
    if not principal.may(Membership.Role.MEMBER):
        raise Forbidden("Viewers cannot start conversations; ask an owner for the member role.")
    owner = {"organization_id": principal.organization_id, "user_id": principal.user_id}
    row = fetch(_CREATE, {**owner, "id": uuid7(), "title": title.strip()})[0]
    return loaded(Thread, dict(zip(_COLUMNS, row, strict=True)))


def threads(*, principal: Principal, archived: bool = False) -> QuerySet[Thread]:
    """The principal's threads, most recently used first."""
    return Thread.objects.for_creator(principal).filter(archived_at__isnull=not archived).order_by("-updated_at")


def get_thread(*, principal: Principal, thread_id: UUID) -> Thread:
    """One thread of the principal.

    Raises:
        ThreadNotFound: it is not theirs, or does not exist.
    """
    thread: Thread | None = Thread.objects.for_creator(principal).filter(pk=thread_id).first()
    if thread is None:
        raise thread_not_found(thread_id)
    return thread


def thread_not_found(thread_id: UUID) -> ThreadNotFound:
    """The same words whether it is somebody else's or does not exist."""
    return ThreadNotFound(f"There is no thread {thread_id}.")


def change_thread(
    *, principal: Principal, thread_id: UUID, title: str | None = None, archived: bool | None = None
) -> Thread:
    """Rename, archive or bring back a thread.

    Raises:
        ThreadNotFound: see `get_thread`.
    """
    changes: dict[str, Any] = {}
    if title is not None:
        changes["title"] = title.strip()
    if archived is not None:
        changes["archived_at"] = timezone.now() if archived else None
    thread = get_thread(principal=principal, thread_id=thread_id)
    # Only the named columns: the counter beside them belongs to the journal.
    Thread.objects.filter(pk=thread.pk).update(**changes)
    return get_thread(principal=principal, thread_id=thread_id)


def delete_thread(*, principal: Principal, thread_id: UUID) -> None:
    """Delete a thread with its messages, runs and events.

    Raises:
        ThreadNotFound: see `get_thread`.
        ThreadBusy: a run of it is unfinished; cancel that first.
    """
    thread = get_thread(principal=principal, thread_id=thread_id)
    with transaction.atomic():
        # First the steps that somebody may hold or take, as their workers do; then the thread, at once as strongly as
        # deleting it needs.
        held = Step.objects.filter(run__thread=thread, state__in=[Step.State.READY, Step.State.RUNNING]).order_by("pk")
        list(held.select_for_update(no_key=True, of=["self"]).values_list("pk"))
        if not Thread.objects.select_for_update().filter(pk=thread.pk).exists():
            raise thread_not_found(thread.pk)
        if thread.runs.filter(state__in=UNFINISHED).exists():
            raise ThreadBusy("An answer is being made in this thread; stop it first.")
        Event.objects.filter(thread_id=thread.pk).delete()
        ledger.forget(thread.runs.values_list("pk", flat=True))
        thread.delete()


def messages(*, principal: Principal, thread_id: UUID) -> QuerySet[Message]:
    """What was said in a thread, in order.

    Raises:
        ThreadNotFound: see `get_thread`.
    """
    return get_thread(principal=principal, thread_id=thread_id).messages.order_by("id")


def get_message(*, principal: Principal, message_id: UUID) -> Message:
    """One message of the principal's threads.

    Raises:
        NotFound: it is in nobody's or somebody else's thread.
    """
    mine = Thread.objects.for_creator(principal)
    message = Message.objects.filter(pk=message_id, thread__in=mine).first()
    if message is None:
        raise NotFound(f"There is no message {message_id}.")
    return message


def runs(*, principal: Principal) -> QuerySet[Run]:
    """The principal's runs, newest first."""
    return Run.objects.for_creator(principal).select_related("thread").order_by("-id")


def get_run(*, principal: Principal, run_id: UUID) -> Run:
    """One run of the principal.

    Raises:
        RunNotFound: it is not theirs, or does not exist.
    """
    run: Run | None = Run.objects.for_creator(principal).filter(pk=run_id).first()
    if run is None:
        raise RunNotFound(f"There is no run {run_id}.")
    return run


def latest_dataset(*, thread_id: UUID) -> UUID | None:
    """The dataset that a question of the thread named last; for callers that hold the thread already."""
    named = Run.objects.filter(thread_id=thread_id, dataset__isnull=False).order_by("-id")
    return named.values_list("dataset", flat=True).first()
