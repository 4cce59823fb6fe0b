"""Every REST path, tried as owner, member, viewer, stranger and nobody; a path without a row here fails."""

import json
import re
from collections.abc import Iterator

import pytest
from django.db import transaction
from django.urls import URLPattern, URLResolver, get_resolver
from uuid6 import uuid7

from apps.agents.models import Report
from apps.conversations import services as conversations
from apps.execution import services as execution
from apps.optimization import imports
from apps.optimization import services as optimization
from apps.optimization.models import PriceAlert, Recommendation, StoredAnalysis

# Per path and method: what Alice (owner), Bob (member), Vera (viewer), Charlie (stranger) and nobody get. Threads, runs
# and reports are Alice's own, datasets and prices Acme's. Places in {braces} are filled from `things`.
DOORS = {
    ("GET", "threads/"): (200, 200, 200, 200, 401),
    ("POST", "threads/"): (201, 201, 403, 201, 401),
    ("GET", "threads/{thread}/"): (200, 404, 404, 404, 401),
    ("PATCH", "threads/{thread}/"): (200, 404, 403, 404, 401),
    ("DELETE", "threads/{thread}/"): (409, 404, 403, 404, 401),
    ("GET", "threads/{thread}/messages/"): (200, 404, 404, 404, 401),
    ("POST", "threads/{thread}/messages/"): (202, 404, 403, 404, 401),
    ("GET", "threads/{thread}/events/"): (200, 404, 404, 404, 401),
    ("GET", "runs/"): (200, 200, 200, 200, 401),
    ("GET", "runs/{run}/"): (200, 404, 404, 404, 401),
    ("POST", "runs/{run}/cancel/"): (200, 404, 403, 404, 401),
    ("GET", "runs/{run}/trace/"): (200, 404, 404, 404, 401),
    ("POST", "runs/{run}/answer/"): (409, 404, 403, 404, 401),  # it asks nothing
    ("GET", "reports/{report}/"): (200, 404, 404, 404, 401),
    ("GET", "reports/{report}.json"): (200, 404, 404, 404, 401),
    ("GET", "reports/{report}.md"): (200, 404, 404, 404, 401),
    ("GET", "agents/"): (200, 200, 200, 200, 401),
    ("GET", "tools/"): (200, 200, 200, 200, 401),
    ("GET", "datasets/"): (200, 200, 200, 200, 401),
    ("POST", "datasets/"): (415, 415, 403, 415, 401),  # JSON is sent, a form is wanted
    ("GET", "datasets/{dataset}/"): (200, 200, 200, 404, 401),
    ("DELETE", "datasets/{dataset}/"): (204, 403, 403, 404, 401),
    ("GET", "datasets/{dataset}/sufficiency/"): (200, 200, 200, 404, 401),
    ("GET", "datasets/{dataset}/savings/"): (404, 404, 404, 404, 401),  # nobody has had them computed
    ("POST", "datasets/{dataset}/savings/"): (202, 202, 403, 404, 401),
    ("POST", "datasets/preview/"): (415, 415, 403, 415, 401),
    ("PATCH", "datasets/{dataset}/"): (200, 403, 403, 404, 401),
    ("GET", "datasets/{dataset}/files/"): (200, 200, 200, 404, 401),
    ("POST", "datasets/{dataset}/cancel/"): (409, 403, 403, 404, 401),  # it is imported
    ("POST", "datasets/{dataset}/resume/"): (409, 403, 403, 404, 401),
    ("GET", "analyses/"): (200, 200, 200, 200, 401),
    ("POST", "analyses/"): (400, 400, 403, 400, 401),  # of which dataset is not said
    ("GET", "analyses/{analysis}/"): (202, 202, 202, 404, 401),
    ("POST", "analyses/{analysis}/again/"): (202, 202, 403, 404, 401),
    ("POST", "analyses/{analysis}/cancel/"): (200, 200, 403, 404, 401),
    ("GET", "recommendations/"): (200, 200, 200, 200, 401),
    ("GET", "recommendations/{recommendation}/"): (200, 200, 200, 404, 401),
    ("GET", "recommendations/{recommendation}/outcome/"): (200, 200, 200, 404, 401),
    ("POST", "recommendations/{recommendation}/outcome/"): (200, 200, 403, 404, 401),
    ("GET", "metrics/"): (200, 200, 200, 200, 401),
    ("GET", "datasets/{dataset}/breakdown/"): (200, 200, 200, 404, 401),
    ("GET", "datasets/{dataset}/prices/"): (200, 200, 200, 404, 401),
    ("GET", "datasets/{dataset}/reconciliation/"): (400, 400, 400, 404, 401),  # with which bill is not said
    ("GET", "models/"): (200, 200, 200, 200, 401),
    ("GET", "models/changes/"): (200, 200, 200, 200, 401),
    ("GET", "models/alerts/"): (200, 200, 200, 200, 401),
    ("POST", "models/alerts/{alert}/dismiss/"): (200, 200, 403, 404, 401),
    ("GET", "usage/"): (200, 200, 200, 200, 401),
    ("POST", "ws-ticket/"): (201, 201, 403, 201, 401),
}
PUBLIC = {"schema/", "docs/"}
BODIES = {
    "threads/{thread}/": {"title": "New"},
    "threads/{thread}/messages/": {"text": "Hello"},
    "runs/{run}/answer/": {"value": "x"},
    "recommendations/{recommendation}/outcome/": {"state": "adopted"},
}


def paths(patterns, prefix="") -> Iterator[str]:
    for pattern in patterns:
        here = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from paths(pattern.url_patterns, here)
        elif isinstance(pattern, URLPattern):
            yield here


def test_every_rest_path_has_a_row():
    known = {re.sub(r"\{(\w+)\}", "<>", path) for _, path in DOORS} | PUBLIC
    there = {
        re.sub(r"<[^>]+>", "<>", path.removeprefix("api/"))
        for path in paths(get_resolver().url_patterns)
        if path.startswith("api/") and not path.endswith(".html")
    }

    assert there == known


@pytest.fixture
def things(as_principal, alice, tmp_path, settings, monkeypatch):
    """Alice's thread, run and report."""
    monkeypatch.setattr("apps.execution.doorbell._ring", lambda run: None)
    settings.NETRA_HOME, settings.MEDIA_ROOT = tmp_path, tmp_path / "files"
    principal = as_principal(alice)
    thread = conversations.create_thread(principal=principal)
    run = execution.start_run(principal=principal, thread_id=thread.pk, text="Where can I save?").run
    body = {"title": "T", "summary": "S", "dataset_id": None, "dataset_name": ""}
    lists = {name: [] for name in ("findings", "tables", "charts", "missing")}
    report = Report.objects.create(
        organization_id=principal.organization_id, user_id=principal.user_id, run=run, body=body | lists
    )
    return {"thread": thread.pk, "run": run, "report": report.pk}


@pytest.fixture
def dataset(things, as_principal, alice, tmp_path):
    """Acme's dataset, made by Alice."""
    file = tmp_path / "calls.csv"
    file.write_text("timestamp,model,prompt_tokens,completion_tokens\n2026-01-01T00:00:00Z,gpt-4o,10,10\n")
    made = optimization.create_dataset(principal=as_principal(alice), upload=optimization.LocalFile(file))
    imports.run_import(made.pk)
    return made.pk


@pytest.fixture
def alert(dataset, acme):
    """What Acme should know of a price that its dataset's calls pay."""
    return PriceAlert.objects.create(organization=acme, dataset_id=dataset, model="gpt-4o", kind="input", new="3").pk


@pytest.fixture
def analysis(dataset, acme, alice):
    """What shall be computed for Acme."""
    return StoredAnalysis.objects.create(
        organization=acme, dataset_id=dataset, created_by=alice.pk, kind="savings", inputs="x"
    ).pk


@pytest.fixture
def recommendation(dataset, acme):
    """What Acme could do."""
    return Recommendation.objects.create(
        organization=acme,
        dataset_id=dataset,
        strategy="batch_eligible",
        saving_usd=1,
        sufficiency=90,
        confidence=0.9,
        detail={"effort_days": 1, "up_to": False},
    ).pk


THINGS = ("thread", "run", "report", "dataset", "alert", "analysis", "recommendation")
PEOPLE = ["alice", "bob", "vera", "charlie", None]


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_a_door_opens_only_for_whom_it_should(request, things, client_for, method, path):
    for thing in ("dataset", "alert", "analysis", "recommendation"):
        if f"{{{thing}}}" in path:
            things[thing] = request.getfixturevalue(thing)

    for person, status in zip(PEOPLE, DOORS[method, path], strict=True):
        client = client_for(request.getfixturevalue(person) if person else None)
        with transaction.atomic():
            answer = client.generic(method, "/api/" + path.format(**things), **_body(path))
            transaction.set_rollback(True)  # everybody finds everything as it was

        assert answer.status_code == status, (person, answer.content)
        if answer.status_code >= 400:
            assert answer["Content-Type"] == "application/problem+json"
            assert answer.json()["code"]
            assert answer.json()["support_id"]


@pytest.mark.parametrize("path", sorted({path for _, path in DOORS if "{" in path}))
def test_a_thing_that_does_not_exist_looks_like_one_that_is_not_ours(alice, client_for, path):
    method = next(m for m, p in DOORS if p == path)
    nothing = dict.fromkeys(THINGS, uuid7())

    answer = client_for(alice).generic(method, "/api/" + path.format(**nothing), **_body(path))

    assert answer.status_code == 404
    assert answer.json()["code"].endswith("not_found")


def _body(path):
    return {"data": json.dumps(BODIES.get(path, {})), "content_type": "application/json"}
