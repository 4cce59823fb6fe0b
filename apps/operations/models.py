"""Flags of releases, how the runs under them ended (states are written by `flags.py` only), and names of breakers."""

from decimal import Decimal

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now
from simple_history.models import HistoricalRecords


class FeatureFlag(models.Model):
    """How far a new version of an agent or a workflow is released, and when it is taken back."""

    class Stage(models.TextChoices):
        OFF = "off", "off"
        INTERNAL = "internal", "internal (operators)"
        CANARY = "canary", "canary (10 %)"
        STAGED = "staged", "staged (50 %)"
        FULL = "full", "full (100 %)"

    name = models.SlugField(primary_key=True, max_length=64)
    description = models.TextField(blank=True)
    stage = models.CharField(max_length=16, choices=Stage.choices, default=Stage.OFF, editable=False)
    # Goes up with each change of the stage: an outcome counts for the round in which it was recorded.
    round = models.PositiveIntegerField(default=0, editable=False)
    fallback_enabled = models.BooleanField(
        default=True, help_text="Where the new version fails, the former one takes over within the same run."
    )
    error_limit = models.DecimalField(
        max_digits=4,
        decimal_places=3,
        default=Decimal("0.2"),
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(1))],
        help_text="The share of failed runs (0 to 1) from which the release is stopped.",
    )
    minimum_runs = models.PositiveIntegerField(
        default=20, validators=[MinValueValidator(1)], help_text="Runs before the automatic stop acts."
    )
    window_runs = models.PositiveIntegerField(
        default=200,
        validators=[MinValueValidator(1)],
        help_text="The error rate is that of so many latest runs, of those since the stage was last changed.",
    )
    stopped_at = models.DateTimeField(null=True, editable=False)
    stopped_reason = models.CharField(max_length=100, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)
    history = HistoricalRecords()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(error_limit__range=(0, 1)), name="flag_error_limit_is_a_share"),
            models.CheckConstraint(
                condition=models.Q(minimum_runs__gte=1, window_runs__gte=models.F("minimum_runs")),
                name="flag_window_holds_minimum",
                violation_error_message="The window must hold at least the minimum number of runs.",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class FlagOutcome(models.Model):
    """How one run under a flag ended. Error rates are counted from these rows; there is no counter that could leak."""

    flag = models.ForeignKey(FeatureFlag, on_delete=models.CASCADE, related_name="outcomes")
    round = models.PositiveIntegerField()
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    run_id = models.UUIDField()  # no foreign key: runs live on a higher floor
    succeeded = models.BooleanField()
    recorded_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["flag", "run_id"], name="flag_outcome_once_per_run")]
        indexes = [models.Index(fields=["flag", "round", "-id"], name="flag_outcome_latest")]

    def __str__(self) -> str:
        return f"{self.flag_id}: run {self.run_id} {'succeeded' if self.succeeded else 'failed'}"


class ReleaseStop(models.Model):
    """A time in which no flag is on, whatever its stage: from "disable all" to "enable all"."""

    disabled_at = models.DateTimeField(db_default=Now())
    disabled_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    enabled_at = models.DateTimeField(null=True)
    enabled_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")

    class Meta:
        constraints = [
            # Nulls are alike here, so at most one stop is open.
            models.UniqueConstraint(
                fields=["enabled_at"],
                condition=models.Q(enabled_at=None),
                nulls_distinct=False,
                name="release_stop_open_once",
            )
        ]

    def __str__(self) -> str:
        return f"all releases off since {self.disabled_at:%Y-%m-%d %H:%M}"


class _NoRows(models.Manager["CircuitBreaker"]):
    """For a model without a table: whoever asks for all rows gets none, and no error."""

    def get_queryset(self) -> models.QuerySet["CircuitBreaker"]:
        return super().get_queryset().none()


class CircuitBreaker(models.Model):
    """The name of a breaker, for the admin's index, permissions and log. What it does is in Redis: `breakers.py`."""

    name = models.CharField(primary_key=True, max_length=200)

    objects = _NoRows()

    class Meta:
        managed = False
        default_permissions = ("view", "change")
        verbose_name_plural = "CircuitBreaker: tools and models"

    def __str__(self) -> str:
        return self.name
