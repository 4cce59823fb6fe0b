"""Prices, and what Netra itself spends on models."""

from django.db import models
from django.utils import timezone
from uuid6 import uuid7

from apps.accounts.models import Organization
from apps.accounts.tenancy import TenantQuerySet


class ModelCall(models.Model):
    """One call of a model by one of Netra's agents; written by `ledger.record` only."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    user_id = models.UUIDField()
    run = models.UUIDField(db_index=True)
    step = models.CharField(max_length=64)
    attempt = models.PositiveIntegerField()
    provider = models.CharField(max_length=64)
    model = models.CharField(max_length=128)
    input_tokens = models.PositiveIntegerField()
    cached_read_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField()
    cost_usd = models.DecimalField(max_digits=18, decimal_places=12, null=True)
    seconds = models.FloatField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = TenantQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.model} for run {self.run}"
