"""How complete the data is for each analysis, and what each missing field would bring."""

from apps.agents.artifacts import Measurement, Table
from apps.agents.measuring import ANALYSIS_DEADLINE, OnDataset, bills, computed, lacking, percent, which_bill
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool, tools
from apps.operations.database import in_database
from apps.optimization.models import StoredAnalysis
from apps.optimization.results import Assessment, Sufficiency
from apps.optimization.sufficiency import OVERALL

COLUMNS = ["Analysis", "Score of 100", "State", "Share of spend that carries what it needs", "Missing"]


def measure(stored: StoredAnalysis) -> Measurement:
    found = dict(Assessment.model_validate(stored.result).sufficiency)
    whole = found.pop(OVERALL)
    return Measurement(
        headline=_headline(whole, found),
        tables=[Table(title="How far the data carries each analysis", columns=COLUMNS, rows=_rows(found))],
        missing=lacking(lack for each in found.values() for lack in each.lacks),
        analysis=stored.pk,
    )


def _headline(whole: Sufficiency, found: dict[str, Sufficiency]) -> str:
    complete = [name for name, each in found.items() if each.state in ("sufficient", "optimal")]
    short = [name.replace("_", " ") for name, each in found.items() if each.state == "insufficient"]
    lacks = f" It does not carry: {', '.join(short)}." if short else ""
    sampled = f" It looks like a sample: {whole.sampled}" if whole.sampled else ""
    return (
        f"Your data is **{whole.state}**: {whole.score} of 100. "
        f"It carries {len(complete)} of {len(found)} analyses well.{lacks}{sampled}"
    )


def _rows(found: dict[str, Sufficiency]) -> list[list[str]]:
    ordered = sorted(found.items(), key=lambda item: item[1].score)
    return [
        [
            name.replace("_", " "),
            str(each.score),
            each.state,
            percent(each.parts.coverage),
            ", ".join(field.replace("_", " ") for field in each.missing) or "nothing",
        ]
        for name, each in ordered
    ]


async def run(context: UserExecutionContext, arguments: OnDataset) -> Measurement:
    brought = await in_database(bills, context.principal)
    beside = {"bill": str(brought[0].pk)} if brought else {}
    found = measure(await computed(context, arguments.dataset, "sufficiency", beside))
    return found.model_copy(update={"notes": [*found.notes, *which_bill(brought)]})


TOOL = tools.register(
    Tool(
        name="sufficiency",
        description="How complete the data is for each analysis, what is missing, and what it would bring at most.",
        arguments=OnDataset,
        run=run,
        deadline=ANALYSIS_DEADLINE,
        slow_after=None,
        summarize=lambda result: result.headline.replace("**", ""),
    )
)
