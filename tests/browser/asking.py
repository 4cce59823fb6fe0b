"""Agents that ask, for a house of their own: NETRA_EXTENSIONS=tests.browser.asking, NETRA_WORKFLOW=asking.

The words of the question say what is asked: "data" for data, "publish" for leave, and "deliver" makes a call that never
comes to its end the first time, so that whoever kills its worker leaves its effect unknown.
"""

import asyncio
from pathlib import Path

from django.conf import settings
from pydantic import BaseModel

from apps.execution import registry
from apps.execution.registry import Agent, Answer, Completed, Effect, StepSpec, Tool, Workflow
from apps.execution.scope import save_answer
from apps.operations.database import in_database

MISSING = (
    {
        "field": "prompt_hash",
        "why": "Without it, nobody can see which questions were asked before.",
        "unlocks": "caching",
        "worth_usd": "12.50",
        "how_to_export": "In LiteLLM, set `store_prompts_in_spend_logs: true` and export the spend log again.",
    },
    {
        "field": "latency_ms",
        "why": "Calls that may be slower cannot be told from calls that may not.",
        "unlocks": "batch processing",
        "worth_usd": None,
        "how_to_export": "Add the column `latency_ms` to your export.",
    },
)


class Wish(BaseModel):
    """What the words of the question asked for."""

    publish: bool
    deliver: bool
    note: str


class Audience(BaseModel):
    to: str


class Outcome(BaseModel):
    text: str


async def collect(scope) -> Completed:
    goal, note = scope.context.goal, ""
    await scope.think("Reading what is there", progress=20)
    if "data" in goal:
        said = await scope.ask_for_data(*MISSING)
        note = f"You said: {said['text']}"
    return Completed(
        artifact=Wish(publish="publish" in goal, deliver="deliver" in goal, note=note), summary="Read the question."
    )


def calling(tool: str):
    async def call(scope) -> Completed:
        answer = await scope.tools.execute_tool(tool, {"to": "team@example.com"}, call=tool)
        return Completed(artifact=Outcome(text=f"{tool} {answer.status}"), summary=f"{tool} {answer.status}.")

    return call


async def tell(scope) -> Completed:
    done = [made.text for made in scope.inputs.values() if isinstance(made, Outcome)]
    text = " ".join([scope.inputs["collect"].note, *done]).strip() or "Nothing was asked for."
    await in_database(save_answer, scope.context, text)
    return Completed(artifact=Outcome(text=text), summary="Told.", answer=Answer(text=text))


async def publish(context, arguments) -> Outcome:
    return Outcome(text=f"Published to {arguments.to}.")


async def deliver(context, arguments) -> Outcome:
    begun = Path(settings.NETRA_HOME) / f"delivery-{context.effect_key}"
    if not begun.exists():
        begun.touch()
        await asyncio.Event().wait()
    return Outcome(text=f"Delivered to {arguments.to}.")


def tool(name: str, run, **more) -> Tool:
    return registry.tools.register(
        Tool(name=name, description="", arguments=Audience, run=run, summarize=lambda made: made.text, **more)
    )


def agent(name: str, artifact: type[BaseModel], run, *tools: str) -> Agent:
    return registry.agents.register(Agent(name=name, description="", artifact=artifact, run=run, tools=tools))


tool("publish", publish, needs_approval=True)
tool("deliver", deliver, effect=Effect.UNSAFE)
agent("collector", Wish, collect)
agent("publisher", Outcome, calling("publish"), "publish")
agent("courier", Outcome, calling("deliver"), "deliver")
agent("teller", Outcome, tell)
registry.workflows.register(
    Workflow(
        name="asking",
        lead="collector",
        steps=(
            StepSpec(name="collect", agent="collector"),
            StepSpec(
                name="publish",
                agent="publisher",
                depends_on=("collect",),
                condition=lambda inputs: inputs["collect"].publish,
            ),
            StepSpec(
                name="deliver",
                agent="courier",
                depends_on=("collect",),
                condition=lambda inputs: inputs["collect"].deliver,
            ),
            StepSpec(name="tell", agent="teller", depends_on=("collect", "publish", "deliver")),
        ),
    )
)
