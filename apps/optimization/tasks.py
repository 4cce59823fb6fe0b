"""Work for the tool workers. A message carries a dataset's id; the row decides what is to be done."""

from uuid import UUID

from celery import shared_task

from apps.optimization import analyses, imports


@shared_task(name="optimization.import_dataset")
def import_dataset(*, dataset: str) -> None:
    """Import one file and have its dataset analysed; does nothing if it is not queued."""
    ready = imports.run_import(UUID(dataset))
    if ready is None:
        return
    analysis, made = analyses.kept(ready.continues or ready, "savings", {}, by=ready.created_by)
    if made:
        # A ring that is lost is repeated by the sweep.
        run_analysis.apply_async(kwargs={"analysis": str(analysis.pk)}, retry=False)


@shared_task(name="optimization.run_analysis")
def run_analysis(*, analysis: str) -> None:
    """Compute one analysis; does nothing if it is not queued."""
    analyses.run_analysis(UUID(analysis))
