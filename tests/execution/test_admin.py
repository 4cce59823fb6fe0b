"""Operators see the engine at work: processes, steps, tool calls, and for whom."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.utils import timezone
from uuid6 import uuid7

from apps.accounts.models import User
from apps.conversations.models import Question, Run, ToolCall
from apps.execution import services
from apps.execution.context import ScopeCounts
from apps.execution.engine import ExecutionEngine
from apps.execution.heartbeat import Heartbeat
from apps.execution.models import WorkerProcess
from apps.execution.registry import Completed
from tests.execution.conftest import Note, beat, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
PROCESSES = "/admin/execution/workerprocess/"
RUNS = "/admin/conversations/run/"


@pytest.fixture
def desk(client_for, plans):
    return client_for(User.objects.create_superuser("operator@example.com", "correct horse battery", name="Olga"))


def page(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


# --- Processes -------------------------------------------------------------------------------------------------------


def test_a_process_says_with_each_beat_what_it_does(plans):
    counts = ScopeCounts(created=3, active=1, cleaned=2)
    heartbeat = Heartbeat(uuid7(), kind=WorkerProcess.Kind.AGENTS, status=lambda: {"scopes": counts.as_json()})
    heartbeat.start()
    try:
        assert WorkerProcess.objects.get().status == {"scopes": counts.as_json()}

        counts.cleaned += 1

        wait_until(lambda: WorkerProcess.objects.get().status["scopes"]["cleaned"] == 3)
    finally:
        heartbeat.stop()


def test_a_process_that_says_nothing_of_itself_beats_all_the_same(plans):
    heartbeat = Heartbeat(uuid7(), kind=WorkerProcess.Kind.TOOLS)
    heartbeat.start()
    try:
        assert WorkerProcess.objects.get().status == {}
    finally:
        heartbeat.stop()


def test_a_process_of_the_release_before_can_still_say_that_it_lives(plans):
    with connection.cursor() as cursor:
        cursor.execute(
            "insert into execution_workerprocess (id, kind, host, pid, started_at, beat_at) "
            "values (%s, 'agents', 'old', 1, now(), now())",
            [uuid7()],
        )

    assert WorkerProcess.objects.get().status == {}


def test_what_the_engine_says_of_itself_can_be_stored_and_shown(desk, worker):
    WorkerProcess.objects.filter(pk=beat(worker)).update(status=ExecutionEngine.get_status())

    shown = page(desk, PROCESSES)

    for column in ("Steps running", "Scopes created", "Active", "Cleaned", "Refused", "Mean creation"):
        assert column in shown


def test_operators_see_each_process_and_what_became_of_its_scopes(desk, worker):
    scopes = ScopeCounts(created=400, active=7, cleaned=393, refused=5, creation_seconds=0.1)
    beat(worker)
    WorkerProcess.objects.update(host="basement", pid=4711, status={"running": 7, "scopes": scopes.as_json()})

    for path in (PROCESSES, f"{PROCESSES}{worker}/change/"):
        shown = page(desk, path)
        assert "ExecutionEngine" in shown
        for value in ("basement", "4711", "beating", ">7<", ">400<", ">393<", ">5<", ">0.250 ms<"):
            assert value in shown.replace("\n", "").replace("  ", ""), value


def test_a_silent_process_is_said_to_be(desk, worker):
    beat(worker)
    WorkerProcess.objects.update(beat_at=timezone.now() - timedelta(hours=2, seconds=1))

    for path in (PROCESSES, f"{PROCESSES}{worker}/change/"):
        shown = page(desk, path)
        assert "silent" in shown
        assert "2 h 0 min ago" in shown


def test_a_process_that_has_said_nothing_yet_is_shown_without_figures(desk, worker):
    beat(worker)

    assert "beating" in page(desk, PROCESSES)
    assert "beating" in page(desk, f"{PROCESSES}{worker}/change/")


# --- A run -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(script, rings, thread, as_principal, alice, work_on):
    """A run whose first step has called a tool, and whose second one has asked whether it may."""

    async def first(scope):
        await scope.tools.execute_tool("shout", {"text": "hello"}, call="greeting")
        return Completed(artifact=Note(), summary="noted")

    async def second(scope):
        await scope.tools.execute_tool("guarded", {"text": "goodbye"}, call="farewell")

    script.first, script.second = first, second
    run = services.start_run(principal=as_principal(alice), thread_id=thread.pk, text="Hello").run
    work_on(run)
    return Run.objects.get(pk=run)


def test_the_page_of_a_run_names_who_did_what(desk, run):
    shown = page(desk, f"{RUNS}{run.pk}/change/")

    for name in (
        "AgentExecutionTracker",
        "WorkflowOrchestrator",
        "RequestScopedToolDispatcher",
        "ToolExecutorFactory",
        "UserExecutionContext",
    ):
        assert name in shown
    for fact in (run.pk.hex, "Acme", "alice@example.com", "free", "shout", "greeting", "HELLO", "second"):
        assert fact in shown, fact


def test_what_a_tool_worker_was_handed_is_not_shown(desk, run):
    ToolCall.objects.update(payload={"api_key": "sesame"}, arguments={"api_key": "***"})

    assert "sesame" not in page(desk, f"{RUNS}{run.pk}/change/")


def test_questions_are_shown_with_who_answered_what_and_secrets_masked(desk, run, alice):
    assert Question.objects.get().call == "farewell"
    asked = {"run": run, "step": "two", "expires_at": timezone.now()}
    said = {"answered_at": timezone.now(), "answered_by": alice.pk}
    Question.objects.create(call="wipe", reason="unsafe", value="deny", **asked, **said)
    Question.objects.create(call="upload", reason="data", value={"rows": 12, "password": "sesame"}, **asked, **said)
    Question.objects.create(
        call="of somebody gone", reason="data", value=["x"], **asked, **said | {"answered_by": uuid7()}
    )

    shown = page(desk, f"{RUNS}{run.pk}/change/")

    for words in (
        "wipe",
        "deny",
        "upload",
        "{&quot;rows&quot;: 12, &quot;password&quot;: &quot;***&quot;}",
        "farewell",
    ):
        assert words in shown, words
    assert "sesame" not in shown


# --- Who may look ----------------------------------------------------------------------------------------------------


@pytest.fixture
def paths(run, worker):
    beat(worker)
    return [PROCESSES, f"{PROCESSES}{worker}/change/", RUNS, f"{RUNS}{run.pk}/change/"]


@pytest.mark.parametrize("who", ["alice", "charlie", None])
def test_nobody_but_operators_sees_processes_or_runs_here(request, client_for, paths, who):
    client = client_for(who and request.getfixturevalue(who))

    for path in paths:
        answer = client.get(path)
        assert (answer.status_code, answer.headers["Location"].split("?")[0]) == (302, "/admin/login/"), path


def test_staff_see_only_what_they_were_permitted_to(client_for, paths, charlie):
    charlie.is_staff = True
    charlie.save()
    charlie.user_permissions.add(Permission.objects.get(codename="view_workerprocess"))

    client = client_for(charlie)

    assert [client.get(path).status_code for path in paths] == [200, 200, 403, 403]


def test_what_is_shown_cannot_be_changed(desk, paths, worker):
    for path in paths:
        base = path.removesuffix("change/")
        assert desk.get(f"{base}add/" if path == base else f"{base}delete/").status_code == 403
        if path != base:
            assert desk.post(path, {"pid": 1, "state": "failed"}, format="multipart").status_code == 403
