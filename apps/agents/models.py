"""What agents leave behind."""

from django.db import models
from django.utils import timezone
from uuid6 import uuid7

from apps.accounts.models import Organization
from apps.accounts.tenancy import TenantQuerySet


class Report(models.Model):
    """The answer of one run in full; `body` is an `artifacts.ReportBody`."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    user_id = models.UUIDField()
    run = models.UUIDField(unique=True)
    body = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = TenantQuerySet.as_manager()

    def __str__(self) -> str:
        return str(self.body.get("title", self.id))
