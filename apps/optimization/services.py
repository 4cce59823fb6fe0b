"""What a person or an agent does with datasets. Every query starts at the principal's organization."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol
from uuid import UUID

import duckdb
import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet, Sum
from django.utils import timezone
from uuid6 import uuid7

from apps.accounts.models import Membership, Plan
from apps.accounts.tenancy import Principal, principal_for
from apps.errors import Forbidden, Invalid, NetraError, NotFound
from apps.llm.services import catalogue_for
from apps.optimization import alerts, imports, jobs, storage, tasks
from apps.optimization.beginnings import MOST_ROWS, beginning_of
from apps.optimization.bills import BillPreview, preview_bill
from apps.optimization.breakdown import dimension, spend_breakdown
from apps.optimization.calls import Calls
from apps.optimization.conversion import Order, Preview, check_price_as, preview
from apps.optimization.datasets import bill_of, bounded, open_dataset
from apps.optimization.importers import FIELDS, WrongMapping
from apps.optimization.limits import IN_REQUEST_SECONDS, Deadline, TookTooLong, Turns, spelled
from apps.optimization.models import Dataset, PriceAlert, PriceWatch
from apps.optimization.prices import prices_in_use
from apps.optimization.reconciliation import Reconciliation, reconcile
from apps.optimization.results import Breakdown, PricesInUse, Sufficiency
from apps.optimization.sample import write_sample_files
from apps.optimization.sufficiency import sufficiency

MOST_UNDER_WAY = 20  # imports of one user that are queued or running
WATCHED_AT_ONCE = 5  # datasets whose prices are read from disk in one look; the scheduler has other duties
# Files that are looked at; each takes a thread of the web server and some hundred MiB for up to half a minute.
_previews = Turns(at_once=4, of_one=2)
SAMPLE_NAME = "Sample: synthetic support product (not real calls)"

log = structlog.get_logger(__name__)


class DatasetNotFound(NotFound):
    """The dataset does not exist, or is another organization's."""

    code = "dataset.not_found"


class TooMuchStored(NetraError):
    """The plan's room for uploads is used up."""

    code = "quota.exceeded"
    status = 409


class DatasetExists(NetraError):
    """The same file was imported before, read in another way or into another dataset."""

    code = "dataset.exists"
    status = 409


class ImportOver(NetraError):
    """The import is not in a state in which this can be done."""

    code = "import.over"
    status = 409


class AlertNotFound(NotFound):
    """The alert does not exist, or is another organization's."""

    code = "alert.not_found"


class TooManyDatasets(NetraError):
    """The plan's number of datasets is reached."""

    code = "quota.exceeded"
    status = 409


class TooManyImports(NetraError):
    """So many wait already that others would wait behind them."""

    code = "quota.exceeded"
    status = 429
    retryable = True


class TooManyPreviews(NetraError):
    """So many files are looked at already that other requests would wait."""

    code = "quota.exceeded"
    status = 429
    retryable = True


class NotTheFirstFile(Invalid):
    """A file can continue a dataset, but not one of its later files."""

    code = "dataset.not_the_first_file"


class Upload(Protocol):
    """A file that comes in pieces: Django's uploaded files are such, and `LocalFile`."""

    name: str | None

    def chunks(self) -> Iterable[bytes]:
        """The bytes, in order."""


class LocalFile:
    """A file on this machine as an upload."""

    def __init__(self, path: Path) -> None:
        self.name: str | None = path.name
        self._path = path

    def chunks(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while chunk := file.read(1024 * 1024):
                yield chunk


def create_dataset(
    *,
    principal: Principal,
    upload: Upload,
    name: str = "",
    mapping: Mapping[str, str | None] | None = None,
    metadata_only: bool = False,
    price_as: str = "",
    continues: UUID | None = None,
    live: bool = False,
) -> Dataset:
    """Keep an upload and queue its import. The same file again, read the same way, answers the dataset there is.

    With `continues`, the file is a later one of that dataset, and is read and priced as its first file was.

    Raises:
        Forbidden: the principal may only look.
        TooLarge, NoRoom: see `storage`; nothing was kept.
        TooManyDatasets, TooMuchStored: the plan allows no more.
        TooManyImports: as many as one user may have wait already.
        DatasetExists: the file is there already, under another mapping or in another dataset.
        UnknownModel: `price_as` has no known price.
        WrongMapping: the mapping names a field that calls do not have.
        DatasetNotFound, NotTheFirstFile: `continues` names no dataset, or a later file of one.
    """
    _may_act(principal)
    first = _first_file(principal, continues) if continues else None
    if first:
        mapping, metadata_only, price_as = first.mapping | dict(mapping or {}), first.metadata_only, first.price_as
    _check_mapping(mapping or {})
    check_price_as(price_as.strip(), catalogue_for(organization_id=principal.organization_id), timezone.now())
    dataset_id = uuid7()
    place = storage.folder(organization_id=principal.organization_id, dataset_id=dataset_id)
    size, digest = storage.keep_upload(place, upload.chunks())
    file_name = (upload.name or "upload")[-255:]
    dataset = Dataset(
        id=dataset_id,
        organization_id=principal.organization_id,
        created_by=principal.user_id,
        name=(name.strip() or file_name)[:200],
        file_name=file_name,
        file_bytes=size,
        sha256=digest,
        metadata_only=metadata_only,
        price_as=price_as.strip(),
        mapping=dict(mapping or {}),
        continues=first,
        live=live,
    )
    if first:
        dataset.hash_key = first.hash_key
    return _queue_once(principal, dataset)


def preview_upload(
    *,
    principal: Principal,
    upload: Upload,
    mapping: Mapping[str, str | None] | None = None,
    price_as: str = "",
) -> Preview | BillPreview:
    """How an upload would be read, told from its beginning. Nothing of it is kept.

    Raises:
        Forbidden: the principal may only look.
        TooManyPreviews: as many files are looked at already as may be at once.
        TooLarge, NoRoom: see `storage`.
        UnusableFile, WrongMapping, UnknownModel: it cannot be read so.
        TooLargeToLookAt, TookTooLong: it cannot be looked at while a request waits; an import has more time.
    """
    _may_act(principal)
    _check_mapping(mapping or {})
    with _previews.taken(principal.user_id) as free:
        if not free:
            raise TooManyPreviews("Other files are being looked at. Try again in a moment.", retry_after=2.0)
        place = storage.folder(organization_id=principal.organization_id, dataset_id=uuid7())
        try:
            storage.keep_upload(place, upload.chunks())
            return _looked_at(principal, place, mapping or {}, price_as.strip())
        except TookTooLong:
            raise TookTooLong(
                f"Looking at the file took longer than {spelled(IN_REQUEST_SECONDS)}. Import it: that may take longer."
            ) from None
        finally:
            storage.remove(place)


def _looked_at(
    principal: Principal, place: Path, mapping: Mapping[str, str | None], price_as: str
) -> Preview | BillPreview:
    deadline = Deadline(IN_REQUEST_SECONDS)
    first = beginning_of(place / storage.UPLOAD, place, deadline=deadline)
    if bill := preview_bill(first.path, place, first=MOST_ROWS, seconds=deadline.left):
        return replace(bill, whole=bill.whole and first.whole)
    found = preview(
        Order(
            source=first.path,
            target=place / storage.CALLS,
            catalogue=catalogue_for(organization_id=principal.organization_id),
            now=timezone.now(),
            memory_mib=settings.ANALYSIS_MEMORY_MIB,
            mapping=mapping,
            metadata_only=True,
            price_as=price_as or None,
            seconds=deadline.left,
        )
    )
    return replace(found, whole=found.whole and first.whole, disk_bytes=first.of_all(found.disk_bytes))


def list_datasets(*, principal: Principal, kind: str = Dataset.Kind.CALLS) -> QuerySet[Dataset]:
    """The organization's datasets of calls, or its bills, newest first.

    Later files are found at the dataset that they continue, whose `all_rows` counts their calls as well; a bill is told
    from calls once it is imported.
    """
    of_later = Sum("later_files__rows", filter=Q(later_files__state=Dataset.State.READY), default=0)
    datasets = Dataset.objects.for_organization(principal).filter(continues=None, kind=kind)
    counted: QuerySet[Dataset] = datasets.annotate(all_rows=F("rows") + of_later).order_by("-id")
    return counted


def later_files(*, principal: Principal, dataset_id: UUID) -> QuerySet[Dataset]:
    """The files that continue a dataset, newest first.

    Raises:
        DatasetNotFound: there is none of that id.
    """
    first = get_dataset(principal=principal, dataset_id=dataset_id)
    return Dataset.objects.for_organization(principal).filter(continues=first).order_by("-id")


def get_dataset(*, principal: Principal, dataset_id: UUID) -> Dataset:
    """One dataset of the organization.

    Raises:
        DatasetNotFound: there is none of that id.
    """
    dataset: Dataset | None = Dataset.objects.for_organization(principal).filter(pk=dataset_id).first()
    if dataset is None:
        raise DatasetNotFound(f"There is no dataset {dataset_id}.")
    return dataset


def delete_dataset(*, principal: Principal, dataset_id: UUID) -> None:
    """Remove a dataset and its calls for good; a running import of it gives up.

    Raises:
        DatasetNotFound: there is none of that id.
        Forbidden: the principal neither made it nor owns the organization.
    """
    dataset = _own(principal, dataset_id)
    dataset.delete()


def cancel_import(*, principal: Principal, dataset_id: UUID) -> Dataset:
    """Stop an import that is queued or running; its upload is kept, so that it can be resumed.

    Raises:
        DatasetNotFound, Forbidden, ImportOver: see there.
    """
    dataset = _own(principal, dataset_id)
    if not jobs.cancel(dataset):
        raise ImportOver(f"{dataset.name!r} is {dataset.state}; only an import under way can be cancelled.")
    return _changed(dataset)


def resume_import(*, principal: Principal, dataset_id: UUID) -> Dataset:
    """Queue a cancelled import once more.

    Raises:
        DatasetNotFound, Forbidden, ImportOver, TooManyImports: see there.
    """
    dataset = _own(principal, dataset_id)
    _refuse_flood(principal)
    if not jobs.resume(dataset):
        raise ImportOver(f"{dataset.name!r} is {dataset.state}; only a cancelled import can be resumed.")
    tasks.ring_import(dataset.pk)
    return _changed(dataset)


def change_dataset(*, principal: Principal, dataset_id: UUID, **changes: object) -> Dataset:
    """Change name, retention, or how reports show days and money; checked by the caller's serializer.

    Raises:
        DatasetNotFound, Forbidden: see there.
    """
    dataset = _own(principal, dataset_id)
    Dataset.objects.filter(pk=dataset.pk).update(**changes)
    return _changed(dataset)


def _changed(dataset: Dataset) -> Dataset:
    dataset.refresh_from_db()
    imports.publish(dataset)
    return dataset


def _own(principal: Principal, dataset_id: UUID) -> Dataset:
    """A dataset that the principal may change.

    Raises:
        DatasetNotFound: there is none of that id.
        Forbidden: the principal neither made it nor owns the organization.
    """
    dataset = get_dataset(principal=principal, dataset_id=dataset_id)
    made_it = dataset.created_by == principal.user_id and principal.may(Membership.Role.MEMBER)
    if not (made_it or principal.may(Membership.Role.OWNER)):
        raise Forbidden("Only who uploaded a dataset, or an owner of the organization, may change or delete it.")
    return dataset


@contextmanager
def open_calls(*, principal: Principal, dataset_id: UUID) -> Iterator[Calls]:
    """The calls of a dataset, with the time zone of its reports; blocking, so not for an event loop.

    Raises:
        DatasetNotFound, DatasetNotReady, DatasetFailed: see there.
        TooMuchWork: what is asked of them takes longer than a request may.
    """
    dataset = get_dataset(principal=principal, dataset_id=dataset_id)
    with open_dataset(dataset, time_zone=dataset.time_zone) as calls, bounded(calls, IN_REQUEST_SECONDS):
        yield calls


def breakdown(*, principal: Principal, dataset_id: UUID, by: str, limit: int = 50) -> Breakdown:
    """Spend of a dataset by model, feature, user, day or hour.

    Raises:
        DatasetNotFound, DatasetNotReady, DatasetFailed, UnknownDimension: see there.
    """
    chosen = dimension(by)
    with open_calls(principal=principal, dataset_id=dataset_id) as calls:
        return spend_breakdown(calls, chosen, limit=limit)


def reconciliation(*, principal: Principal, dataset_id: UUID, bill_id: UUID) -> Reconciliation:
    """The calls of a dataset beside a bill of the same organization.

    Raises:
        DatasetNotFound, DatasetNotReady, DatasetFailed, NotCalls, NotABill, CannotReconcile: see there.
    """
    bill = bill_of(get_dataset(principal=principal, dataset_id=bill_id))
    with open_calls(principal=principal, dataset_id=dataset_id) as calls:
        return reconcile(calls, bill)


def prices(*, principal: Principal, dataset_id: UUID) -> PricesInUse:
    """The prices that a dataset's calls pay, and where each is from.

    Raises:
        DatasetNotFound, DatasetNotReady, DatasetFailed: see there.
    """
    with open_calls(principal=principal, dataset_id=dataset_id) as calls:
        return prices_in_use(calls)


def price_alerts(*, principal: Principal, dismissed: bool = False) -> QuerySet[PriceAlert]:
    """What the organization should know of changed prices; the dismissed ones too if asked for. Newest first."""
    found = PriceAlert.objects.for_organization(principal).select_related("dataset").order_by("-id")
    return found if dismissed else found.filter(dismissed_at=None)


def dismiss_alert(*, principal: Principal, alert_id: UUID, now: datetime) -> PriceAlert:
    """Take note of an alert; dismissing it twice keeps who did it first.

    Raises:
        AlertNotFound: there is none of that id.
        Forbidden: the principal may only look.
    """
    found = price_alerts(principal=principal, dismissed=True).filter(pk=alert_id)
    if not found.exists():
        raise AlertNotFound(f"There is no price alert {alert_id}.")
    if not principal.may(Membership.Role.MEMBER):
        raise Forbidden("Viewers cannot dismiss alerts; ask an owner for the member role.")
    PriceAlert.objects.filter(pk=alert_id, dismissed_at=None).update(dismissed_at=now, dismissed_by=principal.user_id)
    alert: PriceAlert = found.get()
    return alert


def watch_prices(*, now: datetime) -> int:
    """Compare the prices of every dataset with today's catalogue; how many alerts that raised. For the scheduler."""
    catalogue = cache(lambda organization_id: catalogue_for(organization_id=organization_id))
    seen = PriceWatch.objects.select_related("dataset").filter(dataset__state=Dataset.State.READY)
    raised = sum(alerts.look(one, catalogue(one.dataset.organization_id), now) for one in seen)
    for dataset in _unwatched()[:WATCHED_AT_ONCE]:
        _watch(dataset, now)
    return raised


def _unwatched() -> QuerySet[Dataset]:
    """Datasets that were imported since their prices were last remembered, or never were."""
    ready = Dataset.objects.filter(
        state=Dataset.State.READY, finished_at__isnull=False, continues=None, kind=Dataset.Kind.CALLS
    )
    # The newest first, so that one that cannot be read never stands before those to come.
    unwatched: QuerySet[Dataset] = ready.exclude(price_watch__imported_at=F("finished_at")).order_by("-id")
    return unwatched


def _watch(dataset: Dataset, now: datetime) -> None:
    try:
        with open_dataset(dataset) as calls:
            found, catalogue = prices_in_use(calls), calls.catalogue
        alerts.watch(dataset, found, catalogue, now)
    except (duckdb.Error, IntegrityError) as error:
        # It was deleted under our hands, or its disk is away; the next look tries again.
        log.warning("Prices of a dataset not read", dataset=str(dataset.pk), reason=str(error))


def sufficiency_of(*, principal: Principal, dataset_id: UUID) -> dict[str, Sufficiency]:
    """How far a dataset carries each analysis.

    Raises:
        DatasetNotFound, DatasetNotReady, DatasetFailed: see there.
    """
    with open_calls(principal=principal, dataset_id=dataset_id) as calls:
        return sufficiency(calls)


def import_now(*, principal: Principal, dataset_id: UUID) -> Dataset:
    """Import a queued dataset in this process instead of waiting for a worker, and have a worker analyse it.

    Answers the dataset as it is afterwards.

    Raises:
        DatasetNotFound: there is none of that id.
    """
    dataset = get_dataset(principal=principal, dataset_id=dataset_id)
    imports.run_import(dataset.pk, tasks.have_analysed)
    dataset.refresh_from_db()
    return dataset


def seed_sample(*, calls: int, seed: int) -> Dataset | None:
    """Import a synthetic dataset into the first organization, once in its life; None if that was done before."""
    owner = Membership.objects.filter(role=Membership.Role.OWNER).order_by("organization__created_at", "id").first()
    if owner is None:
        return None
    marker = storage.folder_of_organization(owner.organization_id) / "sample-was-here"
    if marker.exists():
        return None
    principal = principal_for(user=owner.user)
    with TemporaryDirectory(prefix="netra-sample-") as place:
        path = Path(place) / f"sample-{seed}.csv"
        write_sample_files(path=path, calls=calls, seed=seed)
        dataset = create_dataset(principal=principal, upload=LocalFile(path), name=SAMPLE_NAME)
    marker.touch()
    return import_now(principal=principal, dataset_id=dataset.pk)


def rescue_imports(*, now: datetime) -> int:
    """Ring again for imports that lost their message or their worker; how many. For the sweep.

    Files that no row knows are removed by the way, a few folders at a time.
    """
    storage.remove_abandoned(now)
    silent = imports.requeue_silent(now)
    for dataset_id in silent:
        tasks.ring_import(dataset_id)
    return len(silent)


def as_document(dataset: Dataset) -> dict[str, object]:
    """The dataset as REST and sockets show it."""
    return imports.frame(dataset)


def _first_file(principal: Principal, dataset_id: UUID) -> Dataset:
    dataset = get_dataset(principal=principal, dataset_id=dataset_id)
    if dataset.continues_id:
        raise NotTheFirstFile(f"{dataset.name!r} is a later file itself; continue dataset {dataset.continues_id}.")
    return dataset


def _may_act(principal: Principal) -> None:
    if not principal.may(Membership.Role.MEMBER):
        raise Forbidden("Viewers cannot import data; ask an owner for the member role.")


def _check_mapping(mapping: Mapping[str, str | None]) -> None:
    for field in mapping.keys() - set(FIELDS):
        raise WrongMapping(f"A call has no field {field!r}; it has {', '.join(FIELDS)}.")


def _queue_once(principal: Principal, dataset: Dataset) -> Dataset:
    """Save and queue `dataset`, or answer the one that holds the same file and remove the new copy."""
    kept = None
    try:
        kept = _same_file(principal, dataset) or _saved(principal, dataset)
    finally:
        if kept is None or kept.pk != dataset.pk:
            storage.remove(storage.folder_of(dataset))
    if kept.pk != dataset.pk:
        _refuse_other_place(kept, dataset)
        _refuse_other_mapping(kept, dataset)
    return kept


def _saved(principal: Principal, dataset: Dataset) -> Dataset:
    _refuse_flood(principal)
    plan = Plan.objects.get(code=principal.plan)
    # A stopped import keeps its upload, and may go on.
    everything = Dataset.objects.for_organization(principal).exclude(state=Dataset.State.FAILED)
    if everything.filter(continues=None).count() >= plan.max_datasets and not dataset.continues_id:
        raise TooManyDatasets(f"Your plan keeps {plan.max_datasets} datasets. Delete one that you no longer need.")
    stored = everything.aggregate(bytes=Sum("file_bytes"))["bytes"] or 0
    if stored + dataset.file_bytes > plan.max_stored_mib * 1024**2:
        raise TooMuchStored(
            f"Your plan keeps {plan.max_stored_mib:,} MiB of uploads. Delete a dataset that you no longer need."
        )
    try:
        with transaction.atomic():
            dataset.save(force_insert=True)
            transaction.on_commit(lambda: tasks.ring_import(dataset.pk))
    except IntegrityError:
        # Another request brought the same file at the same moment, and its dataset is the one.
        if found := _same_file(principal, dataset):
            return found
        raise
    return dataset


def _refuse_flood(principal: Principal) -> None:
    under_way = Dataset.objects.for_organization(principal).filter(
        created_by=principal.user_id, state__in=[Dataset.State.QUEUED, Dataset.State.IMPORTING]
    )
    if under_way.count() >= MOST_UNDER_WAY:
        raise TooManyImports(
            f"{MOST_UNDER_WAY} imports of yours are under way. Wait for them, or cancel some.", retry_after=2.0
        )


def _same_file(principal: Principal, dataset: Dataset) -> Dataset | None:
    """What holds the same bytes; a live file is the same only within its dataset, whatever members upload."""
    same = (
        Dataset.objects.for_organization(principal)
        .filter(
            sha256=dataset.sha256,
            metadata_only=dataset.metadata_only,
            price_as=dataset.price_as,
            live=dataset.live,
        )
        .exclude(state=Dataset.State.FAILED)
    )
    if dataset.live:
        first = dataset.continues_id or dataset.pk
        same = same.filter(Q(pk=first) | Q(continues=first))
    found: Dataset | None = same.first()
    return found


def _refuse_other_place(found: Dataset, asked: Dataset) -> None:
    if asked.continues_id and asked.continues_id not in (found.continues_id, found.pk):
        raise DatasetExists(f"This file is in another dataset already, as {found.name!r}. Delete it there first.")


def _refuse_other_mapping(found: Dataset, asked: Dataset) -> None:
    if asked.mapping and asked.mapping != found.mapping:
        raise DatasetExists(f"This file is dataset {found.name!r} already, read with another mapping. Delete it first.")
