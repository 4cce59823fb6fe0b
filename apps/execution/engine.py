"""One step, from claimed to settled."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import stamina
import structlog
from django.db import InterfaceError, OperationalError
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

ATTEMPTS = 5  # of one step, by whichever workers
GIVE_BACK_WITHIN = 60.0  # seconds for a database that is away to come back


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

        A step lost to somebody else is left alone. When the worker stops, or the database is away, the step is given
        back, and somebody takes it up where its journal ends.
        """
        with structlog.contextvars.bound_contextvars(run=str(self._context.run_id), step=self._context.step):
            try:
                outcome = await self._outcome()
                await in_database(orchestrator.settle, self._context, outcome)
            except Fenced as error:
                log.info("Step lost", attempt=self._context.attempt, reason=error.detail)
                await in_database(claims.abandon, self._context)
            except asyncio.CancelledError:
                await asyncio.shield(in_database(claims.release, self._context))
                raise
            except Exception as error:
                log.error("Step could not be settled; giving it back", exc_info=error)
                await self._give_back()

    async def _give_back(self) -> None:
        """Release the step as soon as the database lets it; after that it is overdue, and the sweep takes it."""
        async for attempt in stamina.retry_context(
            on=(OperationalError, InterfaceError), attempts=None, timeout=GIVE_BACK_WITHIN
        ):
            with attempt:
                await in_database(claims.release, self._context)

    async def _outcome(self) -> Outcome:
        if self._context.attempt > ATTEMPTS:
            tries = f"This step was begun {ATTEMPTS} times and never came to an end."
            return self._failed("run.poisoned", tries, retryable=False)
        try:
            agent = agents.get(self._context.agent)
            async with asyncio.timeout((self._context.deadline_at - timezone.now()).total_seconds()):
                return await agent.run(await self._scope(agent))
        except (Fenced, OperationalError, InterfaceError):
            raise
        except TimeoutError:
            detail = f"{self._context.agent} did not finish within the time that a step and a run have."
            return self._failed("step.deadline", detail, retryable=True)
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
