"""Reports, for whoever may read them."""

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
        ways = [f"- {sentence(Finding.model_validate(finding))}" for finding in body["findings"]]
        parts.append("## Ways to save\n\n" + "\n".join(ways))
    for table in body["tables"]:
        rows = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
        lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
        parts.append(f"## {table['title']}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
