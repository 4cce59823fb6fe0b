"""A report out of findings: everything in it stands in a tool's result, and says in which."""

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal

from apps.agents.artifacts import (
    Adopted,
    FeatureDelay,
    Finding,
    Findings,
    Intent,
    JointSaving,
    Missing,
    ReportBody,
    Source,
    Triage,
)
from apps.llm.amounts import spell_dollars
from apps.optimization.waits import spelled_wait
from apps.optimization.wishes import goal

TITLES: dict[Intent, str] = {
    "savings": "Where you can save",
    "spend": "What you spend",
    "batch": "What could run as a batch",
    "duplicates": "Calls made more than once",
    "models": "What cheaper models would cost",
    "caching": "What caches would save",
    "retries": "What failures and retries cost",
    "lengths": "What long prompts and answers cost",
    "forecast": "What the next weeks cost",
    "anomalies": "What stood out, and why",
    "changes": "What changed, and why",
    "what_if": "What it would cost",
    "tradeoffs": "Cost against latency and quality",
    "outcomes": "What adopted advice has saved",
    "sufficiency": "How complete your data is",
    "reconciliation": "Your calls beside your bill",
    "unclear": "What you can ask",
}
IN_GENERAL: frozenset[Intent] = frozenset({"savings", "spend", "sufficiency", "unclear"})
PROVEN = frozenset({"E2", "E3", "E4"})
TELL_WAITS = ("what_if", "pareto")  # tools that say themselves what follows from a wait
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
    ("What if usage grows, or a feature moves to another model?", "time, model and token counts"),
    ("What will I spend next month?", "a few weeks of calls"),
    ("Why did my cost jump?", "at least two weeks of calls"),
    ("What did I save since I adopted it?", "advice adopted on the Savings page, and calls since"),
    ("Is my data complete?", "nothing more"),
    ("Does it match my bill?", "a bill of the same days: a cost report, or FOCUS"),
)


def compose(triage: Triage, findings: Findings) -> ReportBody:
    """The report, without its summary's wording by a model: that is `narrate`'s or a model's part."""
    body = ReportBody(
        title=TITLES[triage.intent] + (f": {findings.dataset_name}" if findings.dataset_name else ""),
        summary="",
        dataset_id=findings.dataset_id,
        dataset_name=findings.dataset_name,
        findings=_ranked(findings),
        joint=_joint(findings),
        tables=[table for result in findings.results for table in result.result.tables],
        charts=[chart for result in findings.results for chart in result.result.charts],
        missing=_missing(triage, findings),
        sources=[
            Source(tool=result.tool, call=result.call, analysis=result.result.analysis) for result in findings.results
        ],
    )
    return body.model_copy(update={"summary": narrate(triage, findings, body)})


def _ranked(findings: Findings) -> list[Finding]:
    """What is proven before what is a ceiling, more dollars per day of effort first; what has no number comes last."""
    found = [
        _marked(Finding(**saving.model_dump(), source=result.call, analysis=result.result.analysis), findings)
        for result in findings.results
        for saving in result.result.savings
    ]
    return sorted(found, key=lambda f: (f.saving_usd is None, f.up_to, -_per_day(f)))


def _marked(finding: Finding, findings: Findings) -> Finding:
    """What is in use already says since when and what it did, in place of how it is done."""
    remark = next((each.remark for each in _adopted(findings) if _is_of(each, finding)), None)
    if remark is None:
        return finding
    how = f"{remark} The saving stated here is of all calls of the log, also of those from before."
    return finding.model_copy(update={"adopted": True, "how": how, "plan": None})


def _adopted(findings: Findings) -> list[Adopted]:
    return [each for result in findings.results for each in result.result.adopted]


def _is_of(adopted: Adopted, finding: Finding) -> bool:
    """Whether the same is done already, or under a rule that allows more."""
    return adopted.strategy == finding.strategy and bool(adopted.needs or not finding.needs)


def _per_day(finding: Finding) -> Decimal:
    """Dollars for each day of effort, as recommendations are ranked."""
    days = finding.plan.effort_days if finding.plan else 1.0
    return Decimal(finding.saving_usd or 0) / Decimal(str(days))


def _joint(findings: Findings) -> JointSaving | None:
    return next((result.result.joint for result in findings.results if result.result.joint), None)


def _missing(triage: Triage, findings: Findings) -> list[Missing]:
    """Each field once, what most can come of first; what the data lacks in general, where it was asked in general."""
    wanted = {item.field: item for item in FIRST_DATA} if findings.dataset_id is None else {}
    results = [each for each in findings.results if triage.intent in IN_GENERAL or each.tool != "dataset_overview"]
    for result in results:
        for item in result.result.missing:
            if item.field not in wanted or _at_most(item) > _at_most(wanted[item.field]):
                wanted[item.field] = item
    return sorted(wanted.values(), key=_at_most, reverse=True)


def _at_most(item: Missing) -> Decimal:
    return Decimal(item.at_most_usd or 0)


def narrate(triage: Triage, findings: Findings, body: ReportBody) -> str:
    """The summary in Markdown, in plain words; every number in it is one of the results' or of the goal.

    The answer first, then what to do, what to mind, what is missing, and last how the log was read.
    """
    if triage.intent == "unclear":
        return _joined(_what_can_be_asked(findings))
    if findings.dataset_id is None:
        return _joined(
            (f"{FIRST_DATA[0].why} {FIRST_DATA[0].how_to_export} Then ask again.", *waits(triage, findings, None))
        )
    bill, caveats = _first_sentence(_headline(findings, "dataset_overview"))
    cautions = [caveats, *_caution(triage, body), *waits(triage, findings, body.joint)]
    failures = [f"*Not computed:* {failure}" for failure in findings.failures]
    return _joined(
        (
            f"**{_plain(findings.dataset_name)}:** {bill}",
            *findings.remarks,
            *_answers(triage, findings),
            "" if triage.goal_percent is None else _goal(triage, findings, body),
            *_savings(body),
            *_in_use(findings, body),
            *cautions,
            *failures,
            _bullets("To say more, these would help:", [_wanted(item) for item in body.missing]),
            _bullets("What this takes for granted:", _notes(findings, of_the_log=False)),
            _bullets("How your log was read:", _notes(findings, of_the_log=True)),
        )
    )


def waits(triage: Triage, findings: Findings, joint: JointSaving | None) -> Iterator[str]:
    """What was understood about who can wait, and what that did to the joint saving, or is good for without one."""
    if joint:
        yield from joint.constraints
        return
    if any(result.tool in TELL_WAITS for result in findings.results):
        return
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
        f"**{finding.title}**: {amount} (evidence {finding.evidence}{_confidence(finding)}). {finding.how} "
        f"Response time: {finding.latency}"
    )


def _confidence(finding: Finding) -> str:
    """How sure it is, in the words that say where that is from."""
    if finding.confidence is None:
        return ""
    return f", confidence {100 * finding.confidence:.0f} %{'' if finding.calibrated else ', prior, uncalibrated'}"


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


def _answers(triage: Triage, findings: Findings) -> Iterator[str]:
    """What the tools say first; of a question for savings, what is saved together."""
    wanted = {"joint_saving", "what_if"} if triage.intent == "savings" else None
    beside = {"dataset_overview"} if triage.intent == "outcomes" else {"dataset_overview", "outcomes"}
    for result in findings.results:
        if result.tool not in beside and (wanted is None or result.tool in wanted):
            yield result.result.headline


def _savings(body: ReportBody) -> Iterator[str]:
    """The best that is proven, the largest that may be possible, and where to begin; the cards hold the rest."""
    left = [finding for finding in body.findings if not finding.adopted]
    positive = [finding for finding in left if Decimal(finding.saving_usd or 0) > 0]
    real = [found for found in positive if not found.up_to and found.evidence in PROVEN]
    ceiling = next((found for found in positive if found.up_to), None)
    proven, asked = ([found for found in real if bool(found.needs) is needy] for needy in (False, True))
    for best in sorted((*proven[:1], *asked[:1]), key=real.index):
        kind = "If you allow it, replayed on your own calls" if best.needs else "Proven on your own calls"
        yield f"**{kind}:** {_amount(best)} (evidence {best.evidence}{_confidence(best)}): {best.title}."
    if ceiling:
        yield f"**At most, and not proven:** {_amount(ceiling)} (evidence {ceiling.evidence}): {ceiling.title}."
    if first := next(iter(proven), ceiling):
        yield f"**Do first:** {first.how} Response time: {first.latency}{_conditions(first)}"
    elif any(finding.saving_usd is not None for finding in left):
        yield "No saving was found on these calls."
    if rest := [found.title for found in real if found is not first]:
        yield f"**Then, by dollars per day of work:** {'; '.join(rest)}."


def _in_use(findings: Findings, body: ReportBody) -> Iterator[str]:
    """What is done already of what was asked for, told and not advised again."""
    shown = [each for each in _adopted(findings) if any(_is_of(each, finding) for finding in body.findings)]
    for each in shown:
        yield f"**{each.title}:** {each.remark}"
    if shown and body.joint:
        yield "What is in use counts in the joint saving with the calls of the whole log, also with those from before."


def _conditions(finding: Finding) -> str:
    """What has to be there before, and when to go back."""
    if finding.plan is None:
        return ""
    return f" Needed: {' '.join(finding.plan.prerequisites)} {finding.plan.rollback}"


def _amount(finding: Finding) -> str:
    known = finding.low is not None and finding.high is not None and finding.low != finding.high
    interval = f" ({spell_dollars(finding.low)} to {spell_dollars(finding.high)})" if known else ""
    return f"{'up to ' if finding.up_to else ''}**{spell_dollars(finding.saving_usd)}**{interval}"


def _wanted(item: Missing) -> str:
    spend = f", on up to {spell_dollars(item.at_most_usd)} of the spend" if item.at_most_usd else ""
    return f"**{item.field}** unlocks {item.unlocks}{spend}. {item.how_to_export}"


def _notes(findings: Findings, *, of_the_log: bool) -> list[str]:
    results = (each for each in findings.results if (each.tool == "dataset_overview") is of_the_log)
    return [note for result in results for note in result.result.notes]


def _caution(triage: Triage, body: ReportBody) -> Iterator[str]:
    unknown = [finding.title for finding in body.findings if finding.saving_usd is None]
    if unknown:
        yield f"Not known yet: {', '.join(unknown)}."
    if sum(Decimal(finding.saving_usd or 0) > 0 for finding in body.findings) > 1:
        yield "Ways to save overlap: the same call can be saved only once, so do not add them up."
    if triage.keep_quality and any(finding.up_to for finding in body.findings):
        yield "Quality was not measured: what is marked “up to” compares prices, it does not prove good answers."


def _goal(triage: Triage, findings: Findings, body: ReportBody) -> str:
    """The goal in dollars, and whether it is reached: together where that was computed, else by one way alone.

    A ceiling counts for nothing where quality must stay.
    """
    percent = triage.goal_percent or 0
    spend = next((result.result.spend_usd for result in findings.results if result.result.spend_usd), None)
    if spend is None:
        return f"Your goal of {percent:g} % cannot be told in dollars, because what these calls cost is not known."
    wanted = Decimal(spend) * Decimal(str(percent)) / 100
    said = f"Your goal of {percent:g} % is {spell_dollars(wanted)}"
    counted = [f for f in body.findings if f.saving_usd and not f.adopted and not (f.up_to and triage.keep_quality)]
    reach = [f for f in counted if Decimal(f.saving_usd or 0) >= wanted]
    if body.joint:
        together = goal(percent / 100, body.joint)
        beyond = [f.title for f in reach if f.joint_usd is None and together.reached is not True]
        return f"{said}. {together.sentence}{f' {_listed(beyond)} could reach it alone.' if beyond else ''}"
    if not counted:
        return f"{said}."
    condition = "without touching quality, " if triage.keep_quality else ""
    titles = [f.title for f in reach]
    alone = f"{_listed(titles)} could reach it alone" if titles else "none of these ways reaches it alone"
    return f"{said}; {condition}{alone}."


def _waiting(delays: list[FeatureDelay]) -> str:
    """Who can wait for how long, or not at all.

    >>> _waiting([FeatureDelay(feature="chat", may_wait_ms=500), FeatureDelay(feature="ads", may_wait_ms=0)])
    '**chat** can wait 500 ms, **ads** cannot wait'
    """
    return ", ".join(
        f"**{delay.feature}** "
        + (f"can wait {spelled_wait(delay.may_wait_ms)}" if delay.may_wait_ms else "cannot wait")
        for delay in delays
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
