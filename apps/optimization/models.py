"""What is kept of an import in the database; the calls themselves are in Parquet, beside it on disk."""

from django.db import models
from django.utils import timezone
from uuid6 import uuid7

from apps.accounts.models import Organization
from apps.accounts.tenancy import TenantQuerySet


class Dataset(models.Model):
    """An imported record of LLM use."""

    class State(models.TextChoices):
        QUEUED = "queued"
        IMPORTING = "importing"
        READY = "ready"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="datasets")
    created_by = models.UUIDField(help_text="The user who uploaded it.")
    name = models.CharField(max_length=200)
    file_name = models.CharField(max_length=255, help_text="As the file was called where it came from.")
    file_bytes = models.PositiveBigIntegerField(help_text="Size of the uploaded file.")
    sha256 = models.CharField(max_length=64, help_text="Of the uploaded file.")
    metadata_only = models.BooleanField(default=False, help_text="Prompt text was never stored.")
    price_as = models.CharField(max_length=128, blank=True, help_text="Every call is priced as this model.")
    mapping = models.JSONField(default=dict, blank=True, help_text="Field of a call -> column of the file, as asked.")
    state = models.CharField(max_length=16, choices=State.choices, default=State.QUEUED)
    attempt = models.PositiveSmallIntegerField(default=0, help_text="Imports begun; every write of one carries it.")
    progress = models.PositiveSmallIntegerField(default=0, help_text="Percent.")
    progress_at = models.DateTimeField(default=timezone.now, help_text="When the import last showed life.")
    source = models.CharField(max_length=32, blank=True, help_text="What the file turned out to be.")
    columns = models.JSONField(default=dict, blank=True, help_text="Field of a call -> column it was read from.")
    conventions = models.JSONField(default=list, blank=True, help_text="Whether input counts cached tokens, and why.")
    notes = models.JSONField(default=list, blank=True, help_text="What the import assumed, in sentences.")
    rows = models.PositiveBigIntegerField(default=0, help_text="Calls that were kept.")
    rejected_rows = models.PositiveBigIntegerField(default=0)
    rejects = models.JSONField(default=list, blank=True, help_text="The first hundred: line, column, reason.")
    first_call_at = models.DateTimeField(null=True, blank=True)
    last_call_at = models.DateTimeField(null=True, blank=True)
    prices = models.CharField(max_length=100, blank=True, help_text="The catalogue that the calls were priced with.")
    error_code = models.CharField(max_length=64, blank=True)
    error_detail = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "sha256", "metadata_only", "price_as"],
                condition=~models.Q(state="failed"),
                name="dataset_file_once",
            ),
            models.CheckConstraint(
                condition=models.Q(state__in=["queued", "importing", "ready", "failed"]), name="dataset_state_known"
            ),
            models.CheckConstraint(condition=models.Q(progress__lte=100), name="dataset_progress_percent"),
        ]
        indexes = [
            models.Index(fields=["organization", "-created_at"], name="dataset_newest"),
            models.Index(
                fields=["progress_at"], condition=models.Q(state__in=["queued", "importing"]), name="dataset_unfinished"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.state})"
