"""What the agents hand to each other. Typed, so that a hand-over is checked before the next agent starts."""

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from apps.optimization.scenarios import Seconds

Intent = Literal[
    "savings",
    "spend",
    "batch",
    "duplicates",
    "models",
    "caching",
    "retries",
    "lengths",
    "forecast",
    "anomalies",
    "changes",
    "what_if",
    "tradeoffs",
    "outcomes",
    "sufficiency",
    "reconciliation",
    "unclear",
]


class Artifact(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FeatureDelay(Artifact):
    """A part of the person's product, and how much later it may answer."""

    feature: str = Field(max_length=120)
    may_wait_ms: int = Field(ge=0)


class FeatureLimit(Artifact):
    """A part of the person's product, and the time within which its answers must stay."""

    feature: str = Field(max_length=120)
    within_ms: int = Field(ge=0)


class ModelMove(Artifact):
    """Calls that would ask another model: of a feature, of the model they ask now, or of both; null is every."""

    feature: str | None = Field(None, max_length=120)
    model: str | None = Field(None, max_length=200)
    to: str = Field(max_length=200)


class Triage(Artifact):
    """What the person wants."""

    intent: Intent = Field(description="`unclear` if it is no question about the cost of LLM calls.")
    understood: str = Field(max_length=600, description="The request in one plain sentence.")
    goal_percent: float | None = Field(None, ge=0, le=100, description="By how much the bill shall fall, if said.")
    keep_quality: bool = Field(False, description="Whether quality must not suffer.")
    quality_percent: float | None = Field(None, ge=0, le=100, description="Of today's quality to keep, if said.")
    delays: list[FeatureDelay] = []
    limits: list[FeatureLimit] = []
    growth_percent: float | None = Field(None, ge=-100, le=10_000, description="Of use, if said: 50 for half as much.")
    moves: list[ModelMove] = Field([], max_length=20)
    answers_shared: bool | None = Field(
        None, description="Whether a cache may give one user's answer to others; null where nothing is said of it."
    )
    answers_kept: Seconds | Literal["for good"] | None = Field(
        None, description="For how many seconds a cache may keep an answer, if said."
    )


class Missing(Artifact):
    """Data that would make the answer better."""

    field: str
    why: str
    unlocks: str
    how_to_export: str
    at_most_usd: str | None = Field(None, description="The spend of the calls that lack it: no more can come of it.")


class Plan(Artifact):
    """How a way to save is put to work; `rollback` says what to watch, and when to go back."""

    effort_days: float
    risk: str
    steps: list[str]
    prerequisites: list[str]
    rollback: str


class Saving(Artifact):
    """One way to save; `up_to` marks a ceiling, which is no promise. Dollars are decimal strings, None if unknown."""

    title: str
    strategy: str = Field("", description="Its name in the optimizer.")
    needs: str = Field("", description="What the owner of the calls has to allow first; empty where nothing.")
    saving_usd: str | None
    low: str | None = None
    high: str | None = None
    evidence: str
    up_to: bool
    how: str
    assumptions: list[str] = []
    latency: str
    joint_usd: str | None = Field(None, description="Its part of the joint saving; None where it takes no part.")
    monthly_usd: str | None = Field(None, description="For 30 days of the same; None if the log is too short.")
    confidence: float | None = Field(None, description="That it comes true, 0-1; None for a ceiling.")
    calibrated: bool = Field(False, description="Whether the confidence is learnt from outcomes; else it is a prior.")
    plan: Plan | None = None


class Finding(Saving):
    """A saving, the tool call that computed it, and the stored analysis that it quotes."""

    source: str
    analysis: UUID | None = None
    adopted: bool = Field(False, description="Whether it is in use already, so that it is not advised again.")


class Adopted(Artifact):
    """A way to save that is in use: since when, and what it did."""

    strategy: str
    needs: str = ""
    title: str
    remark: str = Field(description="Markdown.")


class LeftOut(Artifact):
    """A way to save that takes no part in the joint saving."""

    title: str
    why: str


class Part(Artifact):
    """What one stage of a call's life, or one way to save, brings to the joint saving."""

    title: str
    saving_usd: str | None


class JointSaving(Artifact):
    """What the ways to save bring together; no call is counted twice. Dollars are decimal strings, None if unknown.

    Without `shares`, no way to save takes part.
    """

    saving_usd: str | None = None
    low: str | None = None
    high: str | None = None
    interval_note: str | None = None
    spent_usd: str | None = None
    would_cost_usd: str | None = None
    sum_of_parts_usd: str | None = None
    overlap_usd: str | None = None
    up_to: bool = False
    drift: str = ""
    stages: list[Part] = []
    shares: list[Part] = []
    left_out: list[LeftOut] = []
    constraints: list[str] = Field([], description="What the person's wishes allow and keep from being saved.")


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
    adopted: list[Adopted] = Field([], description="What is in use of what was recommended.")
    joint: JointSaving | None = None
    tables: list[Table] = []
    charts: list[Chart] = []
    missing: list[Missing] = []
    notes: list[str] = Field([], description="How the data was read.")
    analysis: UUID | None = Field(None, description="The stored analysis that is quoted; it can be computed again.")


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
    remarks: list[str] = Field([], description="What of the request the numbers do not follow, in sentences.")


class Source(Artifact):
    """A tool call that the report rests on, and the stored analysis that it quotes."""

    tool: str
    call: str
    analysis: UUID | None


class ReportBody(Artifact):
    """The answer in full; every number in it was computed by a tool on the person's calls."""

    title: str
    summary: str = Field(description="Markdown.")
    dataset_id: UUID | None
    dataset_name: str
    findings: list[Finding]
    joint: JointSaving | None = None
    tables: list[Table]
    charts: list[Chart]
    missing: list[Missing]
    sources: list[Source] = []


class Reported(Artifact):
    """Which report a run made."""

    report: UUID
