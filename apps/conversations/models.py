"""What was said (threads, messages) and what was done (runs, steps, tool calls, events).

States and their arrows are those of `lifecycle.py`; only the journal and `apps/execution` write them.
"""

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from uuid6 import uuid7

from apps.accounts.models import Organization
from apps.accounts.tenancy import TenantQuerySet
from apps.realtime.schema import TERMINAL


class Thread(models.Model):
    """A conversation; its events are numbered 1, 2, 3 ... without gaps."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="threads")
    title = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now, editable=False)
    archived_at = models.DateTimeField(null=True, blank=True)
    last_seq = models.BigIntegerField(default=0, db_default=0, editable=False)
    # The one run that may write: set by admission, kept while waiting, cleared with the terminal event.
    live_run = models.UUIDField(null=True, editable=False)

    objects = TenantQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["user", "-updated_at"], name="thread_of_user")]

    def __str__(self) -> str:
        return self.title or str(self.id)


class Run(models.Model):
    """One answer being made."""

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        WAITING = "waiting"
        COMPLETED = "completed"
        FAILED = "failed"
        CANCELLED = "cancelled"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    thread = models.ForeignKey(Thread, on_delete=models.CASCADE, related_name="runs")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="runs")
    state = models.CharField(max_length=16, choices=State.choices, default=State.QUEUED)
    workflow = models.CharField(max_length=64)
    goal = models.TextField()
    dataset = models.UUIDField(null=True, blank=True)
    # The client's idempotency key, and a digest of what it was used for.
    key = models.CharField(max_length=200)
    request_digest = models.CharField(max_length=64)
    queued_seq = models.BigIntegerField(default=0, editable=False)  # number of its run_queued: FIFO within the thread
    not_before = models.DateTimeField(null=True, blank=True)
    deadline_at = models.DateTimeField(null=True, blank=True)
    seconds_left = models.FloatField(null=True, editable=False)  # of work, when it was paused last
    rung_at = models.DateTimeField(default=timezone.now, db_default=Now(), editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, editable=False)
    finished_at = models.DateTimeField(null=True, editable=False)
    usage = models.JSONField(default=dict, editable=False)
    error_code = models.CharField(max_length=64, blank=True, editable=False)
    error_detail = models.TextField(blank=True, editable=False)
    support_id = models.CharField(max_length=32, blank=True, editable=False)

    objects = TenantQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "key"], name="run_key_once"),
            models.UniqueConstraint(
                fields=["thread"], condition=models.Q(state__in=["running", "waiting"]), name="run_live_once_per_thread"
            ),
        ]
        indexes = [
            models.Index(fields=["user", "state"], condition=models.Q(state="running"), name="run_running"),
            models.Index(fields=["user", "id"], condition=models.Q(state="queued"), name="run_queued"),
            models.Index(fields=["thread", "queued_seq"], name="run_of_thread"),
            models.Index(fields=["finished_at"], condition=~models.Q(finished_at=None), name="run_finished"),
        ]

    def __str__(self) -> str:
        return f"{self.workflow} {self.id} ({self.state})"


class Message(models.Model):
    """One utterance: a person's, or the answer of a run (growing while the run is live)."""

    class Role(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    thread = models.ForeignKey(Thread, on_delete=models.CASCADE, related_name="messages")
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="messages")
    role = models.CharField(max_length=16, choices=Role.choices)
    text = models.TextField(blank=True)
    report = models.UUIDField(null=True, blank=True)
    attempt = models.PositiveIntegerField(default=1, editable=False)  # of the step that writes it
    key = models.CharField(max_length=200, null=True, editable=False)  # the idempotency key of a person's message
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run", "role"], condition=models.Q(role="assistant"), name="message_one_answer_per_run"
            ),
            models.UniqueConstraint(fields=["thread", "key"], name="message_key_once"),
        ]
        indexes = [models.Index(fields=["thread", "id"], name="message_of_thread")]

    def __str__(self) -> str:
        return f"{self.role}: {self.text[:60]}"


class Step(models.Model):
    """One agent's part of a run: a node of the workflow's graph, and the unit of claim, lease and fence."""

    class State(models.TextChoices):
        BLOCKED = "blocked"
        READY = "ready"
        RUNNING = "running"
        WAITING = "waiting"
        COMPLETED = "completed"
        FAILED = "failed"
        SKIPPED = "skipped"

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="steps")
    name = models.CharField(max_length=64)
    agent = models.CharField(max_length=64)
    position = models.PositiveSmallIntegerField()
    depends_on = ArrayField(models.CharField(max_length=64), default=list)
    state = models.CharField(max_length=16, choices=State.choices, default=State.BLOCKED)
    attempt = models.PositiveIntegerField(default=0)  # the fence: every later write of the step must carry it
    worker = models.UUIDField(null=True, blank=True)
    patience = models.FloatField(default=120.0)  # seconds that one attempt may take
    not_before = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=200, blank=True)  # why it was given back; told when it goes on
    losses = models.PositiveSmallIntegerField(default=0)  # attempts that ended without a word
    barren_losses = models.PositiveSmallIntegerField(default=0)  # of them, since its journal last grew
    journaled = models.PositiveIntegerField(default=0)  # entries of its journal at the last loss
    deadline_at = models.DateTimeField(null=True, blank=True)
    rung_at = models.DateTimeField(default=timezone.now, db_default=Now(), editable=False)
    artifact = models.JSONField(null=True, blank=True)
    summary = models.TextField(blank=True)
    confidence = models.FloatField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "name"], name="step_name_once")]
        indexes = [
            models.Index(
                fields=["state", "rung_at"], condition=models.Q(state__in=["ready", "running"]), name="step_open"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.state}, attempt {self.attempt})"


class ToolCall(models.Model):
    """One journaled call of a tool. `attempt` is its fence: the step's where it runs inline, else its own."""

    class State(models.TextChoices):
        INTENDED = "intended"
        STARTED = "started"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        UNKNOWN = "unknown"
        REFUSED = "refused"

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="tool_calls")
    user_id = models.UUIDField(null=True, editable=False)
    step = models.CharField(max_length=64)
    call = models.CharField(max_length=100)
    tool = models.CharField(max_length=64)
    effect = models.CharField(max_length=16)
    place = models.CharField(max_length=16, default="inline")
    arguments = models.JSONField(default=dict)  # as they may be shown
    payload = models.JSONField(null=True, editable=False)  # as they are, for a tool worker, until the call is closed
    idempotency_key = models.CharField(max_length=64)
    state = models.CharField(max_length=16, choices=State.choices, default=State.INTENDED)
    attempt = models.PositiveIntegerField(default=1)
    worker = models.UUIDField(null=True, blank=True)
    losses = models.PositiveSmallIntegerField(default=0)  # tool workers that died with it
    deadline_at = models.DateTimeField(null=True, blank=True)
    rung_at = models.DateTimeField(default=timezone.now, db_default=Now(), editable=False)
    result = models.JSONField(null=True, blank=True)
    error_code = models.CharField(max_length=64, blank=True)
    summary = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "step", "call"], name="tool_call_once")]
        indexes = [
            models.Index(fields=["user_id", "created_at"], name="tool_call_of_user"),
            models.Index(
                fields=["rung_at"],
                condition=models.Q(place="worker", state__in=["intended", "started"]),
                name="tool_call_at_workers",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tool} {self.call} ({self.state})"


class Question(models.Model):
    """Something that a step asked a person, and waits for: data, or leave to go on with a tool call."""

    class Reason(models.TextChoices):
        DATA = "data"
        UNSAFE = "unsafe"
        UNKNOWN_EFFECT = "unknown_effect"
        SIZE = "size"

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="questions")
    step = models.CharField(max_length=64)
    call = models.CharField(max_length=100)  # the tool call, or what the step calls the data
    reason = models.CharField(max_length=16, choices=Reason.choices)
    effect_key = models.CharField(max_length=64, blank=True, db_default="", editable=False)  # of the call it is about
    asked_at = models.DateTimeField(default=timezone.now, db_default=Now(), editable=False)
    expires_at = models.DateTimeField()
    answered_at = models.DateTimeField(null=True, blank=True)
    answered_by = models.UUIDField(null=True, blank=True)
    value = models.JSONField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "step", "call", "reason"], name="question_once")]
        indexes = [
            models.Index(fields=["expires_at"], condition=models.Q(answered_at=None), name="question_open"),
        ]

    def __str__(self) -> str:
        return f"{self.reason} for {self.call}"


class Event(models.Model):
    """One fact of a thread. Written by the journal only; no foreign keys, a third faster without."""

    pk = models.CompositePrimaryKey("thread_id", "seq")
    thread_id = models.UUIDField()
    seq = models.BigIntegerField()
    run_id = models.UUIDField()
    step = models.CharField(max_length=64, null=True)
    attempt = models.PositiveIntegerField(null=True)
    type = models.CharField(max_length=32)
    data = models.JSONField()
    at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run_id"], condition=models.Q(type__in=sorted(TERMINAL)), name="event_one_terminal_per_run"
            ),
            models.UniqueConstraint(
                fields=["run_id"], condition=models.Q(type="agent_started"), name="event_one_start_per_run"
            ),
        ]
        indexes = [models.Index(fields=["run_id", "seq"], name="event_of_run")]

    def __str__(self) -> str:
        return f"{self.seq} {self.type}"
