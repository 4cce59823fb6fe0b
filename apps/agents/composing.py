"""A report out of findings: everything in it stands in a tool's result, and says in which."""

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal

from apps.agents.artifacts import FeatureDelay, Finding, Findings, Intent, Missing, ReportBody, Triage
from apps.llm.amounts import spell_dollars

TITLES: dict[Intent, str] = {
    "savings": "Where you can save",
    "spend": "What you spend",
    "batch": "What could run as a batch",
    "duplicates": "Calls made more than once",
    "models": "What cheaper models would cost",
    "unclear": "What you can ask",
}
# Their tools' first words answer the question; for "savings" the ways to save do.
ANSWERED_BY_HEADLINES: frozenset[Intent] = frozenset({"spend", "batch", "duplicates", "models"})
PROVEN = frozenset({"E2", "E3", "E4"})
DAY_MS = 24 * 3600 * 1000  # within which a batch API answers
FIRST_DATA = (
    Missing(
        field="calls",
        why="Every number here is computed from your own calls, and none have been brought yet.",
        unlocks="all analyses",
        how_to_export="Drop an export on this page: LiteLLM SpendLogs, or any CSV, JSONL or Parquet with time, model "
        "and token counts.",
    ),
)


QUESTIONS = (
    ("Where can I save?", "time, model and token counts of each call"),
    ("What do I spend, by model, feature and day?", "the same, and a feature or tag for spend by feature"),
    ("Which calls could run as a batch?", "a column `interactive` or `deadline_seconds`"),
    ("Which calls are made more than once?", "prompts, of which a keyed fingerprint is kept"),
    ("What would cheaper models cost?", "model and token counts"),
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
    """What is proven before what is a ceiling, larger before smaller; what has no number comes last."""
    found = [
        Finding(**saving.model_dump(), source=result.call)
        for result in findings.results
        for saving in result.result.savings
    ]
    return sorted(found, key=lambda f: (f.saving_usd is None, f.up_to, -Decimal(f.saving_usd or 0)))


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
    """The summary in Markdown, in plain words; every number in it is one of the results' or of the goal.

    The answer first, then what to do, what to mind, what is missing, and last how the log was read.
    """
    if triage.intent == "unclear":
        return _joined(_what_can_be_asked(findings))
    if findings.dataset_id is None:
        return _joined((f"{FIRST_DATA[0].why} {FIRST_DATA[0].how_to_export} Then ask again.", *waits(triage)))
    bill, caveats = _first_sentence(_headline(findings, "dataset_overview"))
    cautions = [caveats, *_caution(triage, findings, body), *waits(triage)]
    failures = [f"*Not computed:* {failure}" for failure in findings.failures]
    return _joined(
        (
            f"**{_plain(findings.dataset_name)}:** {bill}",
            *(_answers(findings) if triage.intent in ANSWERED_BY_HEADLINES else ()),
            *_savings(body),
            *cautions,
            *failures,
            _bullets("To say more, these would help:", [_wanted(item) for item in body.missing]),
            _bullets("How your log was read:", _notes(findings)),
        )
    )


def waits(triage: Triage) -> Iterator[str]:
    """What was understood about who can wait, and what that is good for today."""
    short = [delay for delay in triage.delays if delay.may_wait_ms < DAY_MS]
    long = [delay for delay in triage.delays if delay.may_wait_ms >= DAY_MS]
    if short:
        yield (
            f"I understood that {_waiting(short)}. A batch API may take 24 hours, so a shorter wait makes no call "
            "eligible for one; it is not used in these computations."
        )
    if long:
        yield (
            f"I understood that {_waiting(long)}. That is long enough for a batch API: mark those calls with "
            "`deadline_seconds` in your log and bring it again, and they will be counted."
        )


def sentence(finding: Finding) -> str:
    """A way to save in one line of Markdown."""
    if finding.saving_usd is None:
        return f"**{finding.title}**: not known. {finding.how}"
    amount = f"{'up to ' if finding.up_to else ''}**{spell_dollars(finding.saving_usd)}**"
    return (
        f"**{finding.title}**: {amount} (evidence {finding.evidence}). {finding.how} Response time: {finding.latency}"
    )


def _joined(paragraphs: Iterable[str]) -> str:
    return "\n\n".join(filter(None, paragraphs))


def _bullets(title: str, lines: list[str]) -> str:
    return f"{title}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _what_can_be_asked(findings: Findings) -> Iterator[str]:
    yield "I did not find a question about the cost of LLM calls in that. From the record of your own calls I answer:"
    yield "\n".join(f"- **{question}** It takes {needed}." for question, needed in QUESTIONS)
    if findings.dataset_id is None:
        yield f"No calls have been brought yet. {FIRST_DATA[0].how_to_export}"
    else:
        yield _headline(findings, "dataset_overview")


def _headline(findings: Findings, tool: str) -> str:
    return next((result.result.headline for result in findings.results if result.tool == tool), "")


def _plain(name: str) -> str:
    """A name out of data, such that no character of it is taken for Markdown."""
    return re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", name)


def _first_sentence(text: str) -> tuple[str, str]:
    first, _, rest = text.partition(". ")
    return (f"{first}.", rest) if rest else (text, "")


def _answers(findings: Findings) -> Iterator[str]:
    return (result.result.headline for result in findings.results if result.tool != "dataset_overview")


def _savings(body: ReportBody) -> Iterator[str]:
    """The best that is proven, the largest that may be possible, and where to begin; the cards hold the rest."""
    positive = [finding for finding in body.findings if Decimal(finding.saving_usd or 0) > 0]
    proven = next((found for found in positive if not found.up_to and found.evidence in PROVEN), None)
    ceiling = next((found for found in positive if found.up_to), None)
    if proven:
        yield f"**Proven on your own calls:** {_amount(proven)} (evidence {proven.evidence}): {proven.title}."
    if ceiling:
        yield f"**At most, and not proven:** {_amount(ceiling)} (evidence {ceiling.evidence}): {ceiling.title}."
    if first := proven or ceiling:
        yield f"**Do first:** {first.how} Response time: {first.latency}"
    elif any(finding.saving_usd is not None for finding in body.findings):
        yield "No saving was found on these calls."


def _amount(finding: Finding) -> str:
    known = finding.low is not None and finding.high is not None and finding.low != finding.high
    interval = f" ({spell_dollars(finding.low)} to {spell_dollars(finding.high)})" if known else ""
    return f"{'up to ' if finding.up_to else ''}**{spell_dollars(finding.saving_usd)}**{interval}"


def _wanted(item: Missing) -> str:
    return f"**{item.field}** unlocks {item.unlocks}. {item.how_to_export}"


def _notes(findings: Findings) -> list[str]:
    return [note for result in findings.results for note in result.result.notes]


def _caution(triage: Triage, findings: Findings, body: ReportBody) -> Iterator[str]:
    unknown = [finding.title for finding in body.findings if finding.saving_usd is None]
    if unknown:
        yield f"Not known yet: {', '.join(unknown)}."
    if sum(Decimal(finding.saving_usd or 0) > 0 for finding in body.findings) > 1:
        yield "Ways to save overlap: the same call can be saved only once, so do not add them up."
    if triage.goal_percent is not None:
        yield _goal(triage, findings, body)
    if triage.keep_quality and any(finding.up_to for finding in body.findings):
        yield "Quality was not measured: what is marked “up to” compares prices, it does not prove good answers."


def _goal(triage: Triage, findings: Findings, body: ReportBody) -> str:
    """The goal in dollars, and which way alone could reach it; a ceiling counts for nothing where quality must stay."""
    percent = triage.goal_percent or 0
    spend = next((result.result.spend_usd for result in findings.results if result.result.spend_usd), None)
    if spend is None:
        return f"Your goal of {percent:g} % cannot be told in dollars, because what these calls cost is not known."
    wanted = Decimal(spend) * Decimal(str(percent)) / 100
    goal = f"Your goal of {percent:g} % is {spell_dollars(wanted)}"
    counted = [f for f in body.findings if f.saving_usd and not (f.up_to and triage.keep_quality)]
    if not counted:
        return f"{goal}."
    condition = "without touching quality, " if triage.keep_quality else ""
    reach = [f.title for f in counted if Decimal(f.saving_usd or 0) >= wanted]
    alone = f"{_listed(reach)} could reach it alone" if reach else "none of these ways reaches it alone"
    return f"{goal}; {condition}{alone}."


def _waiting(delays: list[FeatureDelay]) -> str:
    return ", ".join(f"**{delay.feature}** can wait {_spelled_wait(delay.may_wait_ms)}" for delay in delays)


def _spelled_wait(milliseconds: int) -> str:
    """A wait for reading.

    >>> _spelled_wait(500), _spelled_wait(2000), _spelled_wait(1500), _spelled_wait(172_800_000)
    ('500 ms', '2 s', '1500 ms', '48 hours')
    """
    for name, length in (("hours", 3_600_000), ("s", 1000)):
        if milliseconds >= length and milliseconds % length == 0:
            return f"{milliseconds // length} {name}"
    return f"{milliseconds} ms"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
