"""The processes that hold steps and tool calls."""

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from uuid6 import uuid7


class WorkerProcess(models.Model):
    """A process that beats once a second, by the database's clock; silent for five, it has lost what it held."""

    class Kind(models.TextChoices):
        AGENTS = "agents"
        TOOLS = "tools"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=16, choices=Kind.choices)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField(default=timezone.now, db_default=Now())
    beat_at = models.DateTimeField(default=timezone.now, db_default=Now())

    class Meta:
        verbose_name_plural = "worker processes"

    def __str__(self) -> str:
        return f"{self.kind} on {self.host}, process {self.pid}"
