"""Datasets over REST and from an import's side: who may, what happens once, what is left behind."""

import dataclasses
import errno
import gzip
import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from celery import current_app
from django.db import IntegrityError, OperationalError, connection
from django.db.models.signals import pre_delete
from django.utils import timezone

from apps.accounts.models import Plan
from apps.errors import Forbidden
from apps.optimization import analyses, imports, jobs, services, storage, tasks
from apps.optimization.conversion import convert
from apps.optimization.models import Dataset, StoredAnalysis
from apps.optimization.readers import UnusableFile
from apps.optimization.serializers import DatasetSerializer
from tests.operations.houses import eventually
from tests.optimization.conftest import as_csv, call, uploaded

pytestmark = pytest.mark.django_db

DATASETS = "/api/datasets/"
ROWS = [call(feature="chat"), call(feature="search")]


ring_import = tasks.ring_import


@pytest.fixture(autouse=True)
def rung(monkeypatch):
    """The datasets that a worker was rung for."""
    rung = []
    monkeypatch.setattr(tasks, "ring_import", rung.append)
    return rung


@pytest.fixture
def post(client_for):
    def post(user, content=ROWS, name="calls.csv", **form):
        body = {"file": uploaded(content, name)} | form
        return client_for(user).post(DATASETS, body, format="multipart")

    return post


def files(root):
    return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*") if path.is_file())


# --- Uploading -------------------------------------------------------------------------------------------------------


def test_an_upload_is_kept_queued_and_answered_with_where_to_look(
    post, alice, acme, rung, settings, django_capture_on_commit_callbacks
):
    with django_capture_on_commit_callbacks(execute=True):
        response = post(alice, name="spend.csv")

    dataset = Dataset.objects.get()
    assert (response.status_code, response.headers["Location"]) == (202, f"{DATASETS}{dataset.pk}/")
    assert (response.json()["state"], response.json()["name"]) == ("queued", "spend.csv")
    assert rung == [dataset.pk]
    assert files(settings.MEDIA_ROOT) == [f"datasets/{acme.pk}/{dataset.pk}/upload"]


def test_an_import_turns_it_into_calls_and_removes_the_upload(import_dataset, alice, acme, settings):
    dataset = import_dataset(alice, ROWS)

    assert (dataset.state, dataset.rows, dataset.progress, dataset.source) == ("ready", 2, 100, "table")
    assert files(settings.MEDIA_ROOT) == [f"datasets/{acme.pk}/{dataset.pk}/calls.parquet"]


def test_the_same_file_twice_is_one_dataset(import_dataset, post, alice, bob, settings):
    dataset = import_dataset(alice, ROWS)

    again = post(bob, name="another name.csv")

    assert (again.status_code, again.json()["id"]) == (200, str(dataset.pk))
    assert Dataset.objects.count() == 1
    assert len(files(settings.MEDIA_ROOT)) == 1


def test_the_same_file_of_a_stranger_is_another_dataset(import_dataset, post, alice, charlie):
    import_dataset(alice, ROWS)

    assert post(charlie).status_code == 202
    assert Dataset.objects.count() == 2


def test_the_same_file_under_another_mapping_is_refused_and_leaves_nothing(import_dataset, post, alice, settings):
    import_dataset(alice, ROWS)

    response = post(alice, mapping=json.dumps({"output_tokens": "input_tokens"}))

    assert (response.status_code, response.json()["code"]) == (409, "dataset.exists")
    assert len(files(settings.MEDIA_ROOT)) == 1


def test_a_file_that_failed_may_be_tried_again(import_dataset, post, alice):
    import_dataset(alice, "nothing,useful\n1,2\n")

    assert post(alice, "nothing,useful\n1,2\n").status_code == 202


def test_metadata_only_is_kept_with_the_dataset(import_dataset, alice, settings):
    dataset = import_dataset(alice, [call(prompt="a very secret question")], metadata_only=True)

    kept = Path(settings.MEDIA_ROOT, *files(settings.MEDIA_ROOT))
    assert dataset.metadata_only
    assert b"secret" not in kept.read_bytes()


def test_an_upload_above_the_limit_is_refused_by_its_announced_length(client_for, alice, settings):
    settings.MAX_UPLOAD_BYTES = 1000

    response = client_for(alice).generic(
        "POST", DATASETS, b"never read", content_type="multipart/form-data; boundary=x", CONTENT_LENGTH="50000"
    )

    assert (response.status_code, response.json()["code"]) == (413, "upload.too_large")
    assert not Path(settings.MEDIA_ROOT).exists()


def test_an_upload_that_turns_out_too_large_leaves_nothing_behind(post, alice, settings):
    settings.MAX_UPLOAD_BYTES = 1000

    response = post(alice, "input_tokens\n" + "1\n" * 1000)

    assert (response.status_code, response.json()["code"]) == (413, "upload.too_large")
    assert files(settings.MEDIA_ROOT) == []


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"mapping": "[1]"}, "request.invalid"),
        ({"mapping": "{"}, "request.invalid"),
        ({"mapping": '{"input_tokens": 5}'}, "request.invalid"),
        ({"mapping": '{"input_tokens": "a\\u0000b"}'}, "request.invalid"),
        ({"mapping": '{"input_tokens": "\\ud800"}'}, "request.invalid"),
        ({"mapping": '{"\\u0000": null}'}, "request.invalid"),
        ({"mapping": "[" * 100_000}, "request.invalid"),
        ({"mapping": '{"input_tokens": ' * 50_000}, "request.invalid"),
        ({"mapping": '{"tokens": "a"}'}, "mapping.invalid"),
        ({"file": ""}, "request.invalid"),
    ],
)
def test_a_form_that_cannot_be_understood_is_refused(post, alice, settings, form, code):
    response = post(alice, **form)

    assert response.json()["code"] == code
    assert Dataset.objects.count() == 0


def test_a_body_that_is_no_form_is_refused(client_for, alice):
    assert client_for(alice).post(DATASETS, {"file": "x"}, format="json").json()["code"] == "media.unsupported"


def test_a_plan_keeps_only_so_many_datasets(post, alice, acme, settings):
    Plan.objects.filter(pk=acme.plan_id).update(max_datasets=1)
    post(alice)

    response = post(alice, [call(input_tokens=7)])

    assert (response.status_code, response.json()["code"]) == (409, "quota.exceeded")
    assert len(files(settings.MEDIA_ROOT)) == 1

    Dataset.objects.update(state="cancelled")  # its upload is kept, and it may go on
    assert post(alice, [call(input_tokens=8)]).status_code == 409


def test_a_plan_keeps_only_so_many_bytes_later_files_included(post, alice, acme, settings):
    first = post(alice).json()["id"]
    Plan.objects.filter(pk=acme.plan_id).update(max_stored_mib=0)

    response = post(alice, [call(input_tokens=7)], continues=first)

    assert (response.status_code, response.json()["code"]) == (409, "quota.exceeded")
    assert len(files(settings.MEDIA_ROOT)) == 1


def test_one_person_cannot_fill_the_queue(post, client_for, alice, bob, settings, monkeypatch):
    monkeypatch.setattr(services, "MOST_UNDER_WAY", 2)
    kept = [post(alice, [call(input_tokens=n)]).json()["id"] for n in (1, 2)]

    refused = post(alice, [call(input_tokens=3)])
    assert (refused.status_code, refused.json()["code"]) == (429, "quota.exceeded")
    assert refused["Retry-After"]
    assert len(files(settings.MEDIA_ROOT)) == 2
    assert post(alice, [call(input_tokens=1)]).json()["id"] == kept[0]
    assert post(bob, [call(input_tokens=3)]).status_code == 202

    assert client_for(alice).post(f"{DATASETS}{kept[0]}/cancel/").status_code == 200
    assert post(alice, [call(input_tokens=4)]).status_code == 202
    assert client_for(alice).post(f"{DATASETS}{kept[0]}/resume/").status_code == 429


def test_a_file_name_is_only_ever_a_name(post, alice, settings):
    post(alice, name="../../../etc/passwd")

    assert Dataset.objects.get().file_name == "passwd"
    assert all(name.startswith("datasets/") for name in files(settings.MEDIA_ROOT))


# --- Failing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "file.empty"),
        (b"\x7fELF\0\0\0", "file.binary"),
        ("input_tokens\n1\n".encode("utf-16"), "file.encoding"),
        (b"question,answer\n1,2\n", "file.no_usable_columns"),
        (b"input_tokens,input_tokens\n1,2\n", "file.duplicate_columns"),
        (b"input_tokens\n-1\n", "file.no_calls"),
        (b'input_tokens,x\n1,"', "file.malformed"),
    ],
)
def test_a_file_that_cannot_be_imported_says_why_and_leaves_nothing(
    import_dataset, client_for, alice, settings, content, code
):
    dataset = import_dataset(alice, content)

    shown = client_for(alice).get(f"{DATASETS}{dataset.pk}/").json()
    assert (shown["state"], shown["error"]["code"]) == ("failed", code)
    assert shown["error"]["detail"].endswith((".", "…"))
    assert files(settings.MEDIA_ROOT) == []


def test_the_rejected_rows_are_shown(import_dataset, client_for, alice):
    dataset = import_dataset(alice, [call(), call(input_tokens=-5)])

    shown = client_for(alice).get(f"{DATASETS}{dataset.pk}/").json()

    assert (shown["rows"], shown["rejected_rows"]) == (1, 1)
    assert shown["rejects"] == [{"line": 3, "column": "input_tokens", "reason": "The number of tokens is negative."}]


def test_a_bug_in_an_import_fails_the_dataset_without_its_details(import_dataset, alice, monkeypatch):
    def broken(order, progress):
        raise ZeroDivisionError("secret internals")

    monkeypatch.setattr(imports, "convert", broken)
    with pytest.raises(ZeroDivisionError, match="secret"):
        import_dataset(alice, ROWS)

    dataset = Dataset.objects.get()
    assert (dataset.state, dataset.error_code) == ("failed", "import.interrupted")
    assert "secret" not in dataset.error_detail


@pytest.mark.parametrize("what", ["name", "note", "detail"])
def test_what_a_database_cannot_store_fails_the_import_at_once_and_says_so(import_dataset, alice, monkeypatch, what):
    def odd(order, progress):
        if what == "detail":
            raise UnusableFile("The column 'a\0b' is odd.")
        found = convert(order, progress)
        more = {"columns": {"input_tokens": "a\0b"}} if what == "name" else {"notes": ("\ud800",)}
        return dataclasses.replace(found, **more)

    monkeypatch.setattr(imports, "convert", odd)
    dataset = import_dataset(alice, ROWS)

    assert (dataset.state, dataset.attempt, dataset.error_code) == ("failed", 1, "import.unstorable")
    assert "cannot be stored" in dataset.error_detail


@pytest.mark.parametrize("name", ["input\0tokens", "output\ud800tokens"])
def test_names_that_cannot_be_stored_bring_no_import_down(import_dataset, alice, name):
    lines = json.dumps({name: 1, "input_tokens": 5}) + "\n" + json.dumps({name: 1})

    dataset = import_dataset(alice, lines, name="calls.jsonl")

    assert (dataset.state, dataset.rows, dataset.rejected_rows) == ("ready", 1, 1)
    assert import_dataset(alice, json.dumps({name: 1})).error_code == "file.no_usable_columns"


def test_an_import_may_stage_a_multiple_of_what_an_upload_may_have(post, alice, settings):
    settings.MAX_UPLOAD_BYTES = 10 * 1024**3
    post(alice)

    assert imports._order(Dataset.objects.get(), 60).staged_bytes == 40 * 1024**3


# --- Once, and by one ------------------------------------------------------------------------------------------------


def test_an_import_that_is_rung_for_twice_happens_once(import_dataset, alice):
    dataset = import_dataset(alice, ROWS)

    imports.run_import(dataset.pk)
    imports.run_import(uuid4())
    tasks.import_small()

    dataset.refresh_from_db()
    assert (dataset.state, dataset.attempt) == ("ready", 1)


@pytest.fixture
def lanes(monkeypatch):
    """The queues into which imports were rung."""
    lanes = []
    for task in (tasks.import_small, tasks.work):
        lane = current_app.amqp.router.route({}, task.name)["queue"].name
        monkeypatch.setattr(task, "apply_async", lambda *_, lane=lane, **__: lanes.append(lane))
    monkeypatch.setattr(tasks, "ring_import", ring_import)
    return lanes


def test_a_small_file_does_not_wait_behind_long_work(post, alice, lanes, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        post(alice)
    ring_import(uuid4())
    Dataset.objects.update(file_bytes=imports.SMALL_BYTES + 1)
    ring_import(Dataset.objects.get().pk)

    assert lanes == ["imports", "tools"]


def test_a_small_file_that_takes_long_is_left_to_the_tool_workers(post, alice, lanes, monkeypatch):
    post(alice)
    monkeypatch.setattr(imports, "SMALL_SECONDS", 0.0)

    tasks.import_small()
    assert lanes == ["tools"]
    assert Dataset.objects.get().state == "queued"

    tasks.work()
    assert (Dataset.objects.get().state, Dataset.objects.get().attempt) == ("ready", 2)


@pytest.mark.parametrize(("calls", "lane"), [(10, "imports"), (50_000, "tools")])
def test_a_packed_file_is_as_large_as_what_may_be_in_it(post, alice, lanes, calls, lane):
    post(alice, gzip.compress(as_csv([call(input_tokens=number * 7919 % 10_007) for number in range(calls)]).encode()))
    dataset = Dataset.objects.get()
    assert dataset.file_bytes < imports.SMALL_BYTES

    ring_import(dataset.pk)

    assert lanes == [lane]


@pytest.fixture
def long_work(post, monkeypatch):
    """Upload a file that tool workers import; its dataset."""
    monkeypatch.setattr(imports, "SMALL_BYTES", 0)

    def long_work(user):
        number = Dataset.objects.count()
        return Dataset.objects.get(pk=post(user, [call(input_tokens=number + 1)]).json()["id"])

    return long_work


def begun(workers):
    """The datasets that so many workers begin at once, in order."""
    return [jobs.claim_next(tasks._long_work, tasks._claimed).pk for _ in range(workers)]


def test_nobody_waits_behind_all_imports_of_another_organization(long_work, alice, charlie):
    first, second, third = (long_work(alice) for _ in range(3))
    others = [long_work(charlie) for _ in range(2)]

    assert begun(5) == [first.pk, others[0].pk, second.pk, others[1].pk, third.pk]


def test_one_worker_serves_organizations_in_turn(long_work, alice, charlie):
    mine, yours = [long_work(alice) for _ in range(3)], [long_work(charlie) for _ in range(2)]

    for _ in range(4):
        tasks.work()
        StoredAnalysis.objects.filter(state="queued").delete()

    ready = Dataset.objects.filter(state="ready")
    assert {each.pk for each in ready} == {mine[0].pk, mine[1].pk, yours[0].pk, yours[1].pk}


def test_people_of_an_organization_are_served_in_turn(long_work, alice, bob):
    first, second = (long_work(alice) for _ in range(2))
    other = long_work(bob)

    assert begun(3) == [first.pk, other.pk, second.pk]


def test_an_analysis_waits_behind_no_heap_of_imports(long_work, import_dataset, alice, charlie):
    dataset = import_dataset(charlie, ROWS)
    first, second = (long_work(alice) for _ in range(2))
    asked, _ = analyses.kept(dataset, "savings", {}, by=charlie.pk)

    assert begun(3) == [first.pk, asked.pk, second.pk]


def test_a_later_file_that_has_to_wait_holds_up_nobody(long_work, alice, bob):
    first, second = long_work(alice), long_work(alice)
    Dataset.objects.filter(pk=second.pk).update(continues=first)
    other = long_work(bob)

    assert begun(2) == [first.pk, other.pk]
    assert jobs.claim_next(tasks._long_work, tasks._claimed) is None


@pytest.mark.django_db(transaction=True)
def test_workers_that_claim_at_once_begin_everything_once(long_work, alice, charlie):
    made = {long_work(user).pk for user in (alice, charlie) for _ in range(6)}

    def claim():
        try:
            return begun(3)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as workers:
        found = [pk for future in [workers.submit(claim) for _ in range(4)] for pk in future.result()]

    assert sorted(found) == sorted(made)


def test_an_imported_dataset_is_never_seen_without_its_analysis(
    post, alice, monkeypatch, django_capture_on_commit_callbacks
):
    rung, made = [], post(alice).json()["id"]
    monkeypatch.setattr(tasks, "ring_analysis", rung.append)
    with django_capture_on_commit_callbacks(execute=True):
        tasks.import_small()

    analysis = StoredAnalysis.objects.get()
    assert (str(analysis.dataset_id), analysis.kind, rung) == (made, "savings", [analysis.pk])

    def dies(*_, **__):
        raise RuntimeError("out of disk")

    other = post(alice, [call(input_tokens=5)]).json()["id"]
    monkeypatch.setattr(analyses, "kept", dies)
    with pytest.raises(RuntimeError):
        tasks.import_small()
    assert Dataset.objects.get(pk=other).state != "ready"


def test_a_dataset_that_is_deleted_while_it_is_imported_leaves_nothing(import_dataset, alice, settings, monkeypatch):
    def delete_meanwhile(order, progress):
        Dataset.objects.all().delete()
        return convert(order, progress)

    monkeypatch.setattr(imports, "convert", delete_meanwhile)
    with pytest.raises(Dataset.DoesNotExist):
        import_dataset(alice, ROWS)

    assert files(settings.MEDIA_ROOT) == []


def test_a_dataset_whose_files_go_while_it_is_imported_is_no_failure(import_dataset, alice, settings, monkeypatch):
    def delete_meanwhile(order, progress):
        Dataset.objects.all().delete()
        raise FileNotFoundError(order.source)

    monkeypatch.setattr(imports, "convert", delete_meanwhile)
    with pytest.raises(Dataset.DoesNotExist):
        import_dataset(alice, ROWS)

    assert files(settings.MEDIA_ROOT) == []


def test_a_full_disk_is_called_by_its_name(import_dataset, alice, settings, monkeypatch):
    def full(order, progress):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(imports, "convert", full)

    assert import_dataset(alice, ROWS).error_code == "storage.full"
    assert files(settings.MEDIA_ROOT) == []


def test_an_import_that_lost_its_worker_is_rung_for_again_and_finally_fails(post, alice, rung):
    post(alice)
    now = timezone.now()
    Dataset.objects.update(state="importing", attempt=1, progress_at=now - timedelta(minutes=5))

    assert services.rescue_imports(now=now) == 1
    assert rung[-1] == Dataset.objects.get(state="queued").pk

    Dataset.objects.update(state="importing", attempt=3, progress_at=now - timedelta(minutes=5))
    assert services.rescue_imports(now=now) == 0
    assert Dataset.objects.get().error_code == "import.interrupted"


def test_what_a_killed_import_left_behind_goes_with_the_next_attempt(post, alice, settings):
    post(alice)
    dataset = Dataset.objects.get()
    scratch = storage.folder_of(dataset) / "netra-import-killed"
    scratch.mkdir()
    (scratch / "staged.csv").write_text("a secret prompt")

    imports.run_import(dataset.pk)

    assert [Path(name).name for name in files(settings.MEDIA_ROOT)] == ["calls.parquet"]
    assert not scratch.exists()


def test_an_import_that_shows_life_is_left_alone(post, alice):
    post(alice)
    now = timezone.now()
    Dataset.objects.update(state="importing", attempt=1, progress_at=now - timedelta(seconds=20))

    assert services.rescue_imports(now=now) == 0


def test_a_worker_that_was_given_up_cannot_write_anymore(post, alice):
    post(alice)
    zombie = jobs.claim(Dataset, Dataset.objects.get().pk)
    Dataset.objects.update(attempt=2)

    imports._fail(zombie, imports.Interrupted("The zombie fails."))

    dataset = Dataset.objects.get()
    assert (dataset.state, dataset.error_code) == ("importing", "")
    assert (storage.folder_of(dataset) / storage.UPLOAD).exists()


def test_progress_goes_to_who_uploaded_it_in_the_shape_of_the_dataset(import_dataset, alice, monkeypatch):
    frames = []
    monkeypatch.setattr(imports, "publish_to_user", lambda user_id, frame: frames.append((user_id, frame)))
    monkeypatch.setattr(imports, "TELL_EVERY", 0.0)

    import_dataset(alice, ROWS)

    shown = [frame["progress"] for _, frame in frames]
    assert {user for user, _ in frames} == {alice.pk}
    assert shown == sorted(shown)
    assert shown[-1] == 100
    assert frames[-1][1].keys() == {"type", *DatasetSerializer().fields}
    json.dumps([frame for _, frame in frames])


# --- Looking and deleting --------------------------------------------------------------------------------------------


def test_the_list_is_the_organizations_newest_first(import_dataset, client_for, alice, bob, charlie):
    first, second = import_dataset(alice, ROWS), import_dataset(bob, [call()])
    import_dataset(charlie, ROWS)

    found = client_for(alice).get(DATASETS).json()

    assert [dataset["id"] for dataset in found["results"]] == [str(second.pk), str(first.pk)]
    assert found["next"] is None


def test_the_document_has_exactly_the_described_fields(import_dataset, client_for, alice):
    dataset = import_dataset(alice, ROWS)

    assert client_for(alice).get(f"{DATASETS}{dataset.pk}/").json().keys() == DatasetSerializer().fields.keys()


@pytest.mark.parametrize(
    ("who", "look", "upload", "delete"),
    [
        ("alice", 200, 202, 204),
        ("bob", 200, 202, 403),
        ("vera", 200, 403, 403),
        ("charlie", 404, 202, 404),
        (None, 401, 401, 401),
    ],
)
def test_who_may_do_what(request, import_dataset, client_for, post, alice, who, look, upload, delete):
    dataset = import_dataset(alice, ROWS)
    user = request.getfixturevalue(who) if who else None
    client = client_for(user)

    assert client.get(f"{DATASETS}{dataset.pk}/").status_code == look
    assert client.get(f"{DATASETS}{dataset.pk}/breakdown/").status_code == look
    assert client.get(DATASETS).status_code == (200 if who else 401)
    assert post(user, [call(input_tokens=99)]).status_code == upload
    assert client.delete(f"{DATASETS}{dataset.pk}/").status_code == delete
    assert Dataset.objects.filter(pk=dataset.pk).exists() == (delete != 204)


def test_who_uploaded_a_dataset_may_delete_it_with_its_calls(
    import_dataset, client_for, bob, settings, django_capture_on_commit_callbacks
):
    dataset = import_dataset(bob, ROWS)

    with django_capture_on_commit_callbacks(execute=True):
        response = client_for(bob).delete(f"{DATASETS}{dataset.pk}/")

    assert response.status_code == 204
    assert files(settings.MEDIA_ROOT) == []


def test_a_dataset_that_does_not_exist_is_not_found(client_for, alice):
    assert client_for(alice).get(f"{DATASETS}{uuid4()}/").json()["code"] == "dataset.not_found"


# --- What a crash leaves behind --------------------------------------------------------------------------------------


@pytest.fixture
def leave_folder(settings):
    """A folder with an upload, as a process leaves it that dies before the row is saved."""

    def leave_folder(organization, name, *, minutes):
        place = Path(settings.MEDIA_ROOT) / "datasets" / str(organization) / name
        place.mkdir(parents=True)
        (place / storage.UPLOAD).write_text("calls")
        age(place, minutes)
        return place

    return leave_folder


def age(place, minutes):
    then = (timezone.now() - timedelta(minutes=minutes)).timestamp()
    for path in (*place.iterdir(), place):
        os.utime(path, (then, then))


def sweep_until_round():
    """As many sweeps as one round through all folders takes."""
    storage._round = iter(())
    for _ in range(3):
        services.rescue_imports(now=timezone.now())


def test_an_old_folder_without_a_row_is_removed_and_nothing_else(import_dataset, leave_folder, acme, alice):
    dataset = import_dataset(alice, ROWS)
    age(storage.folder_of(dataset), minutes=600)
    left = {
        "abandoned": leave_folder(acme.pk, str(uuid4()), minutes=61),
        "still being kept": leave_folder(acme.pk, str(uuid4()), minutes=59),
        "not ours": leave_folder(acme.pk, "notes", minutes=600),
        "of another database": leave_folder(uuid4(), str(uuid4()), minutes=600),
    }

    sweep_until_round()

    assert [name for name, place in left.items() if not place.exists()] == ["abandoned"]
    assert (storage.folder_of(dataset) / storage.CALLS).exists()


def test_a_sweep_looks_at_few_folders_and_the_next_goes_on(leave_folder, acme, monkeypatch):
    monkeypatch.setattr(storage, "LOOKED_AT", 2)
    left = [leave_folder(acme.pk, str(uuid4()), minutes=61) for _ in range(5)]
    storage._round = iter(())

    gone = [storage.remove_abandoned(timezone.now()) for _ in range(4)]

    assert gone == [2, 2, 1, 0]
    assert not any(place.exists() for place in left)


# --- Breakdown -------------------------------------------------------------------------------------------------------


def test_spend_is_broken_down_over_rest(import_dataset, client_for, alice):
    dataset = import_dataset(alice, ROWS)

    found = client_for(alice).get(f"{DATASETS}{dataset.pk}/breakdown/", {"by": "feature", "limit": 1}).json()

    assert (found["by"], found["total_usd"], found["other_rows"]) == ("feature", "0.007", 1)
    assert (found["rows"][0]["key"], found["rows"][0]["cost_usd"]) == ("chat", "0.0035")


@pytest.mark.parametrize("query", [{"by": "colour"}, {"limit": 0}, {"limit": "many"}])
def test_a_breakdown_by_nonsense_is_refused(import_dataset, client_for, alice, query):
    dataset = import_dataset(alice, ROWS)

    assert client_for(alice).get(f"{DATASETS}{dataset.pk}/breakdown/", query).json()["code"] == "request.invalid"


def test_what_takes_longer_than_a_request_may_is_stopped_and_says_so(import_dataset, client_for, alice, monkeypatch):
    dataset = import_dataset(alice, ROWS)
    monkeypatch.setattr(services, "IN_REQUEST_SECONDS", -1.0)

    broken_down = client_for(alice).get(f"{DATASETS}{dataset.pk}/breakdown/")
    looked_at = client_for(alice).post(f"{DATASETS}preview/", {"file": uploaded(ROWS)}, format="multipart")

    assert (broken_down.status_code, broken_down.json()["code"]) == (422, "analysis.too_much_work")
    assert (looked_at.status_code, looked_at.json()["code"]) == (422, "import.took_too_long")
    assert "Import it: that may take longer." in looked_at.json()["detail"]


def test_while_it_is_imported_the_breakdown_says_where_to_look_again(post, client_for, alice):
    location = post(alice).headers["Location"]

    response = client_for(alice).get(f"{location}breakdown/")

    assert (response.status_code, response.headers["Location"]) == (202, location)


def test_a_failed_dataset_has_no_breakdown(import_dataset, client_for, alice):
    dataset = import_dataset(alice, b"")

    response = client_for(alice).get(f"{DATASETS}{dataset.pk}/breakdown/")

    assert (response.status_code, response.json()["code"]) == (409, "dataset.failed")


# --- Services --------------------------------------------------------------------------------------------------------


def test_agents_open_the_calls_of_their_own_organization_only(import_dataset, as_principal, alice, bob, charlie):
    dataset = import_dataset(alice, ROWS)

    with services.open_calls(principal=as_principal(bob), dataset_id=dataset.pk) as calls:
        assert calls.row("SELECT count(*) FROM calls") == (2,)
    with (
        pytest.raises(services.DatasetNotFound, match="no dataset"),
        services.open_calls(principal=as_principal(charlie), dataset_id=dataset.pk),
    ):
        pass


def test_an_analysis_of_a_dataset_sees_no_file_but_its_own(import_dataset, as_principal, alice, charlie):
    own, foreign = import_dataset(alice, ROWS), import_dataset(charlie, ROWS)
    path = storage.folder_of(foreign) / storage.CALLS

    with services.open_calls(principal=as_principal(alice), dataset_id=own.pk) as calls:
        for query in (f"SELECT * FROM read_parquet('{path}')", "SELECT * FROM read_text('/etc/passwd')"):
            with pytest.raises(Exception, match="Permission Error"):
                calls.rows(query)
        with pytest.raises(Exception, match="locked"):
            calls.rows("SET enable_external_access = true")


def test_a_viewer_imports_nothing(as_principal, vera, settings):
    with pytest.raises(Forbidden, match="Viewers"):
        services.create_dataset(principal=as_principal(vera), upload=uploaded(ROWS))

    assert not Path(settings.MEDIA_ROOT).exists()


def test_the_sample_is_imported_once_in_the_life_of_an_organization(alice, acme, as_principal):
    sample = services.seed_sample(calls=300, seed=1)

    assert (sample.state, sample.rows, sample.organization_id) == ("ready", 300, acme.pk)
    assert sample.name.startswith("Sample:")
    services.delete_dataset(principal=as_principal(alice), dataset_id=sample.pk)
    assert services.seed_sample(calls=300, seed=1) is None


def test_without_an_organization_there_is_nobody_to_seed(db):
    assert services.seed_sample(calls=10, seed=1) is None


@pytest.mark.django_db(transaction=True)
def test_what_a_worker_adds_while_a_dataset_is_deleted_is_refused_and_the_deletion_is_not(
    alice, as_principal, import_dataset
):
    """Django lists what to delete first; a row that comes after the list would fail the deletion at its end."""
    dataset = import_dataset(alice, [call()])

    def add():
        try:
            analyses.kept(dataset, "savings", {}, by=alice.pk)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as other:
        additions = []

        def in_between(**_):
            additions.append(other.submit(add))
            assert eventually(lambda: additions[0].done() or _waiting_for_a_lock(), within=20)

        pre_delete.connect(in_between, sender=Dataset)
        try:
            services.delete_dataset(principal=as_principal(alice), dataset_id=dataset.pk)
        finally:
            pre_delete.disconnect(in_between, sender=Dataset)
        with pytest.raises((IntegrityError, OperationalError)):  # the latter where it waited longer than it may
            additions[0].result(timeout=10)

    assert not Dataset.objects.exists()
    assert not StoredAnalysis.objects.exists()


def _waiting_for_a_lock():
    with connection.cursor() as cursor:
        cursor.execute(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        return cursor.fetchone()[0]
