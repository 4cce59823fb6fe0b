"""The journal as the post office sees it."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import connection

from apps.accounts.tenancy import Principal
from apps.conversations import journal
from apps.conversations.models import Thread
from apps.errors import NotFound


class ThreadNotFound(NotFound):
    """The thread does not exist, or is somebody else's."""

    code = "thread.not_found"


class JournalSource:
    """`realtime.source.EventSource` over the tables of this app."""

    def authorize(self, principal: Principal, thread: UUID) -> int:
        last_seq: int | None = (
            Thread.objects.for_creator(principal).filter(pk=thread).values_list("last_seq", flat=True).first()
        )
        if last_seq is None:
            raise ThreadNotFound(f"There is no thread {thread}.")
        return last_seq

    def read(self, thread: UUID, after: int, limit: int) -> Sequence[Mapping[str, Any]]:
        return journal.read(thread=thread, after=after, limit=limit)

    def positions(self, threads: Sequence[UUID]) -> Mapping[UUID, int]:
        return dict(Thread.objects.filter(pk__in=threads).values_list("pk", "last_seq"))

    def live(self, thread: UUID) -> Mapping[str, Any] | None:
        with connection.cursor() as cursor:
            cursor.execute(
                """select message.id, message.run_id, message.attempt, message.text
                from conversations_thread thread join conversations_message message on message.run_id = thread.live_run
                where thread.id = %s and message.role = 'assistant' and message.text <> ''""",
                [thread],
            )
            row = cursor.fetchone()
        if row is None:
            return None
        message, run, attempt, text = row
        return delta(thread=thread, run=run, attempt=attempt, message=message, offset=0, text=text)


def delta(*, thread: UUID, run: UUID, attempt: int, message: UUID, offset: int, text: str) -> dict[str, Any]:
    """The frame of live text: `text` belongs at character `offset` of `message`; it has no number and is not stored."""
    return {
        "type": "message_delta",
        "thread": str(thread),
        "run": str(run),
        "attempt": attempt,
        "data": {"message": str(message), "offset": offset, "text": text},
    }
