"""Data: computes on the person's own calls, with tools; its findings are the tools' results, never its own words."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from apps.agents.artifacts import Findings, Intent, Measurement, ToolResult, Triage
from apps.conversations import services as conversations
from apps.execution.calls import ToolAnswer
from apps.execution.registry import Agent, Completed, agents
from apps.execution.scope import StepScope, be_about
from apps.operations.database import in_database
from apps.optimization import services
from apps.optimization.models import Dataset

TOOLS: dict[Intent, tuple[str, ...]] = {
    "savings": (
        "dataset_overview",
        "spend_breakdown",
        "duplicate_calls",
        "exact_cache",
        "semantic_cache",
        "prefix_cache",
        "batch_eligible_spend",
        "model_swap_ceiling",
        "model_swap_by_task",
        "routing",
        "retry_waste",
        "context_trimming",
        "output_capping",
    ),
    "spend": ("dataset_overview", "spend_breakdown"),
    "batch": ("dataset_overview", "batch_eligible_spend"),
    "duplicates": ("dataset_overview", "duplicate_calls", "exact_cache", "semantic_cache"),
    "models": ("dataset_overview", "spend_breakdown", "model_swap_ceiling", "model_swap_by_task", "routing"),
    "unclear": ("dataset_overview",),
}
INSTRUCTIONS = """You measure LLM usage with tools. Call dataset_overview first, then every tool that helps with the
request; each works on the one dataset that is named. Never compute or guess a number yourself. When you have what is
needed, say in one sentence what was measured."""


class Measured(BaseModel):
    """What the agent says when it is done."""

    note: str = Field(max_length=600)


def pick_dataset(scope: StepScope) -> Dataset | None:
    """The dataset that the question names, else the one that its thread is about, else the newest that is ready.

    The run is about that one from then on.
    """
    principal, ready = scope.context.principal, Dataset.State.READY
    named = scope.context.dataset_id
    if named is None:
        datasets = services.list_datasets(principal=principal).filter(state=ready)
        earlier = conversations.latest_dataset(thread_id=scope.context.thread_id)
        found = (datasets.filter(pk=earlier).first() if earlier else None) or datasets.first()
        if found is None:
            return None
        named = be_about(scope.context, found.pk)
    return services.get_dataset(principal=principal, dataset_id=named)


async def run(scope: StepScope) -> Completed:
    """Measure what the request needs."""
    dataset = await in_database(pick_dataset, scope)
    if dataset is None:
        await scope.think("No calls have been brought yet, so there is nothing to compute on.", progress=0)
        nothing = Findings(dataset_id=None, dataset_name="", results=[])
        return Completed(artifact=nothing, summary="No dataset to compute on.")
    answers = await _measure(scope, Triage.model_validate(scope.inputs["triage"]), dataset)
    findings = Findings(
        dataset_id=dataset.pk,
        dataset_name=dataset.name,
        results=_results(answers),
        failures=_failures(answers),
    )
    return Completed(artifact=findings, summary=f"{len(findings.results)} analyses of {dataset.name}.")


async def _measure(scope: StepScope, triage: Triage, dataset: Dataset) -> Sequence[ToolAnswer]:
    from apps.agents.offline import Call, Turn, planner
    from apps.agents.runtime import Said, converse

    wanted = TOOLS[triage.intent]
    arguments = {"dataset": str(dataset.pk)}

    def script(answered: int) -> Turn:
        if answered == 0:
            thought = f"First I look at what {dataset.name} holds and how complete it is."
            return Turn(thought=thought, calls=[Call(tool=wanted[0], arguments=arguments)])
        if answered < len(wanted):
            names = ", ".join(name.replace("_", " ") for name in wanted[answered:])
            calls = [Call(tool=name, arguments=arguments) for name in wanted[answered:]]
            return Turn(thought=f"Now I compute: {names}.", calls=calls)
        return Turn(thought="All measured.", output=Measured(note=f"{answered} analyses of {dataset.name}."))

    prompt = f"Request: {triage.model_dump_json()}\nDataset id: {dataset.pk}"
    said: Said[Measured] = await converse(
        scope,
        instructions=INSTRUCTIONS,
        prompt=prompt,
        output=Measured,
        offline=planner(script),
        tools=wanted,
        refuse=partial(_other_dataset, dataset),
    )
    return said.answers


def _other_dataset(dataset: Dataset, arguments: Mapping[str, Any]) -> str | None:
    """The complaint about a call that would measure another dataset: findings are about one."""
    try:
        asked = UUID(str(arguments.get("dataset")))
    except ValueError:
        return None  # the tool itself says what is wrong with it
    if asked == dataset.pk:
        return None
    return f"Nothing was measured: this question is about dataset {dataset.pk} only. Call the tool with that id."


def _results(answers: Sequence[ToolAnswer]) -> list[ToolResult]:
    """In the order of the tools, whichever answered first; a tool that was called again counts once, its last time."""
    found = {answer.tool: answer for answer in answers if answer.status == "succeeded"}.values()
    return [
        ToolResult(call=answer.call, tool=answer.tool, result=Measurement.model_validate(answer.result))
        for answer in sorted(found, key=lambda answer: TOOLS["savings"].index(answer.tool))
    ]


def _failures(answers: Sequence[ToolAnswer]) -> list[str]:
    """Why what was never measured was not, once per tool; a call that was mended is no failure."""
    measured = {answer.tool for answer in answers if answer.status == "succeeded"}
    return list({answer.tool: answer.detail for answer in answers if answer.tool not in measured}.values())


DATA = agents.register(
    Agent(
        name="data",
        description="Computes on the organization's own calls.",
        artifact=Findings,
        run=run,
        tools=TOOLS["savings"],
    )
)
