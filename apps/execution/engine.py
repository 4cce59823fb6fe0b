"""One step, from claimed to settled."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import structlog
from django.utils import timezone

from apps.conversations.journal import Fenced
from apps.conversations.models import Step
from apps.errors import NetraError
from apps.execution import claims, orchestrator
from apps.execution.context import UserExecutionContext
from apps.execution.dispatcher import RequestScopedToolDispatcher
from apps.execution.registry import Agent, Failed, Outcome, agents
from apps.execution.scope import StepScope
from apps.operations.database import in_database
from apps.operations.problems import UnexpectedError, new_support_id

log = structlog.get_logger(__name__)


class ExecutionEngine:
    """Runs the steps that were claimed under one context, and no others."""

    def __init__(self, context: UserExecutionContext) -> None:
        self._context = context

    @classmethod
    def for_user(cls, context: UserExecutionContext) -> "ExecutionEngine":
        """The engine bound to one user's step."""
        return cls(context)

    async def run_step(self) -> None:
        """Let the agent work within the step's deadline, and settle what came of it.

        A step lost to somebody else is left alone. On cancellation (the worker stops) the step is given back.
        """
        with structlog.contextvars.bound_contextvars(run=str(self._context.run_id), step=self._context.step):
            try:
                outcome = await self._outcome()
                await in_database(orchestrator.settle, self._context, outcome)
            except Fenced as error:
                log.info("Step lost", attempt=self._context.attempt, reason=error.detail)
            except asyncio.CancelledError:
                await asyncio.shield(in_database(claims.release, self._context))
                raise

    async def _outcome(self) -> Outcome:
        agent = agents.get(self._context.agent)
        try:
            async with asyncio.timeout((self._context.deadline_at - timezone.now()).total_seconds()):
                return await agent.run(await self._scope(agent))
        except Fenced:
            raise
        except TimeoutError:
            return self._failed("step.deadline", f"{agent.name} took longer than {agent.deadline:g} s.", retryable=True)
        except NetraError as error:
            return self._failed(error.code, error.detail, retryable=error.retryable)
        except Exception as error:
            return self._unexpected(error)

    async def _scope(self, agent: Agent) -> StepScope:
        inputs = await in_database(_artifacts, self._context.run_id)
        return StepScope(self._context, inputs, RequestScopedToolDispatcher(self._context, agent.tools))

    def _failed(self, code: str, detail: str, *, retryable: bool) -> Failed:
        suggestions = ("Ask again.",) if retryable else ()
        support_id = new_support_id()
        log.warning("Step failed", code=code, detail=detail, support_id=support_id)
        return Failed(code=code, detail=detail, retryable=retryable, suggestions=suggestions, support_id=support_id)

    def _unexpected(self, error: Exception) -> Failed:
        support_id = new_support_id()
        log.error("Step failed", support_id=support_id, exc_info=error)
        return Failed(
            code=UnexpectedError.code,
            detail="Something went wrong on our side.",
            retryable=True,
            suggestions=("Ask again.", "If it happens again, quote the support id to whoever runs this Netra."),
            support_id=support_id,
        )


def _artifacts(run_id: UUID) -> Mapping[str, Mapping[str, Any]]:
    completed = Step.objects.filter(run_id=run_id, state=Step.State.COMPLETED)
    return {name: artifact or {} for name, artifact in completed.values_list("name", "artifact")}
