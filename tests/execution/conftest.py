"""A workflow whose agents do what a test tells them, run by the real engine against the real database."""

import asyncio
from collections.abc import Callable
from uuid import UUID

import pytest
from pydantic import BaseModel
from uuid6 import uuid7

from apps.conversations import services as conversations
from apps.execution import admission, claims, registry
from apps.execution.engine import ExecutionEngine
from apps.execution.registry import Agent, Answer, Completed, StepSpec, Tool, Workflow
from apps.execution.scope import save_answer
from apps.operations.database import in_database


class Note(BaseModel):
    text: str = "done"


class Script:
    """What the agents of a test do; replace an entry to change it."""

    def __init__(self) -> None:
        self.first = self._note
        self.second = self._answer
        self.tool: Callable[[Note], Note] = lambda arguments: Note(text=arguments.text.upper())
        self.tool_runs: list[str] = []

    async def _note(self, scope) -> Completed:
        return Completed(artifact=Note(), summary="noted")

    async def _answer(self, scope) -> Completed:
        await in_database(save_answer, scope.context, "The answer.")
        return Completed(artifact=Note(), summary="answered", answer=Answer(text="The answer."))


@pytest.fixture
def script(settings, monkeypatch) -> Script:
    script = Script()

    async def first(scope):
        return await script.first(scope)

    async def second(scope):
        return await script.second(scope)

    async def tool(context, arguments):
        script.tool_runs.append(arguments.text)
        return script.tool(arguments)

    async def hazard(context, arguments):
        script.tool_runs.append(arguments.text)
        return Note(text="it happened")

    for kind in ("agents", "tools", "workflows"):
        monkeypatch.setattr(getattr(registry, kind), "_items", {})
    registry.tools.register(
        Tool(name="shout", description="", arguments=Note, run=tool, summarize=lambda result: result.text)
    )
    registry.tools.register(
        Tool(
            name="hazard",
            description="",
            arguments=Note,
            run=hazard,
            summarize=lambda result: result.text,
            effect=registry.Effect.UNSAFE,
        )
    )
    tools = ("shout", "hazard")
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
            asyncio.run(ExecutionEngine.for_user(claim.context).run_step(claim))

    return work
