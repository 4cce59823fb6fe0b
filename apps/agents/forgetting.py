"""What agents wrote about a dataset goes with it."""

from typing import Any

from django.db.models.signals import post_delete
from django.dispatch import receiver

from apps.agents.models import Report
from apps.optimization.models import Dataset


@receiver(post_delete, sender=Dataset)
def _remove_reports(instance: Dataset, **_: Any) -> None:
    """The figures of a report are those of the calls; its message stays, with a link that leads nowhere."""
    Report.objects.filter(organization=instance.organization_id, body__dataset_id=str(instance.pk)).delete()
