"""Reports, for whoever may read them."""

from decimal import Decimal
from typing import Any
from uuid import UUID

from apps.accounts.tenancy import Principal
from apps.agents.artifacts import Finding
from apps.agents.composing import sentence
from apps.agents.models import Report
from apps.errors import NotFound


class ReportNotFound(NotFound):
    """The report does not exist, or is somebody else's."""

    code = "report.not_found"


def get_report(*, principal: Principal, report_id: UUID) -> Report:
    """One report of the principal.

    Raises:
        ReportNotFound: it is not theirs, or does not exist.
    """
    report: Report | None = Report.objects.for_creator(principal).filter(pk=report_id).first()
    if report is None:
        raise ReportNotFound(f"There is no report {report_id}.")
    return report


def as_document(report: Report) -> dict[str, Any]:
    """The report as REST and the pages show it."""
    body = dict(report.body)
    dataset = {"id": body.pop("dataset_id"), "name": body.pop("dataset_name")}
    return {
        "id": str(report.pk),
        **body,
        "dataset": dataset if dataset["id"] else None,
        "created_at": report.created_at.isoformat(),
    }


def as_markdown(report: Report) -> str:
    """The report as a text to keep."""
    body = report.body
    parts = [f"# {body['title']}", body["summary"]]
    if body["findings"]:
        ways = [Finding.model_validate(finding) for finding in body["findings"]]
        parts.append("## Ways to save\n\n" + "\n".join(f"- {sentence(way)}{_planned(way)}" for way in ways))
    for table in body["tables"]:
        rows = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
        lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
        parts.append(f"## {table['title']}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _planned(finding: Finding) -> str:
    """What to do for a way to save that saves something, as lines below it."""
    plan = finding.plan
    if plan is None or not Decimal(finding.saving_usd or 0):
        return ""
    lines = [
        f"Work: {plan.effort_days:g} days, risk {plan.risk}.",
        *(f"{number}. {step}" for number, step in enumerate(plan.steps, 1)),
        f"Needed: {' '.join(plan.prerequisites)}",
        plan.rollback,
    ]
    return "".join(f"\n    - {line}" for line in lines)


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
