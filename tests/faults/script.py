"""What a message tells the agents to do. Known to both sides: the house reads what the harness writes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

WORKFLOW = "faults"
STEPS = ("first", "left", "right", "last")  # a diamond: first, then left beside right, then last

# flaky is idempotent, and its far side fails when it is told to; brief is unsafe, and has little time
Kind = Literal["pure", "idempotent", "queryable", "unsafe", "flaky", "brief"]
Sabotage = Literal["", "die", "spin", "hold"]


class Act(BaseModel):
    """One thing an agent does: call a tool, or, without one, take its time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tool: Kind | None = None
    elsewhere: bool = False  # in a tool worker
    seconds: float = 0.0
    then: Sabotage = ""  # what becomes of the process that does it
    attempt: int = 0  # the only attempt of the step that sabotages; 0 means each


class Script(BaseModel):
    """What each step does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: tuple[Act, ...] = ()
    left: tuple[Act, ...] = ()
    right: tuple[Act, ...] = ()
    last: tuple[Act, ...] = ()

    def as_text(self) -> str:
        """The message that says it."""
        return self.model_dump_json(exclude_defaults=True)
