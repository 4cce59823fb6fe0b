"""A release that fails in the middle of a run: the former version brings the run to its end."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.conversations import journal
from apps.conversations.models import Message, Run, Step
from apps.execution import admission, claims, registry, services
from apps.execution.orchestrator import WorkflowOrchestrator
from apps.execution.registry import Agent, Answer, Completed, Failed, StepSpec, Workflow
from apps.execution.releases import Release, releases, validate_releases
from apps.operations import flags
from apps.operations.models import FeatureFlag, FlagOutcome
from tests.execution.conftest import Note

pytestmark = pytest.mark.django_db(transaction=True)

FORMER = "the new version failed; the former one takes over"


@pytest.fixture
def broken(script, rings, monkeypatch):
    """New versions of the scripted agent and workflow, all of which fail."""

    async def fail(scope):
        raise RuntimeError("the new version does not work")

    monkeypatch.setattr(releases, "_items", {})
    registry.agents.register(Agent(name="first-2", description="", artifact=Note, run=fail))
    registry.agents.register(Agent(name="checking", description="", artifact=Note, run=fail))
    steps = (
        StepSpec(name="one", agent="first"),
        StepSpec(name="check", agent="checking", depends_on=("one",)),
        StepSpec(name="three", agent="second", depends_on=("check",)),
    )
    registry.workflows.register(Workflow(name="scripted-2", lead="first", steps=steps))
    releases.register(Release(flag="agent-2", kind="agent", old="first", new="first-2"))
    releases.register(Release(flag="flow-2", kind="workflow", old="scripted", new="scripted-2"))
    registry.validate()
    validate_releases()
    return script


@pytest.fixture
def ask(broken, as_principal, alice, thread, work_on):
    """A run of Alice with these flags at full, brought to its end."""

    def ask(**on):
        for flag, more in on.items():
            FeatureFlag.objects.create(name=flag.replace("_", "-"), stage=flags.Stage.FULL, **more)
        run = services.start_run(principal=as_principal(alice), thread_id=thread.pk, text="Hello").run
        work_on(run)
        return Run.objects.get(pk=run)

    return ask


def events(run):
    told = journal.read(thread=run.thread_id, after=0, limit=500)
    return [event for event in told if event["run"] == str(run.pk)]


def recoveries(run):
    return [event["data"]["reason"] for event in events(run) if event["type"] == "run_recovering"]


def outcomes():
    return dict(FlagOutcome.objects.values_list("flag", "succeeded"))


def test_a_new_agent_that_fails_gives_its_step_to_the_former_one(ask):
    run = ask(agent_2={})

    assert run.state == Run.State.COMPLETED
    assert recoveries(run) == [FORMER]
    told = [(event["type"], event.get("step")) for event in events(run)]
    assert told.count(("step_started", "one")) == told.count(("step_completed", "one")) == 1
    assert Step.objects.get(run=run, name="one").agent == "first"
    assert outcomes() == {"agent-2": False}


def test_a_new_workflow_that_fails_gives_the_rest_of_the_run_to_the_former_one(ask):
    run = ask(flow_2={})

    assert (run.state, run.workflow) == (Run.State.COMPLETED, "scripted")
    assert recoveries(run) == [FORMER]
    states = dict(Step.objects.filter(run=run).values_list("name", "state"))
    assert states == {"one": "completed", "check": "failed", "three": "skipped", "two": "completed"}
    assert Message.objects.get(run=run, role="assistant").text == "The answer."
    assert outcomes() == {"flow-2": False}


def test_no_step_is_locked_more_strongly_than_its_holder_locks_it(broken, as_principal, alice, thread, worker):
    FeatureFlag.objects.create(name="flow-2", stage=flags.Stage.FULL)
    run = services.start_run(principal=as_principal(alice), thread_id=thread.pk, text="Hello").run
    admission.admit_one()
    WorkflowOrchestrator(claims.claim_step(run, worker=worker)).settle(Completed(artifact=Note(), summary="noted"))
    failing = claims.claim_step(run, worker=worker)

    with CaptureQueriesContext(connection) as asked:
        WorkflowOrchestrator(failing).settle(Failed(code="new.broken", detail="It does not work.", retryable=False))

    assert Step.objects.get(run=run, name="two").state == Step.State.READY
    assert [query["sql"] for query in asked if "FOR UPDATE" in query["sql"]] == []


def test_both_may_give_way_one_after_the_other(ask):
    run = ask(agent_2={}, flow_2={})

    assert run.state == Run.State.COMPLETED
    assert recoveries(run) == [FORMER, FORMER]
    assert outcomes() == {"agent-2": False, "flow-2": False}


def test_without_fallback_the_run_fails_and_counts_against_the_release(ask):
    run = ask(agent_2={"fallback_enabled": False})

    assert run.state == Run.State.FAILED
    assert recoveries(run) == []
    assert outcomes() == {"agent-2": False}


def test_where_the_former_version_fails_too_the_run_fails_once(ask, broken):
    async def fail(scope):
        raise RuntimeError("neither does the former one")

    broken.first = fail

    run = ask(agent_2={})

    assert run.state == Run.State.FAILED
    assert [event["type"] for event in events(run)].count("agent_error") == 1


def test_a_new_version_that_works_is_kept_and_counts_for_the_release(ask, monkeypatch):
    async def work(scope):
        return Completed(artifact=Note(), summary="done", answer=Answer(text="Better."))

    for name in ("first-2", "checking"):
        monkeypatch.setitem(registry.agents._items, name, Agent(name=name, description="", artifact=Note, run=work))

    run = ask(agent_2={}, flow_2={})

    assert (run.state, run.workflow) == (Run.State.COMPLETED, "scripted-2")
    assert outcomes() == {"agent-2": True, "flow-2": True}


def test_a_release_that_keeps_failing_is_stopped_and_the_next_run_has_the_former_version(ask):
    ask(agent_2={"minimum_runs": 1})

    after = ask()

    assert FeatureFlag.objects.get().stage == flags.Stage.OFF
    assert after.state == Run.State.COMPLETED
    assert recoveries(after) == []
