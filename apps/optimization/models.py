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


class PriceWatch(models.Model):
    """The prices of one dataset as they were last seen, to notice that one has changed."""

    dataset = models.OneToOneField(Dataset, on_delete=models.CASCADE, related_name="price_watch", primary_key=True)
    imported_at = models.DateTimeField(null=True, help_text="When the calls were imported that the prices are of.")
    # Each a model in a tier: its share of the spend, its rates on the day of the last call (`then`) and today (`now`).
    prices = models.JSONField()
    seen_at = models.DateTimeField(help_text="When they were first seen, or last found to have changed.")

    def __str__(self) -> str:
        return f"prices of {self.dataset_id}"


class PriceAlert(models.Model):
    """One rate that a dataset's calls pay has become another. Stays until somebody dismisses it."""

    class Concerns(models.TextChoices):
        PAST = "past", "calls that were imported"
        CURRENT = "current", "calls from now on"
        BOTH = "both", "calls that were imported and calls from now on"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="price_alerts")
    model = models.CharField(max_length=1000)
    provider = models.CharField(max_length=1000, blank=True)
    tier = models.CharField(max_length=1000)
    kind = models.CharField(max_length=64, help_text="Of tokens.")
    old = models.CharField(max_length=32, null=True, help_text="Dollars per 1,000,000 tokens. Null: was not known.")
    new = models.CharField(max_length=32, null=True, help_text="Null: is not known any more.")
    concerns = models.CharField(max_length=8, choices=Concerns.choices)
    effective_from = models.DateTimeField(null=True, help_text="Since when the new rate holds, where that is known.")
    provenance = models.CharField(max_length=1000, blank=True, help_text="Where the new rate is from.")
    share = models.FloatField(null=True, help_text="Of the dataset's spend that is the model's, 0-1.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    dismissed_at = models.DateTimeField(null=True, blank=True)
    dismissed_by = models.UUIDField(null=True, blank=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(
                fields=["organization", "-id"], condition=models.Q(dismissed_at=None), name="price_alert_open"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.kind}: {self.old} -> {self.new}"
