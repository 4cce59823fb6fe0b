"""Spans over OTLP/HTTP: nothing that was acknowledged is lost, nothing counts twice, every answer is the protocol's."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import duckdb
import pytest
from django.utils import timezone
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from rest_framework.test import APIClient

from apps.accounts.models import ApiKey
from apps.optimization import compaction, imports, live, services, storage, tasks, traces
from apps.optimization.models import Dataset, StoredAnalysis

pytestmark = pytest.mark.django_db

JSON, PROTOBUF = "application/json", "application/x-protobuf"
START = 1790856000 * 10**9  # 2026-10-01T12:00:00Z


def span(number=1, **more):
    attributes = {
        "gen_ai.request.model": {"stringValue": "gpt-4o"},
        "gen_ai.usage.input_tokens": {"intValue": "1000"},
        "gen_ai.usage.output_tokens": {"intValue": "100"},
    }
    return {
        "traceId": f"{7:032x}",
        "spanId": f"{number:016x}",
        "name": "chat gpt-4o",
        "startTimeUnixNano": str(START + number),
        "endTimeUnixNano": str(START + 10**9),
        "attributes": [{"key": key, "value": value} for key, value in attributes.items()],
    } | more


def document(*spans):
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "x"}, "spans": list(spans)}]}]}


def in_protobuf(*numbers):
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for number in numbers:
        one = spans.add(name="chat", start_time_unix_nano=START + number, end_time_unix_nano=START + 10**9)
        one.trace_id, one.span_id = bytes.fromhex(f"{7:032x}"), bytes.fromhex(f"{number:016x}")
        one.attributes.add(key="gen_ai.request.model").value.string_value = "gpt-4o"
        one.attributes.add(key="gen_ai.usage.input_tokens").value.int_value = 1000
        one.attributes.add(key="gen_ai.usage.output_tokens").value.int_value = 100
    return request.SerializeToString()


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch):
    monkeypatch.setattr(tasks, "ring_import", lambda dataset_id: None)


@pytest.fixture
def send(acme):
    """Send a body with a key of `user`; a document is sent as JSON."""

    def send(user, body, kind=JSON, scope=ApiKey.Scope.WRITE, **headers):
        client = APIClient()
        if user is not None:
            organization = user.memberships.get().organization
            _, token = ApiKey.objects.create(user=user, organization=organization, name="exporter", scope=scope)
            client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return client.generic("POST", "/v1/traces", body, content_type=kind, **headers)

    return send


@pytest.fixture
def swept():
    """Let the sweep hand over what waits and a worker import it, as if minutes had passed; answers the datasets."""

    def swept(then=lambda ready: None):
        while live.import_spools(now=timezone.now() + timedelta(minutes=2)):
            for dataset in Dataset.objects.filter(state=Dataset.State.QUEUED):
                imports.run_import(dataset.pk, then)
        return list(Dataset.objects.order_by("id"))

    return swept


def spools(settings):
    return sorted(Path(settings.MEDIA_ROOT).glob("datasets/*/live/*.jsonl"))


def test_spans_in_json_become_calls_of_the_live_dataset(send, swept, alice, as_principal):
    answer = send(alice, document(span(1), span(2)))

    assert (answer.status_code, answer.content, answer.headers["Content-Type"]) == (200, b"{}", JSON)
    (dataset,) = swept()
    assert (dataset.state, dataset.rows, dataset.source, dataset.name) == ("ready", 2, "otel", live.NAME), (
        dataset.error_detail
    )
    with services.open_calls(principal=as_principal(alice), dataset_id=dataset.pk) as calls:
        assert calls.row("SELECT sum(input_tokens), min(model) FROM calls") == (2000, "gpt-4o")


@pytest.mark.parametrize("packed", [False, True])
def test_spans_in_protobuf_are_the_same_calls(send, swept, alice, packed):
    body = gzip.compress(in_protobuf(1, 2)) if packed else in_protobuf(1, 2)
    headers = {"HTTP_CONTENT_ENCODING": "gzip"} if packed else {}

    answer = send(alice, body, PROTOBUF, **headers)

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, PROTOBUF)
    assert ExportTraceServiceResponse.FromString(answer.content) == ExportTraceServiceResponse()
    assert [dataset.rows for dataset in swept()] == [2]


def test_a_span_that_is_sent_again_is_one_call(send, swept, alice):
    send(alice, document(span(1)))
    send(alice, document(span(1)))
    swept()
    send(alice, in_protobuf(1, 2), PROTOBUF)

    first, later = swept()

    assert (first.rows, later.rows, later.known_rows, later.continues_id) == (1, 1, 1, first.pk)


def test_a_file_waits_until_the_one_before_it_is_imported(send, alice):
    send(alice, document(span(1)))
    assert live.import_spools(now=timezone.now() + timedelta(minutes=2)) == 1
    send(alice, document(span(2)))

    assert live.import_spools(now=timezone.now() + timedelta(minutes=4)) == 0
    assert Dataset.objects.count() == 1


def test_a_minute_that_is_not_over_waits(send, alice, settings):
    send(alice, document(span(1)))

    assert live.import_spools(now=timezone.now() - timedelta(minutes=1)) == 0
    assert len(spools(settings)) == 1


def test_a_crash_between_dataset_and_spool_makes_no_second_dataset(send, swept, alice, settings, monkeypatch):
    send(alice, document(span(1)))

    def killed(path):
        raise SystemExit(path)

    with monkeypatch.context() as crash:
        crash.setattr(Path, "unlink", killed)
        with pytest.raises(SystemExit):
            live.import_spools(now=timezone.now() + timedelta(minutes=2))
    for dataset in Dataset.objects.all():
        imports.run_import(dataset.pk)

    assert [dataset.rows for dataset in swept()] == [1]
    assert spools(settings) == []


def test_a_crash_before_the_import_of_the_first_file_makes_no_second_dataset(send, alice, settings, monkeypatch):
    send(alice, document(span(1)))
    (path,) = spools(settings)
    line = path.read_bytes()
    later = timezone.now() + timedelta(minutes=2)
    live.import_spools(now=later)
    path.write_bytes(line)  # as if it had not been removed

    assert live.import_spools(now=later) == 0
    imports.run_import(Dataset.objects.get().pk)
    assert live.import_spools(now=later) == 1

    assert (Dataset.objects.count(), spools(settings)) == (1, [])


@pytest.fixture
def upload(as_principal):
    """Import a file of a member's own."""

    def upload(user, path, **asked):
        dataset = services.create_dataset(
            principal=as_principal(user), upload=services.LocalFile(path), metadata_only=True, **asked
        )
        imports.run_import(dataset.pk)
        dataset.refresh_from_db()
        return dataset

    return upload


def test_a_file_that_somebody_imported_keeps_no_live_calls_out(send, swept, alice, bob, upload, settings):
    send(alice, document(span(1)))
    (first,) = swept()
    send(alice, document(span(2)))
    mine = upload(bob, *spools(settings))

    swept()

    assert (mine.rows, [file.rows for file in first.later_files.all()], spools(settings)) == (1, [1], [])


def test_a_file_that_somebody_added_to_the_live_calls_counts_once(send, swept, alice, upload, settings):
    send(alice, document(span(1)))
    (first,) = swept()
    send(alice, document(span(2)))
    upload(alice, *spools(settings), continues=first.pk)

    swept()

    files = first.later_files.order_by("id")
    assert ([file.rows for file in files], [file.live for file in files], spools(settings)) == (
        [1, 0],
        [False, True],
        [],
    )


def test_nobody_makes_a_dataset_of_his_the_live_one(send, swept, alice, bob, upload, settings):
    send(alice, document(span(1)))
    mine = upload(bob, *spools(settings), mapping={"model": "name", "output_tokens": None})

    swept()
    send(alice, document(span(2)))
    _, made, later = swept()

    assert (made.live, made.mapping, made.created_by, made.name, made.rows) == (True, {}, alice.pk, live.NAME, 1)
    assert (later.continues_id, mine.live, mine.later_files.count()) == (made.pk, False, 0)


def test_live_calls_that_somebody_uploads_too_are_a_dataset_of_his(send, swept, alice, bob, upload, settings, tmp_path):
    send(alice, document(span(1)))
    copy = tmp_path / "mine.jsonl"
    copy.write_bytes(spools(settings)[0].read_bytes())
    (made,) = swept()

    mine = upload(bob, copy)

    assert (mine.pk != made.pk, mine.live, mine.rows, mine.created_by) == (True, False, 1, bob.pk)


def test_what_is_sent_again_after_a_cancelled_import_begins_anew(send, swept, alice, as_principal):
    send(alice, document(span(1)))
    live.import_spools(now=timezone.now() + timedelta(minutes=2))
    services.cancel_import(principal=as_principal(alice), dataset_id=Dataset.objects.get().pk)
    send(alice, document(span(1)))

    assert [(dataset.state, dataset.rows) for dataset in swept()] == [("cancelled", 0), ("ready", 1)]


def test_a_line_that_a_crash_cut_is_removed_and_nothing_else(send, swept, alice, settings):
    send(alice, document(span(1)))
    (path,) = spools(settings)
    with path.open("ab") as file:
        file.write(b'{"resourceSpans": [{"sco')

    dataset, *_ = swept()

    assert (dataset.rows, dataset.rejected_rows) == (1, 0)


def test_a_deleted_live_dataset_begins_anew(send, swept, alice):
    send(alice, document(span(1)))
    swept()[0].delete()
    send(alice, document(span(1)))

    assert [dataset.rows for dataset in swept()] == [1]


def test_spans_without_tokens_are_acknowledged_and_not_kept(send, alice, settings):
    answer = send(alice, document(span(1, attributes=[])))

    assert (answer.status_code, spools(settings)) == (200, [])


def test_spans_that_cannot_be_told_apart_are_refused_one_by_one(send, swept, alice):
    answer = send(alice, document(span(1), span(2, spanId="zz"), span(3, startTimeUnixNano="soon")))

    partial = answer.json()["partialSuccess"]
    assert (answer.status_code, partial["rejectedSpans"]) == (200, "2")
    assert partial["errorMessage"] == "resourceSpans[0].scopeSpans[0].spans[1]: spanId is not 16 hex digits."
    assert [dataset.rows for dataset in swept()] == [1]


@pytest.mark.parametrize(
    ("body", "kind", "headers", "status"),
    [
        (b"{", JSON, {}, 400),
        (b"[]", JSON, {}, 400),
        (b'{"resourceSpans": 1}', JSON, {}, 400),
        (b'{"resourceSpans": [1]}', JSON, {}, 400),
        (b"[" * 100_000, JSON, {}, 400),
        (b"\xff\xff\xff", PROTOBUF, {}, 400),
        (b"plain", PROTOBUF, {"HTTP_CONTENT_ENCODING": "gzip"}, 400),
        (gzip.compress(b"{}" * 99)[:-9], JSON, {"HTTP_CONTENT_ENCODING": "gzip"}, 400),
        (b"{}", JSON, {"HTTP_CONTENT_ENCODING": "br"}, 415),
        (b"<xml/>", "text/xml", {}, 415),
        (gzip.compress(b" " * (traces.MOST_BYTES + 1)), JSON, {"HTTP_CONTENT_ENCODING": "gzip"}, 413),
        (b" " * (traces.MOST_BYTES + 1), PROTOBUF, {}, 413),
    ],
)
def test_a_bad_body_is_answered_with_a_status_in_its_own_form(send, alice, settings, body, kind, headers, status):
    answer = send(alice, body, kind, **headers)

    assert answer.status_code == status
    said = Status.FromString(answer.content).message if kind == PROTOBUF else json.loads(answer.content)["message"]
    assert said.endswith((".", "}"))
    assert spools(settings) == []


def field(number, content):
    """A field of protobuf that holds bytes: what an attacker writes by hand."""
    size, left = b"", len(content)
    while left > 127:
        size, left = size + bytes([left & 127 | 128]), left >> 7
    return bytes([number << 3 | 2]) + size + bytes([left]) + content


def scope_of(content):
    return field(1, field(2, content))


@pytest.fixture
def no_objects(monkeypatch):
    """Nothing may be made of a body before its values are counted."""

    def made(*_):
        raise AssertionError("objects were made of it")

    monkeypatch.setattr(traces, "_from_json", made)
    monkeypatch.setattr(traces, "_from_protobuf", made)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (scope_of(field(2, b"") * 500_001), PROTOBUF),
        (field(1, b"") * 500_001, PROTOBUF),
        (scope_of(field(2, field(9, b"") * 500_001)), PROTOBUF),
        (scope_of(field(2, field(9, field(2, field(5, field(1, b"") * 500_001))))), PROTOBUF),
        (b'{"resourceSpans":[' + b"{}," * 500_001 + b"{}]}", JSON),
        (b'{"resourceSpans":[{"a":"\\\\","b":[' + b"[" * 500_001, JSON),
    ],
    ids=["spans", "resources", "attributes", "values", "objects", "lists"],
)
def test_a_small_body_of_very_many_values_is_refused_before_anything_is_made_of_it(send, alice, no_objects, body, kind):
    packed = gzip.compress(body)
    assert len(packed) < 10_000

    answer = send(alice, packed, kind, HTTP_CONTENT_ENCODING="gzip")

    said = Status.FromString(answer.content).message if kind == PROTOBUF else json.loads(answer.content)["message"]
    assert (answer.status_code, "500,000 values" in said) == (413, True)


def test_what_a_prompt_holds_are_no_values(send, swept, alice):
    prompt = {"key": "gen_ai.prompt", "value": {"stringValue": '{"say": "\\\\", "rows": [' + "1," * 600_000 + "[{"}}

    answer = send(alice, document(span(1, attributes=[*span()["attributes"], prompt])))

    assert (answer.status_code, [dataset.rows for dataset in swept()]) == (200, [1])


def test_a_batch_of_thousands_of_spans_is_taken(send, alice):
    assert send(alice, in_protobuf(*range(1, 8193)), PROTOBUF).status_code == 200


def test_fields_of_a_newer_protocol_are_passed_over(send, swept, alice):
    unknown = b"\x98\x06\x96\x01" + b"\xa1\x06" + bytes(8) + b"\xad\x06" + bytes(4) + field(15, b"\xff\xff")

    assert send(alice, in_protobuf(1) + unknown, PROTOBUF).status_code == 200
    assert [dataset.rows for dataset in swept()] == [1]


@pytest.mark.parametrize("body", [b"\x0a\x05\x12", b"\x0a\x80", b"\x0b\x0c", b"\x80" * 99, scope_of(b"\x12\x7f")])
def test_lengths_that_do_not_fit_are_told(send, alice, no_objects, body):
    assert send(alice, body, PROTOBUF).status_code == 400


class Reason(str):
    """Counts how often it became a part of a sentence."""

    __slots__ = ()
    written = 0

    def __format__(self, how):
        Reason.written += 1
        return super().__format__(how)


def test_of_very_many_rejected_spans_only_the_first_reason_is_kept(monkeypatch):
    said = []
    monkeypatch.setattr(traces, "_wrong_with", lambda span: said.append(span) or Reason(f"reason {len(said)}."))

    with traces.traces_in(json.dumps(document(*[{}] * 1000)).encode(), JSON) as found:
        assert (found.rejected, found.spans, found.document) == (1000, 0, {"resourceSpans": []})

    assert found.reason == "resourceSpans[0].scopeSpans[0].spans[0]: reason 1."
    assert Reason.written == 1


def test_what_is_open_at_a_time_is_bounded_and_senders_try_again(send, alice, monkeypatch):
    body = json.dumps(document(span(1))).encode()
    monkeypatch.setattr(traces, "MOST_AT_ONCE", 40)

    with traces.traces_in(body, JSON):
        answer = send(alice, body)

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert Status.FromString(send(alice, in_protobuf(*range(1, 9)), PROTOBUF).content).message.startswith("Many spans")
    assert send(alice, b"{").status_code == 400
    assert send(alice, body).status_code == 200


def test_only_a_key_that_may_write_sends_spans(send, alice, bob, vera, settings):
    assert send(None, document(span(1))).status_code == 401
    assert send(vera, document(span(1))).status_code == 403
    assert send(alice, document(span(1)), scope=ApiKey.Scope.READ).status_code == 403
    assert spools(settings) == []
    assert send(bob, document(span(1))).status_code == 200


def test_each_organization_has_spans_of_its_own(send, swept, alice, charlie):
    send(alice, document(span(1)))
    send(charlie, document(span(1), span(2)))

    assert {dataset.organization_id: dataset.rows for dataset in swept()} == {
        alice.memberships.get().organization_id: 1,
        charlie.memberships.get().organization_id: 2,
    }


def test_senders_wait_while_too_much_does(send, alice, monkeypatch, settings):
    monkeypatch.setattr(live, "MOST_SPOOLED", 600)
    send(alice, document(span(1)))

    answer = send(alice, document(span(2)))

    assert answer.status_code == 503
    assert len(spools(settings)[0].read_bytes().splitlines()) == 1


def test_prompts_of_live_calls_are_never_kept(send, swept, alice, settings):
    secret = {"key": "gen_ai.input.messages", "value": {"stringValue": "a very secret question"}}
    send(alice, document(span(1, attributes=[*span()["attributes"], secret])))

    (dataset,) = swept()

    assert (dataset.rows, UUID(str(dataset.pk))) == (1, dataset.pk)
    assert not any(b"secret" in path.read_bytes() for path in Path(settings.MEDIA_ROOT).rglob("*") if path.is_file())


def test_senders_and_the_sweep_at_once_lose_and_double_no_request(acme, alice, settings, monkeypatch):
    taken = []
    monkeypatch.setattr(live, "_hand_over", lambda principal, path, first: taken.append(path.read_text()))
    now, later = timezone.now(), timezone.now() + timedelta(minutes=2)

    def sender(name):
        for number in range(25):
            live.keep(organization_id=acme.pk, document={"sent": [name, number]}, now=now)

    with ThreadPoolExecutor(4) as senders:
        sent = [senders.submit(sender, name) for name in range(4)]
        while not all(each.done() for each in sent):
            live.import_spools(now=later)
    for each in sent:
        each.result()
    while live.import_spools(now=later):
        pass

    lines = [json.loads(line)["sent"] for text in taken for line in text.splitlines()]
    assert sorted(lines) == [[name, number] for name in range(4) for number in range(25)]


def test_small_files_of_live_calls_become_one(
    send, swept, alice, as_principal, monkeypatch, settings, django_capture_on_commit_callbacks
):
    monkeypatch.setattr(compaction, "SMALL_FILES", 3)
    with django_capture_on_commit_callbacks(execute=True):
        for number in range(1, 6):
            send(alice, document(span(number)))
            dataset = swept()[0]

    sizes = [file.rows for file in dataset.later_files.order_by("created_at", "id")]
    assert sizes == [3, 1]
    with services.open_calls(principal=as_principal(alice), dataset_id=dataset.pk) as calls:
        assert calls.row("SELECT count(*), count(DISTINCT call_id), count(DISTINCT call) FROM calls") == (5, 5, 5)
    assert len(list(Path(settings.MEDIA_ROOT).rglob("calls.parquet"))) == 3


def test_files_are_not_put_together_while_somebody_reads_them(send, swept, alice, as_principal, monkeypatch):
    for number in range(1, 4):
        send(alice, document(span(number)))
        dataset = swept()[0]
    monkeypatch.setattr(compaction, "SMALL_FILES", 2)

    with services.open_calls(principal=as_principal(alice), dataset_id=dataset.pk) as calls:
        assert compaction.compact(dataset) == 0
        assert calls.row("SELECT count(*) FROM calls") == (3,)
    assert compaction.compact(dataset) == 2


def test_files_from_before_a_column_keep_their_days_when_they_are_put_together(
    send, swept, alice, as_principal, monkeypatch
):
    for number in range(1, 4):
        send(alice, document(span(number)))
        dataset = swept()[0]
    file = storage.folder_of(dataset.later_files.first()) / storage.CALLS
    duckdb.execute(f"COPY (SELECT * EXCLUDE quarter FROM '{file}') TO '{file}.old' (FORMAT parquet)")
    Path(f"{file}.old").replace(file)
    monkeypatch.setattr(compaction, "SMALL_FILES", 2)

    assert compaction.compact(dataset) == 2

    with services.open_calls(principal=as_principal(alice), dataset_id=dataset.pk) as calls:
        assert calls.row("SELECT count(*), count(started_at), count(quarter) FROM calls") == (3, 3, 3)


def test_files_that_cannot_be_put_together_keep_no_new_calls_out(send, swept, alice, monkeypatch):
    monkeypatch.setattr(compaction, "SMALL_FILES", 2)
    for number in range(1, 4):
        send(alice, document(span(number)))
        dataset = swept()[0]

    def full(*_):
        raise duckdb.IOException("No space left on device")

    monkeypatch.setattr(compaction, "_write", full)
    send(alice, document(span(4)))
    swept()

    assert [file.rows for file in dataset.later_files.all()] == [1, 1, 1]


def test_a_file_that_a_member_added_is_not_put_together_with_live_ones(
    send, swept, alice, as_principal, monkeypatch, tmp_path
):
    send(alice, document(span(1)))
    dataset = swept()[0]
    file = tmp_path / "mine.csv"
    file.write_text("timestamp,model,input_tokens,output_tokens\n2026-01-01T00:00:00Z,gpt-4o,1,1\n")
    mine = services.create_dataset(principal=as_principal(alice), upload=services.LocalFile(file), continues=dataset.pk)
    imports.run_import(mine.pk)
    for number in (2, 3):
        send(alice, document(span(number)))
        swept()
    monkeypatch.setattr(compaction, "SMALL_FILES", 2)

    assert compaction.compact(dataset) == 2
    assert dataset.later_files.filter(pk=mine.pk).exists()


def test_a_live_dataset_is_analysed_once_an_hour(send, swept, alice):
    for number in range(1, 4):
        send(alice, document(span(number)))
        dataset = swept(tasks.have_analysed)[0]
    assert StoredAnalysis.objects.count() == 1

    StoredAnalysis.objects.update(created_at=timezone.now() - timedelta(hours=2))
    send(alice, document(span(9)))
    swept(tasks.have_analysed)

    assert StoredAnalysis.objects.filter(dataset=dataset).count() == 2
