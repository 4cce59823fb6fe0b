"""Long work on a row, done by tool workers: queued -> working -> ready or failed; a person may cancel and resume it.

Every arrow is a compare-and-set that carries the attempt, so that a worker which was given up for dead writes nothing.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import structlog
from django.db import DatabaseError, connection, models, transaction
from django.db.models import Count, F, Max, Q, QuerySet
from django.utils import timezone

from apps.errors import NetraError

log = structlog.get_logger(__name__)

TELL_EVERY = 0.2  # seconds between two reports of progress
BEAT = 10.0  # seconds between two signs of life
SILENT = timedelta(seconds=60)  # without a sign of life, work is taken for dead
UNHEARD = timedelta(seconds=10)  # queued work that nobody took up by then is rung for again
MAX_ATTEMPTS = 3
NEVER = datetime.min.replace(tzinfo=UTC)


class Superseded(NetraError):
    """The row was deleted or cancelled, or another worker took the work over."""

    code = "job.superseded"
    status = 409


class Job(models.Model):
    """What every such row has. A subclass names its state of being worked on, for people."""

    WORKING: ClassVar[str] = "running"
    QUEUED: ClassVar[str] = "queued"
    READY: ClassVar[str] = "ready"
    FAILED: ClassVar[str] = "failed"
    CANCELLED: ClassVar[str] = "cancelled"

    state = models.CharField(max_length=16, default="queued")  # a subclass names its choices
    attempt = models.PositiveSmallIntegerField(default=0, help_text="Times begun; every write of one carries it.")
    progress = models.PositiveSmallIntegerField(default=0, help_text="Percent.")
    progress_at = models.DateTimeField(default=timezone.now, help_text="When the work last showed life.")
    error_code = models.CharField(max_length=64, blank=True)
    error_detail = models.TextField(blank=True)
    created_by = models.UUIDField(help_text="The user who asked for it.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True


J = TypeVar("J", bound=Job)


def claim(model: type[J], pk: UUID) -> J | None:
    """The row, now worked on under an attempt of its own; None if it is not queued."""
    rows: QuerySet[J] = model._default_manager.filter(pk=pk)
    claimed = rows.filter(state=model.QUEUED).update(
        state=model.WORKING, attempt=F("attempt") + 1, progress=0, progress_at=timezone.now()
    )
    return rows.first() if claimed else None


def in_turn(*models: type[Job]) -> list[Any]:
    """What is queued, in the order in which it should be begun, so that nobody's work waits behind all of another's.

    First comes the organization with the least under way, among such the one that was served longest ago; among the
    people of an organization it is the same; what one person asked for comes in the order in which it was asked for.
    """
    queued: list[Any] = [job for model in models for job in model._default_manager.filter(state=model.QUEUED)]
    at_work: Counter[Any] = Counter()
    served: dict[Any, datetime] = {}
    for model in models:
        rows: Any = model._default_manager
        for organization, person, working, last in (
            rows.filter(organization__in={job.organization_id for job in queued})
            .exclude(state=model.QUEUED)
            .order_by()
            .values_list("organization", "created_by")
            .annotate(working=Count("pk", filter=Q(state=model.WORKING)), last=Max("progress_at"))
        ):
            for who in (organization, (organization, person)):
                at_work[who] += working
                served[who] = max(last, served.get(who, last))

    def turn(job: Any) -> tuple[Any, ...]:
        organization, person = job.organization_id, (job.organization_id, job.created_by)
        return (
            *(at_work[organization], served.get(organization, NEVER)),
            *(at_work[person], served.get(person, NEVER)),
            job.created_at,
        )

    return sorted(queued, key=turn)


def claim_next(jobs: Callable[[], Iterable[J]], claim: Callable[[J], J | None]) -> J | None:
    """The first of `jobs` that can be claimed; None without one.

    They are asked for again after each that cannot be: who was faster has changed whose turn it is.
    """
    passed: set[Any] = set()
    while job := next((job for job in jobs() if job.pk not in passed), None):
        if claimed := claim(job):
            return claimed
        passed.add(job.pk)
    return None


def held(job: J) -> QuerySet[J]:
    """The row as long as this attempt owns it."""
    rows: QuerySet[J] = type(job)._default_manager.filter(pk=job.pk, state=job.WORKING, attempt=job.attempt)
    return rows


def settle(job: Job, **found: Any) -> bool:
    """Write the end of the work unless it is another's by now; answers whether it was written."""
    with transaction.atomic():
        settled = held(job).update(**found, progress_at=timezone.now(), finished_at=timezone.now())
    if settled:
        job.refresh_from_db()
    return bool(settled)


def give_back(job: Job) -> None:
    """Queue work again that this attempt did not end, unless it is another's by now. Who calls it rings."""
    held(job).update(state=job.QUEUED, progress=0, progress_at=timezone.now())


def cancel(job: Job) -> bool:
    """Stop queued or running work; answers whether there was any. Its worker finds out at its next sign of life."""
    rows = type(job)._default_manager.filter(pk=job.pk, state__in=[job.QUEUED, job.WORKING])
    return bool(rows.update(state=job.CANCELLED, finished_at=timezone.now()))


def resume(job: Job) -> bool:
    """Queue cancelled work once more; answers whether it was cancelled. Who calls it rings."""
    rows = type(job)._default_manager.filter(pk=job.pk, state=job.CANCELLED)
    return bool(rows.update(state=job.QUEUED, progress=0, attempt=0, finished_at=None, progress_at=timezone.now()))


@contextmanager
def pulse(job: Job) -> Iterator[None]:
    """Show life while one long statement runs, from a thread and a connection of its own."""
    stop = Event()
    thread = Thread(target=_beat, args=(job, stop), daemon=True, name="job-pulse")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _beat(job: Job, stop: Event) -> None:
    while not stop.wait(BEAT):
        try:
            held(job).update(progress_at=timezone.now())
        except DatabaseError as error:
            # The next beat tries again; the work itself meets the failure where it writes.
            log.warning("Pulse missed", job=str(job.pk), reason=str(error))
        finally:
            connection.close()


def reporting(job: Job, publish: Callable[[], None], *, every: float) -> Callable[[float], None]:
    """A callback for percents that keeps the work alive and its owner informed, at most once in `every` seconds.

    The callback raises Superseded once the work is another's, or nobody's.
    """
    told = time.monotonic()

    def tell(percent: float) -> None:
        nonlocal told
        if time.monotonic() - told < every:
            return
        told = time.monotonic()
        job.progress = min(99, int(percent))
        if not held(job).update(progress=job.progress, progress_at=timezone.now()):
            raise Superseded("It was deleted or cancelled, or another worker does it.")
        publish()

    return tell


def requeue_silent(model: type[J], now: datetime, give_up: Callable[[J], None]) -> list[UUID]:
    """Unfinished work without a sign of life, queued again; what died too often goes to `give_up`. Rows to ring for."""
    silent = model._default_manager.filter(progress_at__lt=now - SILENT)
    for job in silent.filter(state=model.WORKING, attempt__gte=MAX_ATTEMPTS):
        give_up(job)
    silent.filter(state=model.WORKING).update(state=model.QUEUED, progress_at=now - 2 * UNHEARD)
    waiting = model._default_manager.filter(state=model.QUEUED, progress_at__lt=now - UNHEARD)
    found = list(waiting.values_list("pk", flat=True))
    waiting.update(progress_at=now)
    return found
