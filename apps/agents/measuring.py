"""How a tool measures: an analysis of the optimizer over one dataset, told as a `Measurement`."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from apps.accounts.tenancy import Principal
from apps.agents.artifacts import Measurement, Missing, Plan, Saving, Table
from apps.errors import NetraError
from apps.execution.context import UserExecutionContext
from apps.llm.amounts import UNKNOWN, spell_dollars
from apps.operations.database import in_analysis, in_database
from apps.optimization import advice, services
from apps.optimization.calls import Calls
from apps.optimization.models import Dataset, StoredAnalysis
from apps.optimization.playbook import PLAYS
from apps.optimization.results import Lack, Strategy
from apps.optimization.scenarios import Asked

LOOK_EVERY = 0.2  # seconds between two looks at an analysis under way
ANALYSIS_DEADLINE = 240.0  # seconds that a tool waits for one; it goes on, and is there for the next question

# What a field is good for, and where it comes from.
WANTED: Mapping[str, tuple[str, str, str]] = {
    "started_at": (
        "Without times, no call can be placed in a period.",
        "spend over time, repeats and forecasts",
        "Export the start time of each call (LiteLLM: startTime).",
    ),
    "ended_at": (
        "How long an answer took is its end less its start.",
        "whether answers keep to a time, and what savings do to it",
        "Export the end time of each call (LiteLLM: endTime).",
    ),
    "model": (
        "Without a model, a call has no price.",
        "cost of any kind",
        "Export the model's name (LiteLLM: model), or upload the log again on the Data page and say there which model "
        "to price it as.",
    ),
    "tokens": (
        "Cost is tokens times price.",
        "cost of any kind",
        "Export prompt and completion tokens.",
    ),
    "prompt": (
        "Repeats can be told only by their prompts, of which a keyed fingerprint is kept.",
        "savings by caching",
        "Export messages or prompts (LiteLLM: store_prompts_in_spend_logs).",
    ),
    "cached_tokens": (
        "What was read from a provider's cache already is no saving, and whoever reads it pays less than list price.",
        "proven savings by caching of prompts",
        "Export the cached tokens (LiteLLM: metadata.usage_object; OpenAI: prompt_tokens_details; Anthropic: "
        "cache_read_input_tokens).",
    ),
    "user": (
        "An answer may be given again only to the one it was given to, so calls must say whose they are.",
        "savings by caching answers, and on calls sent twice",
        "Export the end user, the session or the trace of each call (LiteLLM: end_user, session_id).",
    ),
    "answer": (
        "Whether one answer may serve two questions can be told only where both were answered; a keyed fingerprint of "
        "each answer is kept, never its text.",
        "savings by caching answers to near repeats",
        "Export the answers (LiteLLM: response, with store_prompts_in_spend_logs; else a column `answer`).",
    ),
    "quality": (
        "Without judged answers, nobody knows how well a cheaper model would do.",
        "proven savings by cheaper models",
        "Add a column `quality` (0 to 1, or true and false) to the calls whose answers were judged.",
    ),
    "pairs": (
        "Models can be compared only on the same questions.",
        "proven savings by cheaper models",
        "Let a candidate answer a sample of the same prompts, judge both answers, and add those calls to the log.",
    ),
    "status": (
        "Failures that were billed can be told only by their status.",
        "savings on failures and retries",
        "Export the status of each call (LiteLLM: status).",
    ),
    "history_tokens": (
        "What is sent again can be told only where the parts of the input are counted apart.",
        "savings by trimming",
        "Add a column `history_tokens` per call.",
    ),
    "session": (
        "The turns of a conversation can be told only by the session that they share.",
        "savings by trimming, and intervals that hold",
        "Export the session of each call (LiteLLM: session_id).",
    ),
    "interactive": (
        "Only calls that nobody waits for can be sent as a batch.",
        "proven savings by batching",
        "Add a column `interactive` (true or false) per call or feature.",
    ),
    "deadline_seconds": (
        "A deadline says how long a caller can wait.",
        "proven savings by batching",
        "Add a column `deadline_seconds` per call or feature.",
    ),
    "bill": (
        "Only a bill says whether these calls are all that was paid for.",
        "what the calls explain of the bill",
        "Drop the provider's cost report (OpenAI, Anthropic) or a FOCUS export on the Data page.",
    ),
    "feature": (
        "Without a feature or tag, spend cannot be told apart by what it is for.",
        "spend and savings by feature",
        "Tag your calls (LiteLLM: request_tags) and export the tags.",
    ),
    "price": (
        "The price catalogue has no price for these models.",
        "cost of any kind",
        "Have the operator enter the price you pay in the price list, or upload the log again on the Data page and say "
        "there which model to price it as.",
    ),
    "batch_price": (
        "The price catalogue has no batch price for these models.",
        "savings by batching",
        "Enter the batch price you pay in the price list.",
    ),
}


# What the optimizer calls a field that WANTED knows by another name.
SYNONYMS = {
    "prompt_hash": "prompt",
    "blocks": "prompt",
    "delay": "interactive",
    "history": "history_tokens",
    "owner": "user",
    "attempts": "status",
}


class AnalysisFailed(NetraError):
    """The stored analysis that a tool quotes has no result."""

    code = "analysis.failed"
    retryable = True


class OnDataset(BaseModel):
    """The argument of every measuring tool."""

    model_config = ConfigDict(extra="forbid")

    dataset: UUID = Field(description="Id of the dataset to measure.")


class Wishes(Asked):
    """The arguments of a tool that quotes a stored analysis: the dataset, and what is asked of it."""

    dataset: UUID = Field(description="Id of the dataset to measure.")

    def parameters(self) -> dict[str, Any]:
        """What is asked, as the analysis takes it; empty where nothing is, so that everybody shares that one."""
        return self.model_dump(mode="json", exclude={"dataset"}, exclude_defaults=True)


async def computed(
    context: UserExecutionContext, dataset: UUID, kind: str, parameters: Mapping[str, Any] | None = None
) -> StoredAnalysis:
    """The analysis of these inputs, once a tool worker has computed it; whoever asks the same, shares it.

    Raises:
        NotFound: the user's organization has no such dataset.
        AnalysisFailed: the computation failed, or somebody cancelled it.
        NetraError: it cannot be asked for, see `advice.request_analysis`.
    """
    found = await in_database(
        advice.request_analysis,
        principal=context.principal,
        dataset_id=dataset,
        kind=kind,
        parameters=parameters,
    )
    while found.state in (StoredAnalysis.State.QUEUED, StoredAnalysis.State.RUNNING):
        await asyncio.sleep(LOOK_EVERY)
        found = await in_database(advice.get_analysis, principal=context.principal, analysis_id=found.pk)
    if found.state != StoredAnalysis.State.READY:
        raise AnalysisFailed(found.error_detail or f"The analysis was {found.state}.")
    return found


def bills(principal: Principal) -> list[Dataset]:
    """The bills that the organization has brought, the newest first."""
    kept = services.list_datasets(principal=principal, kind=Dataset.Kind.BILL)
    return list(kept.filter(state=Dataset.State.READY))


def which_bill(brought: Sequence[Dataset]) -> Iterator[str]:
    """That the newest of several bills was taken; nothing where there is no other."""
    if (others := len(brought) - 1) > 0:
        yield (
            f"{brought[0].name} is the newest of {len(brought):,} bills; the Savings page lays "
            f"{'the other' if others == 1 else f'any of the other {others:,}'} beside the calls."
        )


async def measured(
    context: UserExecutionContext, arguments: OnDataset, measure: Callable[[Calls], Measurement]
) -> Measurement:
    """Open the dataset with the user's own rights and run `measure` on it, off the event loop.

    When the tool's time is over, or its run is stopped, the query under way is cut off.

    Raises:
        NotFound: the user's organization has no such dataset.
    """
    opened: list[Calls] = []
    try:
        return await in_analysis(_measure, context, arguments.dataset, measure, opened)
    except asyncio.CancelledError:
        for calls in opened:
            calls.connection.interrupt()
        raise


def _measure(
    context: UserExecutionContext, dataset: UUID, measure: Callable[[Calls], Measurement], opened: list[Calls]
) -> Measurement:
    with services.open_calls(principal=context.principal, dataset_id=dataset) as calls:
        opened.append(calls)
        return measure(calls)


def saving(strategy: Strategy, *, how: str) -> Saving:
    """A strategy's result, as a report shows it: `how` to get what it saves, or why that is unknown."""
    said = (strategy.why,) if strategy.saving_usd is None else (how, strategy.why)
    return Saving(
        title=strategy.title,
        strategy=strategy.name,
        saving_usd=decimal(strategy.saving_usd),
        low=decimal(strategy.low),
        high=decimal(strategy.high),
        evidence=strategy.evidence,
        up_to=strategy.up_to,
        how=" ".join(filter(None, said)),
        assumptions=list(strategy.assumptions),
        latency=strategy.latency_effect,
        plan=plan(strategy.name),
    )


def plan(strategy: str) -> Plan | None:
    """How a strategy is put to work; None where nobody has written that down."""
    return Plan(**PLAYS[strategy].document()) if strategy in PLAYS else None


def decimal(amount: Decimal | None) -> str | None:
    """Dollars as a plain decimal string; None stays None."""
    return None if amount is None else format(amount, "f")


def missing(*fields: str) -> list[Missing]:
    """What to ask for, where it is known what a field is good for."""
    return [
        Missing(field=name, why=why, unlocks=unlocks, how_to_export=how)
        for name in fields
        if name in WANTED
        for why, unlocks, how in (WANTED[name],)
    ]


def lacking(lacks: Iterable[Lack]) -> list[Missing]:
    """What to ask for, each once, with the most that can come of it: the spend of the calls that lack it."""
    most: dict[str, Decimal | None] = {}
    for lack in lacks:
        name = SYNONYMS.get(lack.field, lack.field)
        most[name] = max(most.get(name) or Decimal(0), lack.at_most_usd or Decimal(0)) or None
    return [item.model_copy(update={"at_most_usd": decimal(most[item.field])}) for item in missing(*most)]


Cell = Callable[[Mapping[str, object]], str]  # reads a cell out of a row


def table(title: str, columns: Mapping[str, Cell], rows: list[dict[str, object]]) -> Table:
    """A table whose columns say how to read their cells."""
    return Table(title=title, columns=list(columns), rows=[[read(row) for read in columns.values()] for row in rows])


def text(key: str) -> Cell:
    """Read a name; what the source does not say is shown as such."""
    return lambda row: "(not given)" if row[key] is None else str(row[key])


def count(key: str) -> Cell:
    """Read a whole number."""
    return lambda row: f"{row[key]:,}"


def money(key: str) -> Cell:
    """Read dollars; unknown is said as unknown."""
    return lambda row: spell_dollars(None if row[key] is None else str(row[key]))


def part(key: str) -> Cell:
    """Read a share; unknown is said as unknown."""
    return lambda row: percent(None if row[key] is None else float(str(row[key])))


def called(name: str) -> str:
    """A name out of the data inside of a sentence: short, and in quotation marks, since it may read like one itself.

    >>> called("support"), called("a" * 80) == "“" + "a" * 39 + "…”"
    ('“support”', True)
    """
    return f"“{name if len(name) <= 40 else name[:39] + '…'}”"


def spelled_time(seconds: float | None) -> str:
    """A measured time for reading.

    >>> spelled_time(0.21), spelled_time(86_400.0), spelled_time(None)
    ('0.21 s', '24 hours', 'unknown')
    """
    if seconds is None:
        return UNKNOWN
    return f"{seconds / 3600:.3g} hours" if seconds >= 3600 else f"{seconds:.3g} s"


def percent(share: float | None) -> str:
    """A share for reading.

    >>> percent(0.4213), percent(1), percent(None)
    ('42.1 %', '100.0 %', 'unknown')
    """
    return UNKNOWN if share is None else f"{100 * share:.1f} %"
