"""Which agents answer a question, and in which order."""

from apps.agents.access import admit
from apps.execution.registry import StepSpec, Workflow, workflows

SAVINGS = workflows.register(
    Workflow(
        name="savings",
        lead="supervisor",
        steps=(
            StepSpec(name="triage", agent="triage"),
            StepSpec(name="data", agent="data", depends_on=("triage",)),
            StepSpec(name="report", agent="reporting", depends_on=("data",)),
        ),
        admit=admit,
    )
)
