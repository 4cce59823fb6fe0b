"""Who a step runs for, and until when."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from apps.accounts.tenancy import Principal
from apps.conversations.journal import Fence


@dataclass(frozen=True, kw_only=True)
class UserExecutionContext:
    """The immutable identity of one attempt of one step; agents and tools act with these rights and no others."""

    principal: Principal
    thread_id: UUID
    run_id: UUID
    step_id: int
    step: str
    attempt: int
    worker: UUID
    agent: str
    goal: str
    dataset_id: UUID | None
    deadline_at: datetime

    @property
    def fence(self) -> Fence:
        """What every write of this attempt must carry."""
        return Fence(thread=self.thread_id, run=self.run_id, step=self.step, attempt=self.attempt)
