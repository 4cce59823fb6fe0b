"""Traces of finished runs reach a collector once each, whether it is there or not when they end."""

import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.core.checks import run_checks
from django.utils import timezone

from apps.conversations.models import Run
from apps.execution import admission, claims, export, services
from apps.execution.models import TraceExport
from apps.execution.tracker import AgentExecutionTracker
from apps.llm import ledger
from apps.operations import telemetry
from tests.execution.test_tracker import asker, lose
from tests.houses import free_port

pytestmark = pytest.mark.django_db(transaction=True)

LATER = timedelta(minutes=1)  # until whoever was still about to end has ended


@pytest.fixture
def otlp():
    """The messages that collectors speak; they come with the extra."""
    return pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


@pytest.fixture
def collect(otlp):
    """Run a collector; answers the messages that it took. `refuses(span)` makes it refuse a message."""

    @contextmanager
    def collect(port, refuses=lambda span: False):
        taken = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                message = otlp.ExportTraceServiceRequest()
                message.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                refused = any(refuses(span) for span in spans_in([message]))
                if not refused:
                    taken.append((self.path, dict(self.headers), message))
                self.send_response(400 if refused else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                """Silence."""

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield taken
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return collect


@pytest.fixture
def port(settings):
    """Where the configured collector listens, if it does."""
    port = free_port()
    settings.OTLP_ENDPOINT, settings.OTLP_HEADERS = f"http://127.0.0.1:{port}", "x-team=Acme%20Ltd"
    telemetry._exporter.cache_clear()
    yield port
    if telemetry._exporter.cache_info().currsize:
        telemetry._exporter(settings.OTLP_ENDPOINT)[0].shutdown()
    telemetry._exporter.cache_clear()


@pytest.fixture
def ended(script, rings, as_principal, alice, thread, work_on):
    """End a run, after the house began to export."""

    def ended():
        run = services.start_run(principal=as_principal(alice), thread_id=thread.pk, text="Hello").run
        work_on(run)
        return run

    return ended


def spans_in(messages):
    for message in messages:
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                yield from scope.spans


def taken_spans(taken):
    return list(spans_in(message for _, _, message in taken))


def runs_in(taken):
    return [span.trace_id.hex() for span in taken_spans(taken) if not span.parent_span_id]


def export_later():
    return export.export_traces(now=timezone.now() + LATER)


def began_exporting():
    assert export.export_traces() == 0


def test_a_finished_run_arrives_with_all_its_spans(collect, port, ended):
    began_exporting()
    run = ended()
    with collect(port) as taken:
        assert export_later() == 1

    ((path, headers, message),) = taken
    assert path == "/v1/traces"
    assert headers["x-team"] == "Acme Ltd"
    (resource,) = message.resource_spans
    assert [(a.key, a.value.string_value) for a in resource.resource.attributes] == [("service.name", "netra")]
    derived = AgentExecutionTracker.trace(Run.objects.get(pk=run))
    got = taken_spans(taken)
    assert [(s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex() or None, s.name) for s in got] == [
        (run.hex, span.id, span.parent, span.name) for span in derived.spans
    ]
    for span, sent in zip(derived.spans, got, strict=True):
        assert abs(sent.start_time_unix_nano / 1e9 - span.start.timestamp()) < 1e-5
        assert abs(sent.end_time_unix_nano / 1e9 - span.end.timestamp()) < 1e-5


def test_nothing_is_sent_twice_and_what_ended_before_is_not_sent(collect, port, ended):
    ended()
    with collect(port) as taken:
        began_exporting()
        first = ended()
        assert export_later() == 1
        second = ended()
        telemetry._exporter.cache_clear()  # as in a process that has just started
        assert export_later() == 1
        assert export_later() == 0

    assert runs_in(taken) == [first.hex, second.hex]


def test_runs_that_end_while_the_collector_is_away_are_sent_when_it_is_back(collect, port, ended, monkeypatch):
    monkeypatch.setattr(telemetry, "PATIENCE", 0.3)
    began_exporting()
    runs = [ended() for _ in range(3)]
    assert export_later() == 0

    with collect(port) as taken:
        assert export_later() == 3

    assert runs_in(taken) == [run.hex for run in runs]


def test_a_trace_that_is_refused_does_not_keep_the_others_back(collect, port, ended):
    began_exporting()
    bad, good = ended(), ended()
    with collect(port, refuses=lambda span: span.trace_id == bad.bytes) as taken:
        assert export_later() == 2
        assert export_later() == 0

    assert runs_in(taken) == [good.hex]


def test_a_trace_that_cannot_be_made_does_not_keep_the_others_back(collect, port, ended, monkeypatch):
    began_exporting()
    bad, good = ended(), ended()
    derive = AgentExecutionTracker.trace

    def broken(run):
        if run.pk == bad:
            raise RuntimeError("a bug")
        return derive(run)

    monkeypatch.setattr(AgentExecutionTracker, "trace", broken)
    with collect(port) as taken:
        export_later()

    assert runs_in(taken) == [good.hex]


def test_a_run_whose_neighbours_may_still_be_ending_waits(collect, port, ended):
    began_exporting()
    ended()
    with collect(port) as taken:
        assert export.export_traces() == 0

    assert taken == []


def test_a_run_that_is_not_over_is_not_sent(collect, port, script, rings, as_principal, alice, thread):
    began_exporting()
    services.start_run(principal=as_principal(alice), thread_id=thread.pk, text="Hello")
    with collect(port) as taken:
        assert export_later() == 0

    assert taken == []


def test_many_runs_that_ended_in_the_same_moment_are_all_sent(collect, port, ended, monkeypatch):
    monkeypatch.setattr(export, "BATCH", 2)
    began_exporting()
    runs = [ended() for _ in range(5)]
    Run.objects.filter(pk__in=runs).update(finished_at=timezone.now())
    with collect(port) as taken:
        assert export_later() == 5

    assert sorted(runs_in(taken)) == sorted(run.hex for run in runs)


def test_what_a_killed_attempt_left_open_ends_with_the_last_that_was_heard(
    collect, port, script, rings, as_principal, alice, thread, work_on, worker
):
    began_exporting()
    run = services.start_run(principal=as_principal(alice), thread_id=thread.pk, text="Hello").run
    admission.admit_one()
    ledger.ask(asker(claims.claim_step(run, worker=worker).context), key="k", provider="host", model="gpt-4o-mini")
    lose(run)
    work_on(run)
    with collect(port) as taken:
        export_later()

    call = next(span for span in taken_spans(taken) if span.name == "chat gpt-4o-mini")
    attributes = {a.key: a.value for a in call.attributes}
    assert call.end_time_unix_nano == call.start_time_unix_nano
    assert attributes["netra.bounds_known"].bool_value is False
    assert attributes["error.type"].string_value == "cut"
    assert call.status.code == call.status.STATUS_CODE_ERROR
    assert call.kind == call.SPAN_KIND_CLIENT
    assert "gen_ai.usage.input_tokens" not in attributes


def test_without_the_sdk_the_house_says_what_to_install_and_forgets_no_run(port, ended, monkeypatch):
    began_exporting()
    ended()
    before = TraceExport.objects.get().run
    monkeypatch.setattr(telemetry, "_is_installed", lambda: False)

    assert export_later() == 0

    assert TraceExport.objects.get().run == before
    assert "pip install -r requirements-otel.txt" in next(e for e in run_checks() if e.id == "netra.E004").hint


def test_without_a_collector_nothing_is_missed(settings, monkeypatch):
    settings.OTLP_ENDPOINT = None
    monkeypatch.setattr(telemetry, "_is_installed", lambda: False)

    assert not telemetry.is_on()
    assert not [error for error in run_checks() if error.id == "netra.E004"]


def test_times_keep_their_microseconds():
    assert telemetry._nanoseconds(datetime(2026, 1, 1, 0, 0, 0, 123457, tzinfo=UTC)) == 1767225600123457000
