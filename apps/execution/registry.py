"""What can be run: agents, tools and workflows, declared without the libraries that run them."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel

from apps.accounts.models import Membership, Plan
from apps.accounts.tenancy import Principal
from apps.errors import NetraError
from apps.execution.context import PLACEHOLDERS

STEP_DEADLINE = 120.0  # seconds
RUN_DEADLINE = 600.0  # seconds
TOOL_DEADLINE = 60.0  # seconds
NAME_LENGTH = 64  # characters


class Effect(StrEnum):
    """What a second call with the same arguments does, which decides whether a lost call may be repeated."""

    PURE = "pure"  # nothing outside changes
    IDEMPOTENT = "idempotent"  # the same key is the same effect
    QUERYABLE = "queryable"  # the other side can be asked by key whether it happened
    UNSAFE = "unsafe"  # a second call is a second effect


class Place(StrEnum):
    """Where a tool runs."""

    INLINE = "inline"  # in the agent's worker, on its event loop
    WORKER = "worker"  # as a task of its own in a tool worker, with hard limits on time and memory


@dataclass(frozen=True, kw_only=True)
class Tool:
    """Something an agent may do. `run` gets a `UserExecutionContext` and its validated arguments.

    The context's `effect_key` names the one intended effect: hand it to whatever the tool calls, so that a repeated
    call is the same effect. `query(context, arguments)` is for `queryable` tools: it answers what became of the effect
    under that key, None if it never happened.
    """

    name: str
    description: str
    arguments: type[BaseModel]
    run: Callable[[Any, Any], Awaitable[BaseModel]]
    summarize: Callable[[Any], str]
    effect: Effect = Effect.PURE
    place: Place = Place.INLINE
    query: Callable[[Any, Any], Awaitable[BaseModel | None]] | None = None
    role: str = Membership.Role.MEMBER
    plan: str = Plan.Code.FREE  # the least that may use it
    operators_only: bool = False  # staff, whatever their role
    needs_approval: bool = False  # a person says yes before it runs
    deadline: float = TOOL_DEADLINE  # seconds
    slow_after: float | None = 5.0  # seconds; slower calls open its breaker. None: it is slow by nature


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the person gets: Markdown, and the report it rests on. A None leaves what was written live as it is."""

    text: str | None
    report: UUID | None = None


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A step did its part; `artifact` is handed to the steps that depend on it."""

    artifact: BaseModel
    summary: str
    confidence: float | None = None  # 0..1, None unless computed
    answer: Answer | None = None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A step could not do its part."""

    code: str
    detail: str
    retryable: bool
    suggestions: tuple[str, ...] = ()
    support_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A step waits for a person, who was asked under `call`."""

    call: str


@dataclass(frozen=True, kw_only=True)
class Postponed:
    """A step goes on later: something it needs is out of order, and said so."""

    seconds: float
    reason: str


LONGEST_WAIT = 600.0  # seconds
USUAL_WAIT = 60.0  # seconds, where what refuses does not say how long


def postponed(refusal: NetraError) -> Postponed:
    """Later, when what `refusal` says is out of order may be in order again."""
    seconds = USUAL_WAIT if refusal.retry_after is None else refusal.retry_after
    return Postponed(seconds=min(max(seconds, 1.0), LONGEST_WAIT), reason=refusal.detail)


Outcome = Completed | Failed | Waiting | Postponed


class Interruption(Exception):
    """Raised through an agent's code to end an attempt before its end; `outcome` says how the step goes on."""

    def __init__(self, outcome: Waiting | Postponed) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(frozen=True, kw_only=True)
class Agent:
    """Who does a step: what it may use, and the type of what it hands over. `run` gets a `StepScope`."""

    name: str
    description: str
    artifact: type[BaseModel]
    run: Callable[[Any], Awaitable[Completed]]
    tools: tuple[str, ...] = ()
    deadline: float = STEP_DEADLINE  # seconds


Inputs = Mapping[str, BaseModel]  # artifacts of completed steps, by step name


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """A node of a workflow: an agent, after the steps it depends on.

    A step whose `condition` is false is skipped; those that depend on it go on without its artifact, as they do when
    it failed and is marked `continue_on_error`.
    """

    name: str
    agent: str
    depends_on: tuple[str, ...] = ()
    condition: Callable[[Inputs], bool] | None = None
    continue_on_error: bool = False
    tries: int = 3  # of what may succeed the next time, for example a model that did not answer
    deadline: float | None = None  # seconds; None: the agent's


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """A graph of steps. `admit` refuses, by raising a NetraError, a request that the principal may not make."""

    name: str
    lead: str  # the agent that speaks for the run
    steps: tuple[StepSpec, ...]
    deadline: float = RUN_DEADLINE  # seconds of work, waiting not counted; the plan may allow less
    admit: Callable[[Principal, UUID | None], None] = field(default=lambda principal, dataset: None)


class NotRegistered(NetraError):
    """Nothing has that name."""

    code = "registry.unknown"


class AlreadyRegistered(ValueError):
    """Two things were declared under one name; a bug."""


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Things by name."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._items: dict[str, T] = {}

    def register(self, item: T) -> T:
        """Make `item` known.

        Raises:
            AlreadyRegistered: its name is taken.
        """
        if item.name in self._items:
            raise AlreadyRegistered(f"Two {self._kind}s are named {item.name!r}.")
        self._items[item.name] = item
        return item

    def get(self, name: str) -> T:
        """The item with that name.

        Raises:
            NotRegistered: there is none; the detail names those that exist.
        """
        if name not in self._items:
            raise NotRegistered(f"No {self._kind} is named {name!r}; known: {', '.join(sorted(self._items))}.")
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[T]:
        return iter(sorted(self._items.values(), key=lambda item: item.name))


agents: Registry[Agent] = Registry("agent")
tools: Registry[Tool] = Registry("tool")
workflows: Registry[Workflow] = Registry("workflow")


class BrokenWorkflow(ValueError):
    """A declaration that could never work: a graph without an end, a name of nothing, or one that cannot be used."""


def validate() -> None:
    """Look at every declaration once, at start-up.

    Raises:
        BrokenWorkflow: says what is wrong with which one.
    """
    for named in (*agents, *tools, *workflows):
        _validate_name(named.name)
    for agent in agents:
        unknown = [name for name in agent.tools if name not in tools]
        if unknown:
            raise BrokenWorkflow(f"Agent {agent.name!r} wants tools that do not exist: {unknown}.")
    for tool in tools:
        if tool.effect == Effect.QUERYABLE and tool.query is None:
            raise BrokenWorkflow(f"Tool {tool.name!r} is queryable and does not say how: it needs `query`.")
        if tool.role not in Membership.Role or tool.plan not in Plan.Code:
            raise BrokenWorkflow(f"Tool {tool.name!r} is for the role {tool.role!r} and the plan {tool.plan!r}.")
    for workflow in workflows:
        _validate_workflow(workflow, {step.name: step for step in workflow.steps})


def _validate_name(name: str) -> None:
    if name.strip().lower() in PLACEHOLDERS or len(name) > NAME_LENGTH or "," in name:
        raise BrokenWorkflow(f"Nothing can be named {name!r}: it takes 1 to {NAME_LENGTH} characters, and no comma.")


def _validate_workflow(workflow: Workflow, steps: Mapping[str, StepSpec]) -> None:
    if len(steps) != len(workflow.steps) or not steps:
        raise BrokenWorkflow(f"Workflow {workflow.name!r} needs steps, each with a name of its own.")
    for step in workflow.steps:
        _validate_name(step.name)
        if step.tries < 1:
            raise BrokenWorkflow(f"Step {step.name!r} of {workflow.name!r} has {step.tries} tries.")
        if step.condition is not None and not step.depends_on:
            raise BrokenWorkflow(f"Step {step.name!r} of {workflow.name!r} has a condition and nothing to look at.")
        unknown = [name for name in step.depends_on if name not in steps]
        if unknown or step.agent not in agents:
            wrong = f"steps {unknown}" if unknown else f"agent {step.agent!r}"
            raise BrokenWorkflow(f"Step {step.name!r} of {workflow.name!r} names {wrong}, which does not exist.")
    try:
        TopologicalSorter({step.name: step.depends_on for step in workflow.steps}).prepare()
    except CycleError as error:
        raise BrokenWorkflow(f"The steps of {workflow.name!r} wait for each other: {error.args[1]}.") from error
