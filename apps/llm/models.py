"""Prices, and what Netra itself spends on models."""

from decimal import Decimal
from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from simple_history.models import HistoricalRecords
from uuid6 import uuid7

from apps.accounts.models import Organization
from apps.accounts.tenancy import TenantQuerySet
from apps.llm.pricing import MAX_RATE

MAX_MULTIPLIER = Decimal(4)  # of a service tier
MAX_OWN_RATE = MAX_RATE / MAX_MULTIPLIER  # dollars per 1,000,000 tokens
# Dollars per 1,000,000 tokens, to the micro-dollar: the finest that pricing keeps.
_RATE: dict[str, Any] = {
    "max_digits": 11,
    "decimal_places": 6,
    "validators": [MinValueValidator(Decimal(0)), MaxValueValidator(MAX_OWN_RATE)],
}


_MULTIPLIER: dict[str, Any] = {
    "max_digits": 5,
    "decimal_places": 3,
    "null": True,
    "blank": True,
    "validators": [MinValueValidator(Decimal(0)), MaxValueValidator(MAX_MULTIPLIER)],
}


class Price(models.Model):
    """A price that the house knows better than the public catalogue, for one organization or, without one, for all.

    It prices calls from the first day it holds (UTC) until before the day it ends.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, null=True, blank=True, related_name="prices", help_text="Empty: all."
    )
    model = models.CharField(max_length=200, help_text="As the calls name it.")
    provider = models.CharField(max_length=64, blank=True, help_text="As the calls name it. Empty: any.")
    input = models.DecimalField(**_RATE, help_text="Dollars per 1,000,000 input tokens.")
    cached_read = models.DecimalField(**_RATE, null=True, blank=True, help_text="Empty: as input.")
    cached_write = models.DecimalField(**_RATE, null=True, blank=True, help_text="Kept 5 minutes. Empty: as input.")
    cached_write_1h = models.DecimalField(**_RATE, null=True, blank=True, help_text="Empty: as the 5-minute write.")
    output = models.DecimalField(**_RATE, help_text="Dollars per 1,000,000 output tokens.")
    input_audio = models.DecimalField(**_RATE, null=True, blank=True, help_text="Sound. Empty: as input.")
    output_audio = models.DecimalField(**_RATE, null=True, blank=True, help_text="Sound. Empty: as output.")
    batch_multiplier = models.DecimalField(
        max_digits=4,
        decimal_places=3,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(1))],
        help_text="0.5 halves every rate for batch calls. Empty: the batch price is unknown.",
    )
    flex_multiplier = models.DecimalField(**_MULTIPLIER, help_text="For flex calls. Empty: their price is unknown.")
    priority_multiplier = models.DecimalField(
        **_MULTIPLIER, help_text="For priority calls. Empty: their price is unknown."
    )
    effective_from = models.DateField(help_text="The first day (UTC) on which it holds.")
    effective_to = models.DateField(null=True, blank=True, help_text="The first day on which it no longer holds.")
    source = models.CharField(max_length=500, help_text="Where the price is from: a contract, an invoice, a page.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    history = HistoricalRecords()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "model", "provider", "effective_from"],
                nulls_distinct=False,
                name="price_once_per_start",
            ),
            models.CheckConstraint(
                condition=models.Q(effective_to=None) | models.Q(effective_to__gt=models.F("effective_from")),
                name="price_ends_after_start",
            ),
            models.CheckConstraint(
                condition=models.Q(
                    input__range=(0, MAX_OWN_RATE),
                    output__range=(0, MAX_OWN_RATE),
                ),
                name="price_possible",
            ),
            # What is null pays another rate, and passes.
            models.CheckConstraint(
                condition=models.Q(
                    cached_read__range=(0, MAX_OWN_RATE),
                    cached_write__range=(0, MAX_OWN_RATE),
                    cached_write_1h__range=(0, MAX_OWN_RATE),
                    input_audio__range=(0, MAX_OWN_RATE),
                    output_audio__range=(0, MAX_OWN_RATE),
                ),
                name="price_parts_possible",
            ),
            models.CheckConstraint(
                condition=models.Q(
                    batch_multiplier__range=(0, 1),
                    flex_multiplier__range=(0, MAX_MULTIPLIER),
                    priority_multiplier__range=(0, MAX_MULTIPLIER),
                ),
                name="price_multipliers_possible",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} from {self.effective_from}"


class ModelCall(models.Model):
    """One call of a model by one of Netra's agents: what was asked, what was answered, what it cost.

    Written by the ledger only. What is not known, as of a call that was cut, is null.
    """

    class State(models.TextChoices):
        ASKED = "asked"
        ANSWERED = "answered"
        CUT = "cut"  # no answer came, or it came too late to be kept

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    user_id = models.UUIDField()
    run = models.UUIDField(db_index=True)
    step = models.CharField(max_length=64)
    attempt = models.PositiveIntegerField()
    key = models.CharField(max_length=64)  # what is asked: the same in each attempt of the step
    state = models.CharField(max_length=16, choices=State.choices, default=State.ASKED)
    provider = models.CharField(max_length=64)
    model = models.CharField(max_length=128)
    input_tokens = models.PositiveIntegerField(null=True)
    cached_read_tokens = models.PositiveIntegerField(null=True)
    output_tokens = models.PositiveIntegerField(null=True)
    cost_usd = models.DecimalField(max_digits=18, decimal_places=12, null=True)
    seconds = models.FloatField(null=True)
    # The response as JSON. Text, since PostgreSQL's own JSON cannot hold every character that a model may write.
    answer = models.TextField(null=True, editable=False)
    started_at = models.DateTimeField(default=timezone.now, editable=False)
    finished_at = models.DateTimeField(null=True, editable=False)

    objects = TenantQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run", "step", "key"], condition=models.Q(state="answered"), name="model_call_answered_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.model} for run {self.run} ({self.state})"
