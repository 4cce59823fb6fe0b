"""A report out of findings: everything in it stands in a tool's result, and says in which."""

from collections.abc import Iterator
from decimal import Decimal

from apps.agents.artifacts import Finding, Findings, Intent, Missing, ReportBody, Triage

TITLES: dict[Intent, str] = {
    "savings": "Where you can save",
    "spend": "What you spend",
    "batch": "What could run as a batch",
    "duplicates": "Calls made more than once",
    "models": "What cheaper models would cost",
}
FIRST_DATA = (
    Missing(
        field="calls",
        why="Every number here is computed from your own calls, and none have been brought yet.",
        unlocks="all analyses",
        how_to_export="Drop an export on this page: LiteLLM SpendLogs, or any CSV, JSONL or Parquet with time, model "
        "and token counts.",
    ),
)


def compose(triage: Triage, findings: Findings) -> ReportBody:
    """The report, without its summary's wording by a model: that is `narrate`'s or a model's part."""
    body = ReportBody(
        title=TITLES[triage.intent] + (f": {findings.dataset_name}" if findings.dataset_name else ""),
        summary="",
        dataset_id=findings.dataset_id,
        dataset_name=findings.dataset_name,
        findings=_ranked(findings),
        tables=[table for result in findings.results for table in result.result.tables],
        charts=[chart for result in findings.results for chart in result.result.charts],
        missing=list(_missing(findings)),
    )
    return body.model_copy(update={"summary": narrate(triage, findings, body)})


def _ranked(findings: Findings) -> list[Finding]:
    """Largest first; what has no number comes last."""
    found = [
        Finding(**saving.model_dump(), source=result.call)
        for result in findings.results
        for saving in result.result.savings
    ]
    return sorted(found, key=lambda finding: Decimal(finding.saving_usd or -1), reverse=True)


def _missing(findings: Findings) -> Iterator[Missing]:
    if findings.dataset_id is None:
        yield from FIRST_DATA
    seen = set()
    for result in findings.results:
        for item in result.result.missing:
            if (item.field, item.unlocks) not in seen:
                seen.add((item.field, item.unlocks))
                yield item


def narrate(triage: Triage, findings: Findings, body: ReportBody) -> str:
    """The summary in Markdown, in plain words; every number in it is one of the results'."""
    if findings.dataset_id is None:
        return f"{FIRST_DATA[0].why} {FIRST_DATA[0].how_to_export} Then ask again."
    paragraphs = [result.result.headline for result in findings.results]
    if body.findings:
        paragraphs.append(_bullets("Ways to save:", [_sentence(finding) for finding in body.findings]))
        paragraphs += _caution(triage, findings, body)
    paragraphs += [f"*Not computed:* {failure}" for failure in findings.failures]
    paragraphs += [_bullets("How your log was read:", notes)] if (notes := _notes(findings)) else []
    if body.missing:
        wanted = [
            f"**{item.field}**: {item.why} It unlocks {item.unlocks}. {item.how_to_export}" for item in body.missing
        ]
        paragraphs.append(_bullets("To say more, these would help:", wanted))
    return "\n\n".join(paragraphs)


def _bullets(title: str, lines: list[str]) -> str:
    return f"{title}\n\n" + "\n".join(f"- {line}" for line in lines)


def _notes(findings: Findings) -> list[str]:
    return [note for result in findings.results for note in result.result.notes]


def _sentence(finding: Finding) -> str:
    if finding.saving_usd is None:
        return f"**{finding.title}**: not known. {finding.how}"
    amount = f"{'up to ' if finding.up_to else ''}**{dollars(finding.saving_usd)}**"
    return (
        f"**{finding.title}**: {amount} (evidence {finding.evidence}). {finding.how} Response time: {finding.latency}"
    )


def _caution(triage: Triage, findings: Findings, body: ReportBody) -> Iterator[str]:
    if len(body.findings) > 1:
        yield "These overlap: the same call can be saved only once, so do not add them up."
    spend = next((result.result.spend_usd for result in findings.results if result.result.spend_usd), None)
    if triage.goal_percent is not None and spend is not None:
        wanted = Decimal(spend) * Decimal(str(triage.goal_percent)) / 100
        reach = [f.title for f in body.findings if f.saving_usd and Decimal(f.saving_usd) >= wanted]
        goal = f"Your goal of {triage.goal_percent:g} % is {dollars(str(wanted))}"
        alone = f"alone, {_listed(reach)} could reach it" if reach else "none of these reaches it alone"
        yield f"{goal}; {alone}."
    if triage.keep_quality and any(finding.up_to for finding in body.findings):
        yield "Quality was not measured: what is marked “up to” compares prices, it does not prove good answers."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def dollars(amount: str) -> str:
    """Dollars for reading: cents, or three significant digits below a cent.

    >>> dollars("96.7947"), dollars("1234.5"), dollars("0.00123456"), dollars("0")
    ('$96.79', '$1,234.50', '$0.00123', '$0.00')
    """
    value = Decimal(amount)
    if value and abs(value) < Decimal("0.01"):
        return f"${value:.3g}"
    return f"${value:,.2f}"
