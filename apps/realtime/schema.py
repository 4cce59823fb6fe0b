"""Every message that may cross the socket, typed. This file is the public protocol; it runs without Django.

Numbered events share one flat envelope on socket, SSE, REST and in the table:
`{"type", "thread", "run", "seq", "at", "step", "attempt", "data"}`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from apps.errors import NetraError

TEXT_LIMIT = 32_000  # characters of one message of a person
FRAME_LIMIT = 512 * 1024  # bytes of one inbound frame: the longest message fits, in any script, even escaped


class Wire(BaseModel):
    """An undeclared field is a bug of ours or a mistake of the client: it fails here, it is never dropped silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- What an event carries -------------------------------------------------------------------------------------------


class MessageCreated(Wire):
    message: UUID
    role: Literal["user", "assistant"]
    text: str


class RunQueued(Wire):
    position: int = Field(ge=1, description="Runs of this user that go first, plus one.")


class AgentStarted(Wire):
    agent: str
    workflow: str
    goal: str


class StepStarted(Wire):
    agent: str


class StepCompleted(Wire):
    agent: str
    status: Literal["completed", "failed", "skipped", "cancelled"]
    summary: str
    confidence: float | None = Field(None, ge=0, le=1, description="Null unless computed.")


class AgentThinking(Wire):
    thought: str
    progress: int = Field(ge=0, le=100)


class ToolExecuting(Wire):
    call: str
    tool: str
    arguments: dict[str, Any]


class ToolCompleted(Wire):
    call: str
    tool: str
    status: Literal["succeeded", "failed", "unknown", "refused"]
    seconds: float | None = Field(ge=0)
    summary: str


class MissingField(Wire):
    field: str
    why: str
    unlocks: str
    worth_usd: str | None
    how_to_export: str


class DataRequested(Wire):
    call: str
    items: list[MissingField]
    expires_at: datetime


class ApprovalRequested(Wire):
    call: str
    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict, description="What it would be called with; secrets masked.")
    reason: Literal["unsafe", "unknown_effect", "size"]
    expires_at: datetime


class AnswerReceived(Wire):
    by: UUID
    call: str | None
    value: JsonValue = Field(None, description="What was decided; null for data, whose answer may be long.")


class RunRecovering(Wire):
    attempt: int
    reason: str


class AgentCompleted(Wire):
    message: UUID
    report: UUID | None
    usage: dict[str, Any]
    text: str
    final_seq: int


class AgentError(Wire):
    code: str
    detail: str
    retryable: bool
    suggestions: list[str]
    support_id: str
    final_seq: int


class RunCancelled(Wire):
    by: UUID
    final_seq: int


EVENTS: Mapping[str, type[Wire]] = {
    "message_created": MessageCreated,
    "run_queued": RunQueued,
    "agent_started": AgentStarted,
    "step_started": StepStarted,
    "step_completed": StepCompleted,
    "agent_thinking": AgentThinking,
    "tool_executing": ToolExecuting,
    "tool_completed": ToolCompleted,
    "data_requested": DataRequested,
    "approval_requested": ApprovalRequested,
    "answer_received": AnswerReceived,
    "run_recovering": RunRecovering,
    "agent_completed": AgentCompleted,
    "agent_error": AgentError,
    "run_cancelled": RunCancelled,
}
TERMINAL = frozenset({"agent_completed", "agent_error", "run_cancelled"})


class MalformedEvent(NetraError):
    """Code of ours tried to say something that the contract does not know; a bug, never stored."""

    code = "event.malformed"
    status = 500


def event_data(type_: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` as it may be stored under `type_`, in JSON types.

    Raises:
        MalformedEvent: an unknown type, a missing or undeclared field, or a value of the wrong shape.
    """
    if type_ not in EVENTS:
        raise MalformedEvent(f"No event is named {type_!r}; known: {', '.join(EVENTS)}")
    try:
        return EVENTS[type_].model_validate(data).model_dump(mode="json")
    except ValidationError as error:
        raise MalformedEvent(f"{type_}: {first_problem(error)}") from error


# --- What a client may say -------------------------------------------------------------------------------------------


class ClientMessage(Wire):
    id: str | int | None = Field(None, description="Echoed as `reply_to`.")


class Hello(ClientMessage):
    type: Literal["hello"]
    ticket: str | None = Field(None, max_length=200)


class Subscribe(ClientMessage):
    type: Literal["thread.subscribe"]
    thread: UUID
    after: int = Field(0, ge=0, le=2**53)


class Unsubscribe(ClientMessage):
    type: Literal["thread.unsubscribe"]
    thread: UUID


class SendMessage(ClientMessage):
    type: Literal["message.send"]
    thread: UUID
    text: str = Field(min_length=1, max_length=TEXT_LIMIT)
    key: str = Field(min_length=1, max_length=200, pattern=r"^[\x20-\x7e]+$")
    dataset: UUID | None = None


class CancelRun(ClientMessage):
    type: Literal["run.cancel"]
    run: UUID


class AnswerRun(ClientMessage):
    type: Literal["run.answer"]
    run: UUID
    call: str | None = Field(None, max_length=100, description="Which question, where the run asks several.")
    value: JsonValue


class Ack(ClientMessage):
    type: Literal["ack"]
    thread: UUID
    seq: int = Field(ge=0, le=2**53)


class Ping(ClientMessage):
    type: Literal["ping"]
    at: int | Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(max_length=100)] | None = None


AnyClientMessage = Annotated[
    Hello | Subscribe | Unsubscribe | SendMessage | AnswerRun | CancelRun | Ack | Ping, Field(discriminator="type")
]
_CLIENT = TypeAdapter[AnyClientMessage](AnyClientMessage)


class BadMessage(NetraError):
    """A frame that cannot be handled; `reply_to` is its `id` where that could be read."""

    def __init__(self, detail: str, *, reply_to: str | int | None = None) -> None:
        super().__init__(detail)
        self.reply_to = reply_to


class UnknownMessage(BadMessage):
    """The frame is no message that the socket understands."""

    code = "message.unknown"


class InvalidMessage(BadMessage):
    """The message is known, but one of its fields cannot be used."""

    code = "message.invalid"


def client_message(frame: Any) -> AnyClientMessage:
    """The typed message in a decoded JSON frame.

    Raises:
        UnknownMessage: not an object, or a `type` that does not exist.
        InvalidMessage: a field is missing, undeclared or of the wrong shape; the detail names it.
    """
    try:
        return _CLIENT.validate_python(frame)
    except ValidationError as error:
        given = frame.get("id") if isinstance(frame, dict) else None
        reply_to = given if isinstance(given, str | int) else None
        kind = error.errors()[0]["type"]
        if kind.startswith("union_tag") or not isinstance(frame, dict):
            detail = "Send a JSON object with a known `type`, for example thread.subscribe."
            raise UnknownMessage(detail, reply_to=reply_to) from error
        raise InvalidMessage(first_problem(error), reply_to=reply_to) from error


def first_problem(error: ValidationError) -> str:
    """Where and what the first problem is, without the offending value."""
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'message'}: {first['msg']}"
