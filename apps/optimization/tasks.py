"""Work for the tool workers. A message carries a dataset's id; the row decides what is to be done."""

from uuid import UUID

from celery import shared_task

from apps.optimization import imports


@shared_task(name="optimization.import_dataset")
def import_dataset(*, dataset: str) -> None:
    """Import one dataset; does nothing if it is not queued."""
    imports.run_import(UUID(dataset))
