"""The main job in a terminal: what a file of LLM calls cost, and what could be saved. Needs no database."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from apps.optimization.analysis import analyse
from apps.optimization.bills import convert_bill
from apps.optimization.calls import reading
from apps.optimization.conversion import Conversion, Order, convert
from apps.optimization.importers import mapping_of
from apps.optimization.limits import MAX_STAGED
from apps.optimization.readers import UnusableFile
from apps.optimization.reconciliation import Reconciliation, reconcile
from apps.optimization.results import Analysis


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

    def run(self, *, file: Path, model: str | None, pairs: list[str], bill: Path | None, **_: Any) -> bool:
        _refuse_unreadable(file)
        with TemporaryDirectory(prefix="netra-analyze-") as place, _progress_bar() as begun:
            parquet = Path(place) / "calls.parquet"
            conversion, analysis = _computed(file, parquet, model, mapping_of(pairs), begun)
            reconciliation = _reconciled(parquet, bill) if bill else None
        self.tell(presentation.document(analysis, conversion, reconciliation))
        if not self.as_json:
            console = Console(file=self.stdout, highlight=False)  # type: ignore[arg-type]
            presentation.show(console, file.name, analysis, conversion)
            if reconciliation:
                presentation.show_reconciliation(console, reconciliation)
        return True


def _computed(
    file: Path,
    parquet: Path,
    model: str | None,
    mapping: Mapping[str, str | None],
    begun: "Begun",
) -> tuple[Conversion, Analysis]:
    memory, catalogue = settings.ANALYSIS_MEMORY_MIB, Catalogue()
    order = Order(
        source=file.resolve(),
        target=parquet,
        catalogue=catalogue,
        now=timezone.now(),
        memory_mib=memory,
        mapping=mapping,
        metadata_only=True,
        price_as=model,
    )
    conversion = convert(order, begun("Reading calls"))
    with reading(files=[parquet], catalogue=catalogue, memory_mib=memory, notes=conversion.notes) as calls:
        return conversion, analyse(calls, progress=begun("Looking for savings"))


def _reconciled(parquet: Path, bill: Path) -> Reconciliation:
    """The calls beside the bill.

    Raises:
        NoSuchFile, UnusableFile, CannotReconcile: see there.
    """
    _refuse_unreadable(bill)
    kept, memory = parquet.with_name("bill.parquet"), settings.ANALYSIS_MEMORY_MIB
    if convert_bill(bill.resolve(), kept, most=MAX_STAGED) is None:
        raise UnusableFile(
            f"{bill.name!r} is no bill. Pages of OpenAI's or Anthropic's cost and usage APIs work, and FOCUS as CSV or "
            "Parquet."
        )
    with reading(files=[parquet], catalogue=Catalogue(), memory_mib=memory) as calls:
        return reconcile(calls, kept)


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
