"""Agents of the benchmark. `NETRA_EXTENSIONS` names this module, `NETRA_WORKFLOW` one of its workflows."""

from pydantic import BaseModel

from apps.execution.context import UserExecutionContext
from apps.execution.registry import Agent, Answer, Completed, StepSpec, Tool, Workflow, agents, tools, workflows
from apps.execution.scope import StepScope

INSTRUCTIONS = "Look up what is asked for with the tool, then answer with its value."


class Question(BaseModel):
    key: str


class Found(BaseModel):
    value: int


class Reading(BaseModel):
    value: int
    reason: str


async def look_up(context: UserExecutionContext, arguments: Question) -> Found:
    """A tool that takes no time: its cost is what the house adds to it."""
    return Found(value=len(arguments.key))


async def converse_once(scope: StepScope) -> Completed:
    """Two answers of the model, one tool call, typed output."""
    from apps.agents.offline import Call, Turn, planner
    from apps.agents.runtime import Said, converse

    def script(answered: int) -> Turn:
        if answered:
            return Turn(thought="That is the value.", output=Reading(value=6, reason="looked up"))
        return Turn(thought="Look it up.", calls=[Call(tool=LOOK_UP.name, arguments={"key": "margin"})])

    said: Said[Reading] = await converse(
        scope,
        instructions=INSTRUCTIONS,
        prompt=scope.context.goal,
        output=Reading,
        offline=planner(script),
        tools=(LOOK_UP.name,),
    )
    text = f"The value is {said.output.value}: {said.output.reason}."
    return Completed(artifact=said.output, summary=text, answer=Answer(text=text))


async def do_nothing(scope: StepScope) -> Completed:
    """No model, no tool: what is left is the engine."""
    return Completed(artifact=Found(value=0), summary="Nothing to do.")


LOOK_UP = tools.register(
    Tool(
        name="benchmark_look_up",
        description="The value under a key.",
        arguments=Question,
        run=look_up,
        summarize=lambda found: f"{found.value}",
    )
)
agents.register(
    Agent(
        name="benchmark_reader",
        description="Asks a model twice and a tool once.",
        artifact=Reading,
        run=converse_once,
        tools=(LOOK_UP.name,),
    )
)
agents.register(Agent(name="benchmark_bare", description="Does nothing.", artifact=Found, run=do_nothing))
WHOLE = workflows.register(
    Workflow(name="benchmark_whole", lead="benchmark_reader", steps=(StepSpec(name="read", agent="benchmark_reader"),))
)
BARE = workflows.register(
    Workflow(name="benchmark_bare", lead="benchmark_bare", steps=(StepSpec(name="bare", agent="benchmark_bare"),))
)
