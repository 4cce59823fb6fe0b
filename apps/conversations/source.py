"""The journal as the post office sees it."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import connection

from apps.accounts.tenancy import Principal
from apps.conversations import journal
from apps.errors import NotFound
from apps.statements import fetch

_LAST_SEQ = """
select last_seq from conversations_thread
where id = %(thread)s and user_id = %(user)s and organization_id = %(organization)s
"""
_POSITIONS = "select id, last_seq from conversations_thread where id = any(%(threads)s)"


class ThreadNotFound(NotFound):
    """The thread does not exist, or is somebody else's."""

    code = "thread.not_found"


class JournalSource:
    """`realtime.source.EventSource` over the tables of this app."""

    def authorize(self, principal: Principal, thread: UUID) -> int:
        wanted = {"thread": thread, "user": principal.user_id, "organization": principal.organization_id}
        found = fetch(_LAST_SEQ, wanted)
        if not found:
            raise ThreadNotFound(f"There is no thread {thread}.")
        last_seq: int = found[0][0]
        return last_seq

    def read(self, thread: UUID, after: int, limit: int) -> Sequence[Mapping[str, Any]]:
        return journal.read(thread=thread, after=after, limit=limit)

    def positions(self, threads: Sequence[UUID]) -> Mapping[UUID, int]:
        return dict(fetch(_POSITIONS, {"threads": list(threads)}))

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
