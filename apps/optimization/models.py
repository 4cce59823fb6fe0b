"""What is kept of an import in the database; the calls themselves are in Parquet, beside it on disk."""

import secrets
from typing import Any, ClassVar
from uuid import UUID

from django.db import models, transaction
from django.utils import timezone
from uuid6 import uuid7

from apps.accounts.models import Organization
from apps.accounts.tenancy import TenantQuerySet
from apps.optimization.jobs import Job


def new_hash_key() -> bytes:
    """What prompts of one dataset are hashed with, so that a later file of it hashes alike and nobody else's does."""
    return secrets.token_bytes(32)


class Dataset(Job):
    """An imported record of LLM use: one file, or the first of several that continue it, each a row of its own."""

    WORKING: ClassVar[str] = "importing"

    class State(models.TextChoices):
        QUEUED = "queued"
        IMPORTING = "importing"
        READY = "ready"
        FAILED = "failed"
        CANCELLED = "cancelled"

    class Kind(models.TextChoices):
        CALLS = "calls"
        BILL = "bill"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="datasets")
    continues = models.ForeignKey(
        "self",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="later_files",
        help_text="The dataset whose calls this file continues.",
    )
    kind = models.CharField(
        max_length=8,
        choices=Kind.choices,
        default=Kind.CALLS,
        help_text="A bill has charges by day instead of calls. Known once the file was imported.",
    )
    name = models.CharField(max_length=200)
    file_name = models.CharField(max_length=255, help_text="As the file was called where it came from.")
    file_bytes = models.PositiveBigIntegerField(help_text="Size of the uploaded file.")
    sha256 = models.CharField(max_length=64, help_text="Of the uploaded file.")
    metadata_only = models.BooleanField(default=False, help_text="Prompt text was never stored.")
    price_as = models.CharField(max_length=128, blank=True, help_text="Every call is priced as this model.")
    mapping = models.JSONField(default=dict, blank=True, help_text="Field of a call -> column of the file, as asked.")
    live = models.BooleanField(default=False, help_text="Spans come in while their system runs, a file a minute.")
    state = models.CharField(max_length=16, choices=State.choices, default=State.QUEUED)
    hash_key = models.BinaryField(default=new_hash_key, editable=False)
    keep_days = models.PositiveIntegerField(
        null=True, blank=True, help_text="Calls are removed when they are older. Empty: kept until it is deleted."
    )
    time_zone = models.CharField(max_length=64, default="UTC", help_text="Of the days and hours in reports.")
    currency = models.CharField(max_length=3, default="USD", help_text="Of reports; prices are dollars.")
    currency_rate = models.DecimalField(
        max_digits=18, decimal_places=6, default=1, help_text="Units of the currency for one dollar."
    )
    source = models.CharField(max_length=32, blank=True, help_text="What the file turned out to be.")
    columns = models.JSONField(default=dict, blank=True, help_text="Field of a call -> column it was read from.")
    conventions = models.JSONField(default=list, blank=True, help_text="Whether input counts cached tokens, and why.")
    notes = models.JSONField(default=list, blank=True, help_text="What the import assumed, in sentences.")
    rows = models.PositiveBigIntegerField(default=0, help_text="Calls that were kept.")
    rejected_rows = models.PositiveBigIntegerField(default=0)
    known_rows = models.PositiveBigIntegerField(default=0, help_text="Calls that an earlier file had brought already.")
    rejects = models.JSONField(default=list, blank=True, help_text="The first hundred: line, column, reason.")
    first_call_at = models.DateTimeField(null=True, blank=True)
    last_call_at = models.DateTimeField(null=True, blank=True)
    prices = models.CharField(max_length=100, blank=True, help_text="The catalogue that the calls were priced with.")

    objects = TenantQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "sha256", "metadata_only", "price_as"],
                condition=~models.Q(state="failed") & models.Q(live=False),
                name="dataset_file_once",
            ),
            models.CheckConstraint(
                condition=models.Q(state__in=["queued", "importing", "ready", "failed", "cancelled"]),
                name="dataset_state_known",
            ),
            models.CheckConstraint(condition=models.Q(progress__lte=100), name="dataset_progress_percent"),
            models.CheckConstraint(condition=models.Q(kind__in=["calls", "bill"]), name="dataset_kind_known"),
        ]
        indexes = [
            models.Index(fields=["organization", "-created_at"], name="dataset_newest"),
            models.Index(
                fields=["progress_at"], condition=models.Q(state__in=["queued", "importing"]), name="dataset_unfinished"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.state})"

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Remove the row and all that hangs on it, also what a worker is about to hang on it at this moment."""
        with transaction.atomic():
            # Whoever adds a row that names this one waits for this lock, or is waited for; so none is overlooked.
            Dataset.objects.filter(pk=self.pk).select_for_update().first()
            return super().delete(*args, **kwargs)


class StoredAnalysis(Job):
    """One computation over a dataset, with everything that is needed to do it again and get the same."""

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        READY = "ready"
        FAILED = "failed"
        CANCELLED = "cancelled"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="analyses")
    kind = models.CharField(max_length=32, help_text="What was computed: see `analyses.KINDS`.")
    parameters = models.JSONField(default=dict, blank=True)
    inputs = models.CharField(max_length=64, help_text="SHA-256 over kind, parameters, files, prices and code version.")
    dataset_hash = models.CharField(max_length=64, help_text="SHA-256 over the files of the dataset.")
    prices = models.CharField(max_length=100, help_text="Version of the catalogue.")
    code_version = models.CharField(max_length=32)
    state = models.CharField(max_length=16, choices=State.choices, default=State.QUEUED)
    result = models.JSONField(null=True, blank=True)
    seconds = models.FloatField(null=True, blank=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        verbose_name, verbose_name_plural = "analysis", "analyses"
        constraints = [
            models.UniqueConstraint(
                fields=["dataset", "inputs"],
                condition=models.Q(state__in=["queued", "running", "ready"]),
                name="analysis_once",
            )
        ]
        indexes = [
            models.Index(
                fields=["progress_at"], condition=models.Q(state__in=["queued", "running"]), name="analysis_unfinished"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.dataset_id} ({self.state})"


class Recommendation(models.Model):
    """Something to do, as an analysis found it; and whether somebody does it."""

    class State(models.TextChoices):
        OPEN = "open"
        ADOPTED = "adopted"
        DISMISSED = "dismissed"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="recommendations")
    analysis = models.ForeignKey(StoredAnalysis, on_delete=models.SET_NULL, null=True, related_name="+")
    strategy = models.CharField(max_length=64)
    title = models.CharField(max_length=200)
    needs = models.CharField(
        max_length=200, blank=True, default="", help_text="What its owner has to allow; empty where nothing."
    )
    saving_usd = models.DecimalField(
        max_digits=20,
        decimal_places=12,
        help_text="On the calls that were analysed; where it needs something, beyond what is saved without.",
    )
    low_usd = models.DecimalField(max_digits=20, decimal_places=12, null=True)
    high_usd = models.DecimalField(max_digits=20, decimal_places=12, null=True)
    monthly_usd = models.DecimalField(
        max_digits=20,
        decimal_places=12,
        null=True,
        help_text="Per 30 days; empty where the log is shorter than a week.",
    )
    evidence = models.CharField(max_length=2)
    sufficiency = models.PositiveSmallIntegerField()
    sufficiency_state = models.CharField(max_length=16)
    confidence = models.FloatField(
        null=True, help_text="That the saving comes true, 0-1; empty where it is unmeasured."
    )
    calibrated = models.BooleanField(default=False, help_text="From outcomes; otherwise a prior.")
    detail = models.JSONField(default=dict, help_text="Effort, risk, prerequisites, rollback, assumptions.")
    state = models.CharField(max_length=16, choices=State.choices, default=State.OPEN)
    adopted_at = models.DateTimeField(null=True, blank=True, help_text="From when on it is in use.")
    decided_by = models.UUIDField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = TenantQuerySet.as_manager()

    class Meta:
        constraints = [
            # One thing to do per dataset, strategy and rule; a later analysis renews it as long as nobody has decided.
            models.UniqueConstraint(
                fields=["dataset", "strategy", "needs"],
                condition=models.Q(state="open"),
                name="recommendation_open_once",
            )
        ]

    def __str__(self) -> str:
        return f"{self.title} ({self.state})"


class Outcome(models.Model):
    """What an adopted recommendation did, measured on the calls since."""

    id = models.BigAutoField(primary_key=True)
    recommendation = models.ForeignKey(Recommendation, on_delete=models.CASCADE, related_name="outcomes")
    measured_at = models.DateTimeField(default=timezone.now, editable=False)
    from_at = models.DateTimeField()
    to_at = models.DateTimeField()
    calls = models.PositiveBigIntegerField()
    predicted_usd = models.DecimalField(max_digits=20, decimal_places=12, help_text="For the same volume of spend.")
    realised_usd = models.DecimalField(max_digits=20, decimal_places=12)
    low_usd = models.DecimalField(max_digits=20, decimal_places=12, null=True)
    high_usd = models.DecimalField(max_digits=20, decimal_places=12, null=True)
    held = models.BooleanField(help_text="At least the lower end of what was predicted came true.")
    detail = models.JSONField(default=dict)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["recommendation", "to_at"], name="outcome_once_per_period")]

    def __str__(self) -> str:
        return f"{self.recommendation_id}: {self.realised_usd}"

    @classmethod
    def of_stated_confidence(cls, organization_id: UUID) -> "models.QuerySet[Outcome]":
        """The latest outcome of each recommendation that stated a confidence: one decision is one piece of evidence,
        however often it was measured."""
        stated = cls.objects.filter(
            recommendation__organization=organization_id, recommendation__confidence__isnull=False
        )
        return stated.order_by("recommendation_id", "-to_at").distinct("recommendation_id")


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
