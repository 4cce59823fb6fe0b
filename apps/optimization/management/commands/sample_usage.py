"""Synthetic calls whose truth is known: to try Netra with, and to test it."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from apps.operations.commands import NetraCommand
from apps.optimization import services
from apps.optimization.sample import truth_of_sample, write_sample, write_sample_files


class Command(NetraCommand):
    help = "Write seeded synthetic LLM calls (CSV, or JSON lines for a name that ends in .jsonl) with their truth."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--calls", type=int, default=5000, metavar="N")
        parser.add_argument("--seed", type=int, default=7, metavar="S")
        parser.add_argument("--out", type=Path, metavar="FILE", help="with the truth beside it as .truth.json")
        parser.add_argument(
            "--seed-house", action="store_true", help="import the sample once into the first organization"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        # Only the import needs a house; writing a file does not.
        self.needs_house = options["seed_house"]
        super().handle(*args, **options)

    def run(self, *, calls: int, seed: int, out: Path | None, seed_house: bool, **_: Any) -> bool:
        if seed_house:
            dataset = services.seed_sample(calls=calls, seed=seed)
            self.tell({"dataset": str(dataset.pk) if dataset else None})
            self.say(f"Imported {dataset.name!r}." if dataset else "Nothing to do: the sample was imported before.")
        elif out:
            self.tell(write_sample_files(path=out, calls=calls, seed=seed).document())
            self.say(f"Wrote {out} and {out.with_suffix('.truth.json').name}.")
        elif self.as_json:
            self.tell(truth_of_sample(calls=calls, seed=seed).document())
        else:
            write_sample(out=self.stdout, calls=calls, seed=seed)  # type: ignore[arg-type]
        return True
