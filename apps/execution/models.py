"""The processes that hold steps and tool calls, and how far traces have been told elsewhere."""

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
    # What it said of itself with its last beat, as `ExecutionEngine.get_status` puts it. The default is for processes
    # of the release before.
    status = models.JSONField(default=dict, db_default={})

    class Meta:
        verbose_name_plural = "ExecutionEngine: worker processes"

    def __str__(self) -> str:
        return f"{self.kind} on {self.host}, process {self.pid}"


class TraceExport(models.Model):
    """How far a collector has been told of ended runs: up to the one that ended then, with this id."""

    collector = models.CharField(max_length=500, primary_key=True)
    finished_at = models.DateTimeField()
    run = models.UUIDField()

    def __str__(self) -> str:
        return f"{self.collector}, up to {self.finished_at}"
