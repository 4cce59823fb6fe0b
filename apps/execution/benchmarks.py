"""What the engine's parts cost, in one process: contexts, engines, tool calls, orchestration, breaker checks.

Where a part writes, its latency is that of really stored rows. Its rate is what the process itself can do: the CPU of
the thread that does the work, without PostgreSQL and without commits; the rate of really stored ones stands beside its
floor in other rows.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from uuid import UUID

import uvloop
from django.db import transaction
from pydantic import BaseModel
from uuid6 import uuid7

from apps.accounts.models import Membership, Organization, Plan, User
from apps.accounts.tenancy import Principal, principal_for
from apps.conversations.services import create_thread
from apps.execution import admission, claims, services
from apps.execution.claims import Claim
from apps.execution.context import UserExecutionContext, context_for
from apps.execution.dispatcher import RequestScopedToolDispatcher
from apps.execution.engine import ExecutionEngine
from apps.execution.heartbeat import Heartbeat
from apps.execution.models import WorkerProcess
from apps.execution.orchestrator import WorkflowOrchestrator
from apps.execution.registry import Agent, Answer, Completed, Outcome, Tool, agents
from apps.execution.scope import StepScope
from apps.execution.tool_runs import breaker_of
from apps.operations.benchmarks import (
    Benchmark,
    Cost,
    Measured,
    component,
    cost_of,
    median,
    peak,
    percentile,
    register,
    rounds,
)

TIMES = 100  # steps, calls or workflows in one round
QUICK_TIMES = 30


class Asked(BaseModel):
    key: str


class Found(BaseModel):
    value: int


async def look_up(_: UserExecutionContext, asked: Asked) -> Found:
    """A tool that takes no time: its cost is what the dispatcher adds to it."""
    return Found(value=len(asked.key))


TOOL = Tool(
    name="benchmark_inline",
    description="The value under a key.",
    arguments=Asked,
    run=look_up,
    summarize=lambda found: f"{found.value}",
)


# --- Rows to work on -------------------------------------------------------------------------------------------------


def somebody() -> Principal:
    """A new person with an organization of their own, whom no plan holds back."""
    Plan.objects.update(tool_calls_per_minute=10**9, tool_calls_per_day=10**9, max_queued_runs=10**9)
    user = User.objects.create_user(f"{uuid7().hex}@example.com")
    organization = Organization.objects.create(name="Benchmark")
    Membership.objects.create(user=user, organization=organization, role=Membership.Role.OWNER)
    return principal_for(user=user)


@contextmanager
def worker() -> Iterator[UUID]:
    """An identity that may hold steps, alive for the length of a block."""
    me = uuid7()
    heartbeat = Heartbeat(me, kind=WorkerProcess.Kind.AGENTS)
    heartbeat.start()
    try:
        yield me
    finally:
        heartbeat.stop()


def claimed(principal: Principal, *, worker: UUID) -> Claim:
    """A new run of `principal`, admitted and claimed before any other worker sees it."""
    thread = create_thread(principal=principal)
    with transaction.atomic():
        started = services.start_run(principal=principal, thread_id=thread.pk, text="What is the margin?")
        claim = admission.admit_and_claim(worker=worker)
        if claim is None or claim.context.run_id != started.run:
            raise RuntimeError("Another run was queued; a benchmark needs the house for itself.")
    return claim


def _times(quick: bool) -> int:
    return QUICK_TIMES if quick else TIMES


def settle(claim: Claim) -> None:
    """End the run of a claim whose workflow has one step."""
    outcome: Outcome = Completed(artifact=Found(value=1), summary="Done.", answer=Answer(text="Done."))
    WorkflowOrchestrator(claim).settle(outcome)


# --- The context of a request ----------------------------------------------------------------------------------------


@cache
def _context(quick: bool) -> Cost:
    """Made out of rows that were loaded."""
    with worker() as me:
        context = claimed(somebody(), worker=me).context
        principal, owners = context.principal, [(context.principal.user_id, context.principal.organization_id)]
        identity = {name: getattr(context, name) for name in _IDENTITY}
        cost = cost_of(lambda: context_for(principal, owners=owners, **identity), quick)
        claims.release(context)
    return cost


_IDENTITY = (
    "thread_id",
    "run_id",
    "step_id",
    "step",
    "attempt",
    "worker",
    "agent",
    "goal",
    "dataset_id",
    "deadline_at",
)


# --- The engine, from a claim to the agent's first line --------------------------------------------------------------

_begun: list[float] = []


async def _note(_: StepScope) -> Completed:
    _begun.append(time.perf_counter())
    return Completed(artifact=Found(value=1), summary="Done.", answer=Answer(text="Done."))


_NOTING = Agent(name="benchmark_noting", description="Notes when it begins.", artifact=Found, run=_note)


@cache
def _engine(quick: bool) -> Cost:
    if _NOTING.name not in agents:
        agents.register(_NOTING)  # in this process only
    with worker() as me:
        principal = somebody()

        def start() -> float:
            claim = claimed(principal, worker=me)
            claim = replace(claim, context=replace(claim.context, agent=_NOTING.name))
            began = time.perf_counter()
            uvloop.run(ExecutionEngine.for_user(claim.context).run_step(claim))
            return _begun.pop() - began

        start()
        taken = [[start() for _ in range(_times(quick))] for _ in rounds(quick)]
        with peak() as kib:
            start()
            allocated = kib()
        return Cost(
            seconds=statistics.median(percentile(one, 0.95) for one in taken),
            per_second=1 / statistics.median(statistics.mean(one) for one in taken),
            kib=allocated,
        )


# --- The dispatcher --------------------------------------------------------------------------------------------------


@cache
def _dispatched(quick: bool) -> tuple[Cost, float]:
    """Calls of a tool, each opened and closed in the journal: per second of the event loop's CPU, and of all CPU."""
    with worker() as me:
        claim = claimed(somebody(), worker=me)
        found = uvloop.run(_calls(claim, quick))
        settle(claim)
    return found


async def _calls(claim: Claim, quick: bool) -> tuple[Cost, float]:
    with RequestScopedToolDispatcher(claim.context, {}) as dispatcher:
        dispatcher.register_tool(TOOL)
        numbers = iter(range(10**6))

        async def call() -> float:
            began = time.perf_counter()
            answer = await dispatcher.execute_tool(TOOL.name, {"key": "margin"}, call=f"call_{next(numbers)}")
            if answer.status != "succeeded":
                raise RuntimeError(f"A call of the benchmark ended with {answer}")
            return time.perf_counter() - began

        await call()
        seconds, on_loop, in_all = [], [], []
        for _ in rounds(quick):
            began, all_began = time.thread_time(), time.process_time()
            taken = [await call() for _ in range(_times(quick))]
            on_loop.append(len(taken) / (time.thread_time() - began))
            in_all.append(len(taken) / (time.process_time() - all_began))
            seconds.append(percentile(taken, 0.95))
        with peak() as kib:
            await call()
            allocated = kib()
        cost = Cost(seconds=statistics.median(seconds), per_second=statistics.median(on_loop), kib=allocated)
        return cost, statistics.median(in_all)


# --- The orchestrator ------------------------------------------------------------------------------------------------


class _Undone(Exception):
    """Takes back what was only done to be measured."""


@cache
def _orchestrator(quick: bool) -> Cost:
    """Admitting a run, claiming its step and settling it; its rate is that of the thread's CPU, nothing committed."""
    with worker() as me:
        principal = somebody()

        def latency() -> float:
            claim = claimed(principal, worker=me)
            began = time.perf_counter()
            settle(claim)
            return time.perf_counter() - began

        latency()
        with peak() as kib:
            latency()
            allocated = kib()
        return Cost(
            seconds=median(quick, lambda: percentile([latency() for _ in range(_times(quick))], 0.95)),
            per_second=median(quick, lambda: _workflows_per_second(principal, me, _times(quick))),
            kib=allocated,
        )


def _workflows_per_second(principal: Principal, me: UUID, times: int) -> float:
    used = 0.0
    try:
        with transaction.atomic():
            for _ in range(times):
                thread = create_thread(principal=principal)
                services.start_run(principal=principal, thread_id=thread.pk, text="What is the margin?")
                began = time.thread_time()
                claim = admission.admit_and_claim(worker=me)
                if claim is None:
                    raise RuntimeError("Another run was queued; a benchmark needs the house for itself.")
                settle(claim)
                used += time.thread_time() - began
            raise _Undone
    except _Undone:
        return times / used


# --- The breaker -----------------------------------------------------------------------------------------------------


@cache
def _breaker(quick: bool) -> Cost:
    return cost_of(breaker_of(TOOL).check, quick)


component("context", _context, milliseconds=10, per_second=10_000)
component("engine start", _engine, milliseconds=100, per_second=None)
component("dispatcher", lambda quick: _dispatched(quick)[0], milliseconds=20, per_second=5_000)
register(
    Benchmark(
        name="dispatcher with its journal",
        unit="per s",
        measure=lambda quick: Measured(value=_dispatched(quick)[1]),
        better="higher",
    )
)
component("orchestrator", _orchestrator, milliseconds=50, per_second=500)
component("breaker check", _breaker, milliseconds=1, per_second=100_000)
