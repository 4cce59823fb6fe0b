"""A trace: where the time of one run went, as values. Names are those of OpenTelemetry's GenAI conventions.

https://github.com/open-telemetry/semantic-conventions-genai, `docs/gen-ai/gen-ai-agent-spans.md`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

Attribute = str | int | float | bool


class Kind(StrEnum):
    """What a span is of."""

    RUN = "run"
    QUEUE = "queue"  # from the message until the run was first admitted
    STEP = "step"  # one attempt of it
    MODEL_CALL = "model_call"
    TOOL_CALL = "tool_call"
    QUESTION = "question"  # to a person, until it was answered


@dataclass(frozen=True, kw_only=True)
class Span:
    """Something that took time. `start` and `end` are None where nobody wrote them down, as of a killed attempt.

    `first_seen` and `last_seen` are then the first and the last that was heard of it; None where nothing was.
    """

    id: str  # 16 hexadecimal digits
    parent: str | None
    kind: Kind
    name: str
    status: str
    error: str | None = None  # a code, where it did not end well
    attempt: int | None = None
    start: datetime | None
    end: datetime | None
    first_seen: datetime | None
    last_seen: datetime | None
    attributes: Mapping[str, Attribute]

    @property
    def seconds(self) -> float | None:
        """How long it took; None where that is not known."""
        return (self.end - self.start).total_seconds() if self.start and self.end else None


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The spans of one run, each after its parent; the first one is the run.

    Each moment of a finished run is one of three: `queued_seconds` until it was first admitted, `working_seconds` while
    an attempt of a step is known to have been at it, `waiting_seconds` the rest: for a person's answer, for something
    that was out of order, for another worker. None where an end is not known yet.
    """

    id: str  # 32 hexadecimal digits
    run: UUID
    thread: UUID
    status: str
    queued_seconds: float | None
    waiting_seconds: float | None
    working_seconds: float | None
    spans: tuple[Span, ...]


def trace_id(run: UUID) -> str:
    """The run's id in hexadecimal: whoever knows the one knows the other."""
    return run.hex


def span_id(kind: Kind, of: object, attempt: int = 0) -> str:
    """The same for the same row each time it is derived."""
    return hashlib.sha256(f"{kind}:{of}:{attempt}".encode()).digest()[:8].hex()
