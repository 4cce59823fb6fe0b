"""The main job in a terminal: what a file of LLM calls cost, and what could be saved. Needs no database."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from apps.errors import NetraError
from apps.llm.catalogue import Catalogue
from apps.operations.commands import NetraCommand
from apps.optimization import presentation
from apps.optimization.analyses import understood
from apps.optimization.analysis import analyse
from apps.optimization.bills import KeptBill, convert_bill
from apps.optimization.calls import reading
from apps.optimization.constraints import constraints
from apps.optimization.conversion import Conversion, Order, convert
from apps.optimization.importers import NoUsableColumns, mapping_of
from apps.optimization.limits import MAX_STAGED
from apps.optimization.local import Local, local_from
from apps.optimization.readers import UnusableFile
from apps.optimization.reconciliation import reconcile
from apps.optimization.scenarios import Scenario, features_of, refuse_unknown_features, what_if_with
from apps.optimization.wishes import goal, share_from, times_from

MEMORY_MIB = 1024  # for DuckDB, at least: in a terminal, one analysis has the machine for itself


class NoSuchFile(NetraError):
    """There is no such file, or it may not be read."""

    code = "file.not_found"


class Command(NetraCommand):
    help = "Analyse a file of LLM calls (CSV, JSON lines, Parquet, LiteLLM spend logs). Nothing leaves the machine."
    needs_house = False

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("file", type=Path, metavar="FILE")
        parser.add_argument("--model", metavar="M", help="price every call as this model, at today's list price")
        parser.add_argument(
            "--map",
            dest="pairs",
            action="append",
            default=[],
            metavar="FIELD=COLUMN",
            help="read a field of a call from this column, for example input_tokens=prompt_len; repeatable",
        )

        parser.add_argument("--bill", type=Path, metavar="FILE", help="compare with this cost report, or FOCUS bill")
        _add_wishes(parser)

    def run(self, *, file: Path, model: str | None, pairs: list[str], bill: Path | None, **written: Any) -> bool:
        asked, wanted = _asked(**written), _share(written, "goal")
        local = local_from(time_zone=written["timezone"], currency=written["currency"])
        _refuse_unreadable(file)
        with TemporaryDirectory(prefix="netra-analyze-") as place, _progress_bar() as begun:
            parquet = Path(place) / "calls.parquet"
            conversion = _converted(file, parquet, model, mapping_of(pairs), begun("Reading calls"))
            charges = _charges(bill, Path(place) / "bill.parquet") if bill else None
            found = _computed(parquet, conversion, charges, asked, local, begun("Looking for savings"))
        found = replace(found, goal=None if wanted is None else goal(wanted, found.analysis.joint))
        self.tell(presentation.document(found))
        if not self.as_json:
            presentation.show(Console(file=self.stdout, highlight=False), file.name, found)  # type: ignore[arg-type]
        return True


def _add_wishes(parser: CommandParser) -> None:
    """What the owner of the calls allows and asks; see `Options` and `Scenario`."""
    add = parser.add_argument
    add("--goal", metavar="SHARE", help="the share of the spend to save, as in 20%%: is it reached?")
    add("--keep-quality", metavar="SHARE", help="the share of today's quality that must be kept (95%%)")
    add("--may-wait", action="append", default=[], metavar="FEATURE=MS", help="answers may take so long; repeatable")
    add("--must-stay", action="append", default=[], metavar="FEATURE=MS", help="do answers keep this? repeatable")
    add("--keep", action="append", default=[], metavar="FEATURE", help="nothing may touch this feature; repeatable")
    add("--candidate", action="append", metavar="MODEL", help="a model that may be asked instead (any); repeatable")
    add("--trim", metavar="SHARE", help="the share of the history that trimming takes away (10%%)")
    add("--output-percentile", metavar="SHARE", help="of a feature's answers that a cap leaves whole (95%%)")
    add("--share-answers", action="store_true", help="let a cache give one user what another one was answered")
    add("--keep-answers", metavar="SECONDS", help="how long a cache may keep an answer (3600), or good: for good")
    add("--ceilings", action="store_true", help="let what only bounds a saving take part in the joint one")
    add("--grow", metavar="SHARE", help="what if there were more calls of the same kind, as in 50%%")
    add(
        "--move",
        nargs=3,
        action="append",
        default=[],
        metavar=("FEATURE", "FROM", "TO"),
        help="what if another model were asked; - for any feature or model; repeatable",
    )
    add("--timezone", default="UTC", metavar="ZONE", help="of days and hours, as in Europe/Berlin (UTC)")
    add("--currency", default="USD", metavar="CODE=RATE", help="of what is printed, as in EUR=0.92 for one dollar")


def _asked(**written: Any) -> Scenario:
    """The wishes as a question.

    Raises:
        ImpossibleOption, ImpossibleQuestion: one of them means nothing.
    """
    moves = [
        {"feature": None if feature == "-" else feature, "model": None if model == "-" else model, "to": to}
        for feature, model, to in written["move"]
    ]
    asked = {
        "quality_floor": _share(written, "keep_quality"),
        "waits": times_from(written["may_wait"], "--may-wait"),
        "within": times_from(written["must_stay"], "--must-stay"),
        "keep": written["keep"],
        "candidates": written["candidate"],
        "trimmed": _share(written, "trim"),
        "output_percentile": _share(written, "output_percentile"),
        "ceilings": written["ceilings"],
        "answers_shared": written["share_answers"] or None,
        "growth": _share(written, "grow"),
        "moves": moves,
    }
    said = {name: value for name, value in asked.items() if value is not None}
    if written["keep_answers"] is not None:
        said["answers_kept"] = None if written["keep_answers"] == "good" else written["keep_answers"]
    question = understood("what_if", said)
    return Scenario.model_validate(question)


def _share(written: Mapping[str, Any], name: str) -> float | None:
    text = written[name]
    return None if text is None else share_from(text, f"--{name.replace('_', '-')}")


def _converted(
    file: Path,
    parquet: Path,
    model: str | None,
    mapping: Mapping[str, str | None],
    progress: Callable[[float], None],
) -> Conversion:
    order = Order(
        source=file.resolve(),
        target=parquet,
        catalogue=Catalogue(),
        now=timezone.now(),
        memory_mib=max(MEMORY_MIB, settings.ANALYSIS_MEMORY_MIB),
        mapping=mapping,
        price_as=model,
    )
    try:
        return convert(order, progress)
    except NoUsableColumns:
        if convert_bill(order.source, parquet.with_name("mistaken.parquet"), most=MAX_STAGED) is None:
            raise
        raise UnusableFile(
            f"{file.name!r} is a bill, and its rows are sums. Analyse a record of calls beside it: analyze CALLS "
            f"--bill {file.name}"
        ) from None


def _computed(
    parquet: Path,
    conversion: Conversion,
    charges: KeptBill | None,
    asked: Scenario,
    local: Local,
    progress: Callable[[float], None],
) -> presentation.Found:
    with reading(
        files=[parquet],
        catalogue=Catalogue(),
        memory_mib=max(MEMORY_MIB, settings.ANALYSIS_MEMORY_MIB),
        notes=conversion.notes,
        time_zone=local.time_zone,
    ) as calls:
        refuse_unknown_features(calls, features_of(asked))
        compared = reconcile(calls, charges) if charges else None
        analysis = analyse(
            calls,
            asked.options(),
            ceilings=asked.ceilings,
            capture_rate=compared.rate if compared else None,
            progress=progress,
        )
        wondered = asked.growth or asked.moves or asked.within
        scenario = what_if_with(calls, asked, analysis.joint) if wondered else None
    return presentation.Found(
        analysis=analysis,
        conversion=conversion,
        reconciliation=compared,
        what_if=scenario,
        asked=tuple(constraints(asked, analysis)),
        local=local,
    )


def _charges(bill: Path, kept: Path) -> KeptBill:
    """The bill, written as `kept`.

    Raises:
        NoSuchFile, UnusableFile: see there.
    """
    _refuse_unreadable(bill)
    found = convert_bill(bill.resolve(), kept, most=MAX_STAGED)
    if found is None:
        raise UnusableFile(
            f"{bill.name!r} is no bill. Pages of OpenAI's or Anthropic's cost and usage APIs work, and FOCUS as CSV or "
            "Parquet."
        )
    return KeptBill(charges=kept, notes=found.notes, rejected=found.rejected, rejects=found.rejects)


def _refuse_unreadable(file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise NoSuchFile(f"{str(file)!r} cannot be read: {error.strerror or error}.") from None


Begun = Callable[[str], Callable[[float], None]]  # takes what begins; what it answers hears percents


@contextmanager
def _progress_bar() -> Iterator[Begun]:
    """A bar on stderr where somebody looks at it, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda what: lambda percent: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def begun(what: str) -> Callable[[float], None]:
            task = bar.add_task(what, total=100)
            return lambda percent: bar.update(task, completed=percent)

        yield begun
