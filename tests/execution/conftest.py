"""A workflow whose agents do what a test tells them, run by the real engine against the real database."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone
from pydantic import BaseModel
from uuid6 import uuid7

from apps.conversations import journal
from apps.conversations import services as conversations
from apps.conversations.models import Run, Step, Thread
from apps.execution import admission, claims, registry, services
from apps.execution.claims import Claim
from apps.execution.engine import ExecutionEngine
from apps.execution.models import WorkerProcess
from apps.execution.registry import Agent, Answer, Completed, StepSpec, Tool, Workflow
from apps.execution.scope import save_answer
from apps.operations.database import in_database
from tests.faults.oracle import check_story


class Note(BaseModel):
    text: str = "done"


LONG_AGO = "2020-01-01T00:00:00Z"


class Script:
    """What the agents of a test do; replace an entry to change it, for one step with `by_step`."""

    def __init__(self) -> None:
        self.first = self._note
        self.second = self._answer
        self.by_step: dict[str, Callable[[Any], Any]] = {}
        self.tool: Callable[[Note], Note] = lambda arguments: Note(text=arguments.text.upper())
        self.hazard: Callable[[Note], Note] = lambda arguments: Note(text="it happened")
        self.tool_runs: list[str] = []
        self.effect_keys: list[str | None] = []

    async def _note(self, scope) -> Completed:
        return Completed(artifact=Note(), summary="noted")

    async def _answer(self, scope) -> Completed:
        await in_database(save_answer, scope.context, "The answer.")
        return Completed(artifact=Note(), summary="answered", answer=Answer(text="The answer."))


@pytest.fixture
def script(settings, monkeypatch) -> Script:
    script = Script()

    async def first(scope):
        return await script.by_step.get(scope.context.step, script.first)(scope)

    async def second(scope):
        return await script.by_step.get(scope.context.step, script.second)(scope)

    async def tool(context, arguments):
        script.tool_runs.append(arguments.text)
        script.effect_keys.append(context.effect_key)
        return script.tool(arguments)

    async def hazard(context, arguments):
        script.tool_runs.append(arguments.text)
        script.effect_keys.append(context.effect_key)
        return script.hazard(arguments)

    for kind in ("agents", "tools", "workflows"):
        monkeypatch.setattr(getattr(registry, kind), "_items", {})
    usual = {"description": "", "arguments": Note, "summarize": lambda result: result.text}
    registry.tools.register(Tool(name="shout", run=tool, **usual))
    registry.tools.register(Tool(name="hazard", run=hazard, effect=registry.Effect.UNSAFE, **usual))
    registry.tools.register(Tool(name="guarded", run=tool, needs_approval=True, **usual))
    tools = ("shout", "hazard", "guarded")
    registry.agents.register(Agent(name="first", description="", artifact=Note, run=first, tools=tools))
    registry.agents.register(Agent(name="second", description="", artifact=Note, run=second, tools=tools))
    registry.workflows.register(
        Workflow(
            name="scripted",
            lead="first",
            steps=(
                StepSpec(name="one", agent="first"),
                StepSpec(name="two", agent="second", depends_on=("one",)),
            ),
        )
    )
    registry.validate()
    settings.DEFAULT_WORKFLOW = "scripted"
    return script


@pytest.fixture
def define_workflow(script, settings) -> Callable[..., None]:
    """Have messages answered by a workflow of these steps from now on."""

    def define(*steps: StepSpec) -> None:
        registry.workflows.register(Workflow(name="defined", lead="first", steps=steps))
        registry.validate()
        settings.DEFAULT_WORKFLOW = "defined"

    return define


@pytest.fixture
def rings(monkeypatch) -> list[UUID]:
    """Rings of the doorbell, instead of a worker behind it."""
    rung: list[UUID] = []
    monkeypatch.setattr("apps.execution.doorbell._ring", rung.append)
    return rung


@pytest.fixture
def thread(as_principal, alice):
    return conversations.create_thread(principal=as_principal(alice))


@pytest.fixture
def worker() -> UUID:
    return uuid7()


@pytest.fixture
def work_on(worker) -> Callable[[UUID], None]:
    """Do what a worker does when it is rung for a run, here and now."""

    def work(run_id: UUID) -> None:
        while admission.admit_one():
            pass
        while claim := claims.claim_step(run_id, worker=worker):
            attempt(claim)

    return work


def attempt(claim: Claim) -> None:
    """Take a claimed step to wherever it goes."""
    asyncio.run(ExecutionEngine.for_user(claim.context).run_step(claim))


@pytest.fixture
def start(as_principal, alice, thread) -> Callable[..., UUID]:
    """Send a message, by default Alice's in her thread; answers the run."""

    def start(text: str = "Hello", *, user=alice, thread_id=thread.pk, **more) -> UUID:
        return services.start_run(principal=as_principal(user), thread_id=thread_id, text=text, **more).run

    return start


def beat(worker: UUID) -> UUID:
    """Have a worker beat, well ahead of time, so that it lives for as long as the test takes."""
    alive = {"kind": WorkerProcess.Kind.AGENTS, "host": "here", "pid": 1, "beat_at": timezone.now() + timedelta(days=1)}
    WorkerProcess.objects.update_or_create(id=worker, defaults=alive)
    return worker


@pytest.fixture
def silence_is_heard(django_db_setup, django_db_blocker) -> None:
    """Until PostgreSQL has been up for a while, nobody's silence counts."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute("select pg_sleep_until(pg_postmaster_start_time() + interval '5.01 seconds')")


def wait_until(condition: Callable[[], object]) -> None:
    """Give other threads their turn until `condition` holds; it has to, within 20 s."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "this should have come true long ago"
        time.sleep(0.01)


# --- What is there ---------------------------------------------------------------------------------------------------


def told(thread: Thread) -> list[str]:
    """The types of a thread's events, in order."""
    return [event["type"] for event in events_of(thread)]


def events_of(thread: Thread) -> list[dict[str, Any]]:
    return journal.read(thread=thread.pk, after=0, limit=1000)


def assert_well_told(thread: Thread) -> None:
    """Numbers without gaps, everything opened once and closed, and nothing of a run after its end."""
    events = events_of(thread)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    for run in {event["run"] for event in events}:
        assert list(check_story([event for event in events if event["run"] == run])) == []


def state_of(run: UUID) -> str:
    return Run.objects.get(pk=run).state


def step_of(run: UUID, name: str) -> Step:
    return Step.objects.get(run_id=run, name=name)
