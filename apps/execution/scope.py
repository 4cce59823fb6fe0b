"""What an agent holds while it does its step: identity, what earlier steps handed over, tools, and its two voices."""

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from pydantic import BaseModel
from uuid6 import uuid7

from apps.conversations import journal
from apps.conversations.journal import Fact, Fenced
from apps.conversations.source import delta
from apps.execution.context import UserExecutionContext, call_name
from apps.execution.dispatcher import RequestScopedToolDispatcher
from apps.execution.questions import ask_for_data
from apps.execution.registry import Interruption, Waiting
from apps.operations.database import in_database, storable
from apps.realtime import notifier
from apps.statements import fetch

SAVE_EVERY = 0.25  # seconds between two saves of the text being written
TELL_EVERY = 0.05  # seconds between two live frames of it

_SAVE = """
with fence as materialized (
    select run_id from conversations_step
    where run_id = %(run)s and name = %(step)s and attempt = %(attempt)s and state = 'running'
    for no key update
)
insert into conversations_message (id, thread_id, run_id, role, text, attempt, created_at)
select %(message)s, thread.id, fence.run_id, 'assistant', %(text)s, %(attempt)s, clock_timestamp()
from fence join conversations_thread thread on thread.live_run = fence.run_id
on conflict (run_id, role) where role = 'assistant' do update set text = excluded.text, attempt = excluded.attempt
returning id
"""


_ABOUT = """
update conversations_run set dataset = coalesce(dataset, %(dataset)s) where id = %(run)s returning dataset
"""


class LiveAnswer:
    """The answer while it is written: told to the sockets at once, saved often enough for a newcomer to catch up."""

    def __init__(self, context: UserExecutionContext) -> None:
        self._context = context
        self._message: UUID | None = None
        self._text = ""
        self._saved = 0  # characters
        self._told_at = self._saved_at = 0.0

    async def write(self, piece: str) -> None:
        """Add to the answer.

        Raises:
            Fenced: the step is not held any more.
        """
        self._text += piece
        now = time.monotonic()
        if self._message is None or now - self._saved_at >= SAVE_EVERY:
            await self._save()
            self._saved_at = self._told_at = now
        elif now - self._told_at >= TELL_EVERY:
            await in_database(self._tell)
            self._told_at = now

    async def finish(self) -> str:
        """Save what is left and answer the whole text."""
        if self._text:
            await self._save()
        return self._text

    async def _save(self) -> None:
        self._message = await in_database(save_answer, self._context, self._text)
        # From the last saved character on: who read the saved text joins without a hole.
        await in_database(self._tell)
        self._saved = len(self._text)

    def _tell(self) -> None:
        if self._message is None:
            return
        frame = delta(
            thread=self._context.thread_id,
            run=self._context.run_id,
            attempt=self._context.attempt,
            message=self._message,
            offset=self._saved,
            text=self._text[self._saved :],
        )
        notifier.publish_delta(thread_id=self._context.thread_id, frame=frame)


def save_answer(context: UserExecutionContext, text: str) -> UUID:
    """Store the run's answer as far as it is written, under the step's fence, and answer the message's id.

    Raises:
        Fenced: the step is not held any more.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _SAVE,
            {
                "run": context.run_id,
                "step": context.step,
                "attempt": context.attempt,
                "message": uuid7(),
                "text": storable(text),
            },
        )
        row = cursor.fetchone()
    if row is None:
        raise Fenced(f"Run {context.run_id} is not ours any more.")
    return UUID(str(row[0]))


def be_about(context: UserExecutionContext, dataset: UUID) -> UUID:
    """Fix what the run is about, unless that is fixed already, and answer what it is: whatever is uploaded meanwhile,
    a later attempt works on the same.

    Raises:
        Fenced: the step is not held any more.
    """
    with transaction.atomic():
        journal.hold(context.fence)
        [(fixed,)] = fetch(_ABOUT, {"run": context.run_id, "dataset": dataset})
    return UUID(str(fixed))


class StepScope:
    """Handed to an agent's `run`; everything it may know and do."""

    def __init__(
        self,
        context: UserExecutionContext,
        inputs: Mapping[str, BaseModel],
        tools: RequestScopedToolDispatcher,
    ) -> None:
        self.context = context
        self.inputs = inputs  # artifacts of the steps this one depends on, directly or not, by step name
        self.tools = tools
        self.answer = LiveAnswer(context)

    async def ask_for_data(self, *items: Mapping[str, Any], call: str = "data") -> Any:
        """What a person answered when asked for `items` (as in the event `data_requested`).

        As long as they have not, the step waits, and starts over with the answer; `call` tells several questions of a
        step apart.

        Raises:
            Interruption: the step waits now; let it through.
            Fenced: the step is not held any more.
        """
        call = call_name(call)
        answered = await in_database(ask_for_data, self.context, call=call, items=items)
        if answered.value is None:
            raise Interruption(Waiting(call=call))
        return answered.value

    async def think(self, thought: str, *, progress: int) -> None:
        """Say what is being considered; `progress` is 0-100 within the step.

        Raises:
            Fenced: the step is not held any more.
        """
        await in_database(
            journal.append, self.context.fence, Fact("agent_thinking", {"thought": thought, "progress": progress})
        )
