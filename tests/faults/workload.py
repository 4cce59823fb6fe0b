"""What the house runs while it is being hurt: a workflow whose agents do what the message tells them.

Named in NETRA_EXTENSIONS, so that every process of the house knows it. The text of a message is a `Script` in
JSON. Every tool calls the tool server at the port NETRA_FAULTS_TOOL_SERVER, and nothing else.
"""

import asyncio
import json
import os
import re
from functools import partial
from typing import Any

from pydantic import BaseModel

from apps.errors import NetraError
from apps.execution import registry, tool_runs
from apps.execution.registry import Agent, Answer, Completed, Effect, Place, StepSpec, Tool, Workflow
from apps.resilience.circuit import BreakerSettings
from tests.faults.script import STEPS, WORKFLOW, Act, Script

KINDS = {
    "pure": Effect.PURE,
    "idempotent": Effect.IDEMPOTENT,
    "queryable": Effect.QUERYABLE,
    "unsafe": Effect.UNSAFE,
    "flaky": Effect.IDEMPOTENT,
    "brief": Effect.UNSAFE,
}
DEADLINE, BRIEF = 20.0, 2.0  # seconds of a tool
PORT = int(os.environ.get("NETRA_FAULTS_TOOL_SERVER", "0"))


class Call(BaseModel):
    """Arguments of every tool."""

    call: str
    act: Act


class Effects(BaseModel):
    """What the tool server knows of a key."""

    effects: int


class Told(BaseModel):
    """What a step hands over: how each of its calls ended."""

    calls: dict[str, str]


class Unavailable(NetraError):
    """The tool server refused."""

    code = "tool_server.unavailable"
    status = 503
    retryable = True


# --- Tools -----------------------------------------------------------------------------------------------------------


async def _request(method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and answer of the tool server; cancelled in the middle, it leaves nothing behind."""
    content = json.dumps(body or {}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    try:
        writer.write(f"{method} {path} HTTP/1.0\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return int(head.split()[1]), json.loads(answer)


def _tool(kind: str, place: Place) -> Tool:
    async def run(context: Any, arguments: Call) -> Effects:
        said = {
            "run": str(context.run_id),
            "step": context.step,
            "call": arguments.call,
            "kind": kind,
            "pid": os.getpid(),
            "attempt": context.attempt,
            "seconds": arguments.act.seconds,
        }
        status, answer = await _request("PUT", f"/effects/{context.effect_key}", said)
        if status != 200:
            raise Unavailable("The tool server refused the call.")
        _sabotage(arguments.act, context)
        return Effects(**answer)

    async def query(context: Any, arguments: Call) -> Effects | None:
        status, answer = await _request("GET", f"/effects/{context.effect_key}")
        return Effects(**answer) if status == 200 else None

    return Tool(
        name=tool_name(kind, elsewhere=place is Place.WORKER),
        description=f"An effect on the tool server, {kind}.",
        arguments=Call,
        run=run,
        summarize=lambda result: f"{result.effects} so far",
        effect=KINDS[kind],
        place=place,
        query=query if kind == "queryable" else None,
        deadline=BRIEF if kind == "brief" else DEADLINE,
        slow_after=1.0 if kind == "flaky" else None,
    )


def tool_name(kind: str, *, elsewhere: bool) -> str:
    return f"{kind}_elsewhere" if elsewhere else kind


def _sabotage(act: Act, context: Any) -> None:
    """Do to this process what the act says, if it says so for this attempt of the step."""
    if act.attempt not in (0, context.attempt):
        return
    if act.then == "die":
        os._exit(86)
    while act.then == "spin":  # the event loop stands still, other threads go on
        pass
    if act.then == "hold":  # matching holds the interpreter's lock: every thread of the process stands still
        re.match(r"(a+)+$", "a" * 64 + "b")


# --- Agent and workflow ----------------------------------------------------------------------------------------------


async def _act(scope: Any) -> Completed:
    step = scope.context.step
    told: dict[str, str] = {}
    acts: tuple[Act, ...] = getattr(Script.model_validate_json(scope.context.goal), step)
    for number, act in enumerate(acts, start=1):
        await scope.think(f"{step}, act {number} of {len(acts)}", progress=100 * number // len(acts))
        if act.tool:
            call = f"{step}-{number}"
            arguments = {"call": call, "act": act.model_dump()}
            name = tool_name(act.tool, elsewhere=act.elsewhere)
            answer = await scope.tools.execute_tool(name, arguments, call=call)
            told[call] = answer.status
        else:
            await asyncio.sleep(act.seconds)
            _sabotage(act, scope.context)
    return await _completed(scope, told)


async def _completed(scope: Any, told: dict[str, str]) -> Completed:
    artifact, summary = Told(calls=told), f"{len(told)} calls"
    if scope.context.step != STEPS[-1]:
        return Completed(artifact=artifact, summary=summary)
    for part in (*scope.inputs.values(), artifact):
        for call, status in part.calls.items():
            await scope.answer.write(f"{call}: {status}\n")
    await scope.answer.write("Done.")
    return Completed(artifact=artifact, summary=summary, answer=Answer(text=await scope.answer.finish()))


# What fails here is left alone for seconds instead of a minute.
tool_runs.BreakerSettings = partial(  # type: ignore[assignment,misc]
    BreakerSettings, open_seconds=2.0, trial_seconds=5.0, half_open_seconds=20.0
)
registered = [registry.tools.register(_tool(kind, place)) for kind in KINDS for place in Place]
registry.agents.register(
    Agent(
        name="actor",
        description="Does what the message says.",
        artifact=Told,
        run=_act,
        tools=tuple(tool.name for tool in registered),
    )
)
registry.workflows.register(
    Workflow(
        name=WORKFLOW,
        lead="actor",
        steps=(
            StepSpec(name="first", agent="actor"),
            StepSpec(name="left", agent="actor", depends_on=("first",)),
            StepSpec(name="right", agent="actor", depends_on=("first",)),
            StepSpec(name="last", agent="actor", depends_on=("left", "right")),
        ),
    )
)
