"""One step, from claimed to settled: a line of small stages over one value."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import stamina
import structlog
from django.db import InterfaceError, OperationalError
from pydantic import BaseModel

from apps.conversations.journal import Fenced
from apps.errors import NetraError
from apps.execution import claims
from apps.execution.claims import Claim
from apps.execution.context import UserExecutionContext, scopes, user_execution_scope
from apps.execution.dispatcher import ToolExecutorFactory
from apps.execution.orchestrator import HandOverInvalid, WorkflowOrchestrator, typed
from apps.execution.registry import Agent, Failed, Interruption, Outcome, StepSpec, agents, workflows
from apps.execution.scope import StepScope
from apps.operations.database import in_database, through_outage
from apps.operations.debug_points import point_on_loop
from apps.operations.problems import UnexpectedError, new_support_id

log = structlog.get_logger(__name__)

MOST_LOSSES = 5  # attempts of one step that broke off
MOST_BARREN = 3  # of them, without anything new in its journal
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0  # seconds before a failed try is repeated


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What the stages hand on: a claim becomes an agent with inputs, and then an outcome."""

    claim: Claim
    agent: Agent | None = None
    inputs: Mapping[str, BaseModel] = field(default_factory=dict)
    outcome: Outcome | None = None

    @property
    def context(self) -> UserExecutionContext:
        return self.claim.context


Stage = Callable[[Execution], Awaitable[Execution]]


# --- The stages ------------------------------------------------------------------------------------------------------


async def refuse_poisoned(execution: Execution) -> Execution:
    """A step that breaks every process it runs in is not given another one."""
    claim = execution.claim
    if claim.losses < MOST_LOSSES and claim.barren_losses < MOST_BARREN:
        return execution
    barren = claim.barren_losses >= MOST_BARREN
    how = f"{claim.barren_losses} times in a row without getting any further" if barren else f"{claim.losses} times"
    return replace(
        execution,
        outcome=_failed(
            "run.poisoned",
            f"The step {claim.context.step} was begun {claim.losses + 1} times and broke off {how}.",
            retryable=False,
            suggestions=(
                "Ask for less at once, or with other data: the same question is likely to end the same way.",
                "Quote the support id to whoever runs this Netra; the log of the worker says what ended it.",
            ),
        ),
    )


async def find_agent(execution: Execution) -> Execution:
    return replace(execution, agent=agents.get(execution.context.agent))


async def read_inputs(execution: Execution) -> Execution:
    """What earlier steps handed over, checked against the types that their agents promise."""
    return replace(execution, inputs=typed(execution.claim.artifacts))


class Overdue(NetraError):
    """The step took longer than it may."""

    code = "step.deadline"
    retryable = True


async def perform(execution: Execution) -> Execution:
    """Let the agent work within the step's deadline, again if what went wrong may go right the next time."""
    agent, context = execution.agent, execution.context
    assert agent is not None  # noqa: S101  # the stage before found it
    try:
        async with user_execution_scope(context), asyncio.timeout(context.seconds_left) as deadline:
            tools = ToolExecutorFactory.create(context, agent)
            async for attempt in stamina.retry_context(
                on=_may_succeed_next_time,
                attempts=_spec(execution.claim).tries,
                timeout=None,
                wait_initial=FIRST_WAIT,
                wait_max=LONGEST_WAIT,
            ):
                with attempt:
                    completed = await agent.run(StepScope(context, execution.inputs, tools))
    except TimeoutError as error:
        if deadline.expired():
            raise Overdue(f"{agent.name} did not finish within the time that a step and a run have.") from error
        raise  # the agent's own
    if not isinstance(completed.artifact, agent.artifact):
        raise HandOverInvalid(f"{agent.name} promised a {agent.artifact.__name__} and made something else.")
    return replace(execution, outcome=completed)


PIPELINE: tuple[Stage, ...] = (refuse_poisoned, find_agent, read_inputs, perform)


def _spec(claim: Claim) -> StepSpec:
    """How the workflow describes the step; a step that it does not have any more is one of its agent alone."""
    named = (spec for spec in workflows.get(claim.workflow).steps if spec.name == claim.context.step)
    return next(named, StepSpec(name=claim.context.step, agent=claim.context.agent))


def _may_succeed_next_time(error: Exception) -> bool:
    return isinstance(error, NetraError) and error.retryable


# --- The engine ------------------------------------------------------------------------------------------------------


class ExecutionEngine:
    """Runs claimed steps for one user. The stages know nobody; what binds them to somebody is the context."""

    _running: "set[ExecutionEngine]" = set()

    def __init__(self, context: UserExecutionContext) -> None:
        self.context = context
        self._task: asyncio.Task[None] | None = None
        self._recallable = True

    @classmethod
    def for_user(cls, context: UserExecutionContext) -> "ExecutionEngine":
        """The engine bound to one user's context."""
        return cls(context)

    @classmethod
    def running(cls) -> "tuple[ExecutionEngine, ...]":
        """The engines of this process that are at work."""
        return tuple(cls._running)

    @classmethod
    def get_status(cls) -> dict[str, object]:
        """How many steps this process works on, and what became of its scopes so far."""
        return {"running": len(cls._running), "scopes": scopes.as_json()}

    @classmethod
    async def shutdown(cls) -> None:
        """Stop every step of this process and give it back; nothing is left behind."""
        tasks = [engine._task for engine in cls._running if engine._task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def recall(self) -> None:
        """Stop working: the step is somebody else's by now, or over. One that is being settled is fenced anyway, and
        the task that has settled one goes on with the next."""
        if self._recallable and self._task is not None:
            self._task.cancel()

    async def run_step(self, claim: Claim) -> bool:
        """Take a step from claimed to settled, and answer whether the run has another one ready for this worker.

        A step lost to somebody else is left alone. When the worker stops, or the database is away, the step is given
        back, and somebody takes it up where its journal ends.

        Raises:
            ForeignContext: the claim is another run's or another user's.
        """
        context = claim.context
        self.context.require_same(context)
        self._task = asyncio.current_task()
        self._running.add(self)
        try:
            with structlog.contextvars.bound_contextvars(
                run=str(context.run_id), trace=context.trace_id, step=context.step, attempt=context.attempt
            ):
                return await self._run(claim)
        finally:
            self._recallable = False
            self._running.discard(self)

    async def _run(self, claim: Claim) -> bool:
        try:
            await point_on_loop("step.claimed")
            outcome = await self._outcome(claim)
            self._recallable = False
            return await self._settle(WorkflowOrchestrator(claim), outcome)
        except Fenced as error:
            log.info("Step lost", reason=error.detail)
            await in_database(claims.abandon, claim.context)
        except asyncio.CancelledError:
            await asyncio.shield(through_outage(claims.release, claim.context))
            raise
        except Exception as error:
            log.error("Step could not be settled; giving it back", exc_info=error)
            # If the database stays away, the step is overdue one day, and the sweep takes it.
            await through_outage(claims.release, claim.context, lost=True)
        return False

    async def _outcome(self, claim: Claim) -> Outcome:
        execution = Execution(claim=claim)
        try:
            for stage in PIPELINE:
                execution = await stage(execution)
                if execution.outcome is not None:
                    return execution.outcome
            raise AssertionError("No stage came to an outcome.")
        except Interruption as interruption:
            return interruption.outcome
        except (Fenced, OperationalError, InterfaceError):
            raise
        except Exception as error:
            return _failure(error)

    @staticmethod
    async def _settle(orchestrator: WorkflowOrchestrator, outcome: Outcome) -> bool:
        try:
            return await through_outage(orchestrator.settle, outcome)
        except (Fenced, OperationalError, InterfaceError):
            raise
        except Exception as error:
            # A condition that breaks, for example: it would break each time, and the agent's work be done in vain.
            await through_outage(orchestrator.give_up, _failure(error))
            return False


def _failure(error: Exception) -> Failed:
    if isinstance(error, NetraError):
        return _failed(error.code, error.detail, retryable=error.retryable)
    return _unexpected(error)


def _failed(code: str, detail: str, *, retryable: bool, suggestions: tuple[str, ...] = ()) -> Failed:
    support_id = new_support_id()
    log.warning("Step failed", code=code, detail=detail, support_id=support_id)
    if retryable and not suggestions:
        suggestions = ("Ask again.",)
    return Failed(code=code, detail=detail, retryable=retryable, suggestions=suggestions, support_id=support_id)


def _unexpected(error: Exception) -> Failed:
    support_id = new_support_id()
    log.error("Step failed", support_id=support_id, exc_info=error)
    return Failed(
        code=UnexpectedError.code,
        detail="Something went wrong on our side.",
        retryable=True,
        suggestions=("Ask again.", "If it happens again, quote the support id to whoever runs this Netra."),
        support_id=support_id,
    )
