"""Files of calls, and what becomes of them."""

import csv
import io
import json
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from apps.llm.catalogue import Catalogue
from apps.optimization import analyses, imports, services, tasks
from apps.optimization.calls import reading
from apps.optimization.conversion import Order, convert
from apps.optimization.models import StoredAnalysis

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
MEMORY = 256  # MiB


@pytest.fixture(autouse=True)
def _files_of_this_test(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "files"
    settings.ANALYSIS_MEMORY_MIB = MEMORY


@pytest.fixture
def write(tmp_path):
    """Write a file from text, bytes, or rows (dicts: CSV for .csv, JSON lines for .jsonl, Parquet for .parquet)."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, list):
            _write_rows(path, content)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def _write_rows(path: Path, rows):
    if path.suffix == ".csv":
        path.write_text(as_csv(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        source = path.with_suffix(".source.jsonl")
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        duckdb.execute(f"COPY (FROM read_json('{source}')) TO '{path}' (FORMAT parquet)")


def as_csv(rows, delimiter=","):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(k for row in rows for k in row)), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.fixture
def converted(tmp_path):
    """Convert a file; answers what came of it and leaves `calls.parquet` for `opened`."""

    def converted(path, catalogue=None, progress=lambda percent: None, **more):
        target = tmp_path / "converted" / "calls.parquet"
        target.parent.mkdir(exist_ok=True)
        order = Order(
            source=path, target=target, catalogue=catalogue or Catalogue(), now=NOW, memory_mib=MEMORY, **more
        )
        return convert(order, progress)

    return converted


@pytest.fixture
def opened(tmp_path):
    @contextmanager
    def opened(catalogue=None):
        target = tmp_path / "converted" / "calls.parquet"
        with reading(files=[target], catalogue=catalogue or Catalogue(), memory_mib=MEMORY) as calls:
            yield calls

    return opened


@pytest.fixture
def calls_of(converted, opened):
    """Convert a file and open its calls."""

    @contextmanager
    def calls_of(path, catalogue=None, **more):
        converted(path, catalogue, **more)
        with opened(catalogue) as calls:
            yield calls

    return calls_of


def call(**more):
    """One call as a row of a file."""
    return {
        "timestamp": "2026-10-01T12:00:00Z",
        "model": "gpt-4o",
        "input_tokens": 1000,
        "output_tokens": 100,
    } | more


def spend_log(**more):
    """One request of a LiteLLM proxy, of whose 3,000 tokens 2,000 were cached."""
    usage = {"prompt_tokens": 3000, "prompt_tokens_details": {"cached_tokens": 2000}}
    return {
        "request_id": "r1",
        "call_type": "acompletion",
        "spend": 0.006,
        "prompt_tokens": 3000,
        "completion_tokens": 100,
        "startTime": "2026-10-01T12:00:00.000Z",
        "endTime": "2026-10-01T12:00:02.000Z",
        "completionStartTime": "2026-10-01T12:00:01.000Z",
        "model": "gpt-4o",
        "custom_llm_provider": "openai",
        "metadata": json.dumps({"usage_object": usage, "user_api_key_alias": "search-key", "status": "success"}),
        "cache_hit": "False",
        "request_tags": '["search"]',
        "end_user": "",
        "user": "u1",
        "session_id": "s1",
        "messages": "{}",
        "proxy_server_request": json.dumps({"temperature": 0.2}),
    } | more


def uploaded(content, name="calls.csv"):
    content = as_csv(content) if isinstance(content, list) else content
    return SimpleUploadedFile(name, content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def import_dataset(as_principal, django_capture_on_commit_callbacks, monkeypatch):
    """Upload as a user and run the import at once, as a worker would."""
    monkeypatch.setattr(tasks, "ring_import", lambda dataset_id: None)

    def import_dataset(user, content, name="calls.csv", **more):
        dataset = services.create_dataset(principal=as_principal(user), upload=uploaded(content, name), **more)
        imports.run_import(dataset.pk)
        dataset.refresh_from_db()
        return dataset

    return import_dataset


def run_analyses() -> None:
    """Compute what is queued, as workers would."""
    for analysis in StoredAnalysis.objects.filter(state=StoredAnalysis.State.QUEUED):
        analyses.run_analysis(analysis.pk)
