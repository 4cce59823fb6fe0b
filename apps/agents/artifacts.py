"""What the agents hand to each other. Typed, so that a hand-over is checked before the next agent starts."""

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

Intent = Literal["savings", "spend", "batch", "duplicates", "models", "unclear"]


class Artifact(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FeatureDelay(Artifact):
    """A part of the person's product, and how much later it may answer."""

    feature: str = Field(max_length=120)
    may_wait_ms: int = Field(ge=0)


class Triage(Artifact):
    """What the person wants."""

    intent: Intent = Field(description="`unclear` if it is no question about the cost of LLM calls.")
    understood: str = Field(max_length=600, description="The request in one plain sentence.")
    goal_percent: float | None = Field(None, ge=0, le=100, description="By how much the bill shall fall, if said.")
    keep_quality: bool = Field(False, description="Whether quality must not suffer.")
    delays: list[FeatureDelay] = []


class Missing(Artifact):
    """Data that would make the answer better."""

    field: str
    why: str
    unlocks: str
    how_to_export: str


class Saving(Artifact):
    """One way to save; `up_to` marks a ceiling, which is no promise. Dollars are decimal strings, None if unknown."""

    title: str
    saving_usd: str | None
    low: str | None = None
    high: str | None = None
    evidence: str
    up_to: bool
    how: str
    assumptions: list[str] = []
    latency: str


class Finding(Saving):
    """A saving, and the tool call that computed it."""

    source: str


class Table(Artifact):
    title: str
    columns: list[str]
    rows: list[list[str]]


class Point(Artifact):
    label: str
    value: float


class Chart(Artifact):
    title: str
    kind: Literal["bar", "line"]
    unit: str
    points: list[Point]


class Measurement(Artifact):
    """What a tool of this house answers: sentences, savings, tables and charts, all computed."""

    headline: str
    spend_usd: str | None = Field(None, description="What the analysed calls cost, where that is known.")
    savings: list[Saving] = []
    tables: list[Table] = []
    charts: list[Chart] = []
    missing: list[Missing] = []
    notes: list[str] = Field([], description="How the data was read.")


class ToolResult(Artifact):
    """A tool's answer and the journaled call it came from."""

    call: str
    tool: str
    result: Measurement


class Findings(Artifact):
    """What was computed from the person's calls; `dataset_id` is None when they have brought none."""

    dataset_id: UUID | None
    dataset_name: str
    results: list[ToolResult]
    failures: list[str] = []


class ReportBody(Artifact):
    """The answer in full; every number in it was computed by a tool on the person's calls."""

    title: str
    summary: str = Field(description="Markdown.")
    dataset_id: UUID | None
    dataset_name: str
    findings: list[Finding]
    tables: list[Table]
    charts: list[Chart]
    missing: list[Missing]


class Reported(Artifact):
    """Which report a run made."""

    report: UUID
