"""`manage.py evaluate`: the optimizer's numbers beside what is known to be true. Needs no database."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser
from django.utils import timezone
from rich.console import Console
from rich.table import Table

from apps.operations.commands import NetraCommand
from apps.operations.startup import CHECKOUT
from apps.optimization.evaluation import Bench, Finding, evaluate

PUBLIC = CHECKOUT.parent / "shared" / "data"
_ANSWERS = {None: "not measured", True: "yes", False: "NO"}


class Command(NetraCommand):
    help = "Compute what is known to be true, and say whether it comes out. Takes a minute."
    needs_house = False

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--data", type=Path, default=PUBLIC, metavar="FOLDER", help="where the public traces are")
        parser.add_argument("--quick", action="store_true", help="fewer trials, and a smaller month")

    def run(self, *, data: Path, quick: bool, **_: Any) -> bool:
        rows = []
        with TemporaryDirectory(prefix="netra-evaluate-") as scratch:
            bench = Bench(
                data=data,
                scratch=Path(scratch),
                now=timezone.now(),
                memory_mib=settings.ANALYSIS_MEMORY_MIB,
                quick=quick,
            )
            for row in evaluate(bench):
                self.stderr.write(f"{row.name} ...")
                rows.append(row)
        self.tell({"rows": [asdict(row) for row in rows]})
        if not self.as_json:
            console = Console(width=120, highlight=False)
            with console.capture() as drawn:
                console.print(table(rows))
            self.say(drawn.get())
        return all(row.holds is not False for row in rows)


def table(rows: Sequence[Finding]) -> Table:
    """The rows for a person."""
    drawn = Table("what", "value", "expected", "holds", box=None, pad_edge=False)
    drawn.columns[1].justify = "right"
    for row in rows:
        value = "" if row.value is None else f"{row.value:,.4f}".rstrip("0").rstrip(".")
        drawn.add_row(
            row.name, f"{value} {row.unit}", row.expected, f"{_ANSWERS[row.holds]}{row.why and f': {row.why}'}"
        )
    return drawn
