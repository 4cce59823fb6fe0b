"""Import a file of calls into a running house from a terminal."""

from pathlib import Path
from time import sleep
from typing import Any
from uuid import UUID

from django.core.management.base import CommandParser

from apps.accounts.models import User
from apps.accounts.tenancy import Principal, principal_for
from apps.errors import NetraError, NotFound
from apps.operations.commands import NetraCommand
from apps.optimization import services
from apps.optimization.datasets import DatasetFailed
from apps.optimization.importers import mapping_of
from apps.optimization.models import Dataset

LOOK_EVERY = 0.5  # seconds


class NoSuchUser(NotFound):
    """Nobody signs in with this address."""

    code = "user.not_found"


class NoSuchFile(NetraError):
    """There is no such file, or it may not be read."""

    code = "file.not_found"


class Command(NetraCommand):
    help = "Import a file of LLM calls as a dataset of the organization of the user with this e-mail address."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("file", type=Path, metavar="FILE")
        parser.add_argument("--email", required=True)
        parser.add_argument("--name", default="", help="default: the file's name")
        parser.add_argument(
            "--continues",
            metavar="DATASET",
            help="the id of the dataset of which this is a later file; read as that was",
        )
        parser.add_argument("--metadata-only", action="store_true", help="never store prompt text")
        parser.add_argument(
            "--map",
            dest="pairs",
            action="append",
            default=[],
            metavar="FIELD=COLUMN",
            help="read a field of a call from this column, for example input_tokens=prompt_len; repeatable",
        )

    def run(
        self,
        *,
        file: Path,
        email: str,
        name: str,
        metadata_only: bool,
        pairs: list[str],
        continues: str | None,
        **_: Any,
    ) -> bool:
        if not file.is_file():
            raise NoSuchFile(f"There is no file {str(file)!r}.")
        principal = _principal(email)
        dataset = services.create_dataset(
            principal=principal,
            upload=services.LocalFile(file),
            name=name,
            mapping=mapping_of(pairs),
            metadata_only=metadata_only,
            continues=_id(continues) if continues else None,
        )
        dataset = _imported(principal, dataset)
        self.tell(services.as_document(dataset))
        if dataset.state == Dataset.State.FAILED:
            raise DatasetFailed(dataset.error_detail)
        known = f"{dataset.known_rows:,} known already, " if dataset.continues_id else ""
        rows = "charges" if dataset.kind == Dataset.Kind.BILL else "calls"
        self.say(
            f"{dataset.name}: {dataset.rows:,} {rows}, {known}{dataset.rejected_rows:,} rows rejected. {dataset.pk}"
        )
        return True


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise services.DatasetNotFound(
            f"{text!r} is no id of a dataset. They are on the Data page, and printed here."
        ) from None


def _principal(email: str) -> Principal:
    user = User.objects.filter(email=email.strip().lower()).first()
    if user is None:
        raise NoSuchUser(f"Nobody signs in with {email!r}.")
    return principal_for(user=user)


def _imported(principal: Principal, dataset: Dataset) -> Dataset:
    """The dataset once it is ready or failed; whoever is first, this process or a worker, imports it."""
    dataset = services.import_now(principal=principal, dataset_id=dataset.pk)
    while dataset.state in (Dataset.State.QUEUED, Dataset.State.IMPORTING):
        sleep(LOOK_EVERY)
        dataset = services.get_dataset(principal=principal, dataset_id=dataset.pk)
    return dataset
