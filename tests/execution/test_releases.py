"""A new version of an agent or a workflow: who gets it, what takes over when it fails, and how it is judged."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from apps.conversations.models import Run, Step
from apps.execution import registry, services
from apps.execution import releases as module
from apps.execution.registry import Agent, NotRegistered, StepSpec, Workflow
from apps.execution.releases import BrokenRelease, Release, changes_to, fallback, old_of, outcomes, releases
from apps.operations import flags
from apps.operations.models import FeatureFlag, FlagOutcome
from tests.execution.conftest import Note

STATE = Step.State
MORE = Release(flag="more", kind="workflow", old="answer", new="answer-2")
FIRST = Release(flag="first-2", kind="agent", old="first", new="first-2")


class Sum(BaseModel):
    total: int = 0


def agent(name, artifact=Note):
    async def run(scope):
        raise AssertionError("no agent runs here")

    return Agent(name=name, description="", artifact=artifact, run=run)


def workflow(name, *steps):
    """Steps are `name agent after after ...`."""
    words = map(str.split, steps)
    specs = [StepSpec(name=name, agent=agent, depends_on=tuple(after), deadline=7) for name, agent, *after in words]
    return Workflow(name=name, lead="first", steps=tuple(specs))


ANSWER = workflow("answer", "look first", "sum adder look", "tell second look sum")
ANSWER_2 = workflow("answer-2", "look first", "think deep look", "check deep look", "tell second think check")


@pytest.fixture(autouse=True)
def declared(monkeypatch):
    """Two workflows and their agents, instead of those of the house."""
    for kind in ("agents", "workflows"):
        monkeypatch.setattr(getattr(registry, kind), "_items", {})
    monkeypatch.setattr(releases, "_items", {})
    for name in ("first", "first-2", "second", "deep"):
        registry.agents.register(agent(name))
    registry.agents.register(agent("adder", Sum))
    registry.workflows.register(ANSWER)
    registry.workflows.register(ANSWER_2)


@pytest.fixture
def make_flag(db):
    def make(name, stage=flags.Stage.FULL, **more):
        return FeatureFlag.objects.create(name=name, stage=stage, **more)

    return make


def steps_of(workflow, **states):
    """The steps of a run of `workflow`; those that are not named are blocked."""
    return [
        Step(
            name=spec.name,
            agent=spec.agent,
            position=position,
            depends_on=list(spec.depends_on),
            state=states.get(spec.name, STATE.BLOCKED),
        )
        for position, spec in enumerate(workflow.steps)
    ]


# --- Which version answers -------------------------------------------------------------------------------------------


def test_whoever_is_in_gets_the_new_version_and_everybody_else_the_former(make_flag):
    releases.register(MORE)
    releases.register(FIRST)
    make_flag("more")
    make_flag("first-2", flags.Stage.INTERNAL)

    assert module.workflow_for("answer", user_id=uuid4(), is_staff=False) == "answer-2"
    assert module.agent_for("first", user_id=uuid4(), is_staff=False) == "first"
    assert module.agent_for("first", user_id=uuid4(), is_staff=True) == "first-2"


@pytest.mark.django_db
def test_a_release_whose_flag_nobody_made_is_off():
    releases.register(MORE)

    assert module.workflow_for("answer", user_id=uuid4(), is_staff=True) == "answer"


def test_a_name_without_a_release_costs_no_query(django_assert_num_queries, make_flag):
    releases.register(MORE)
    make_flag("more")

    with django_assert_num_queries(0):
        assert module.agent_for("answer", user_id=uuid4(), is_staff=True) == "answer"
        assert module.workflow_for("tell", user_id=uuid4(), is_staff=True) == "tell"


def test_a_new_version_knows_its_release_and_nobody_else_does():
    releases.register(MORE)

    assert old_of("workflow", "answer-2") == MORE
    assert old_of("workflow", "answer") is None
    assert old_of("agent", "answer-2") is None


# --- When the new version fails --------------------------------------------------------------------------------------


def words(planned):
    return {each.spec.name: each.spec.agent for each in planned}


def test_a_workflow_gives_way_by_swapping_adding_and_skipping_steps():
    steps = steps_of(ANSWER_2, look=STATE.COMPLETED, think=STATE.RUNNING, check=STATE.READY)

    changes = changes_to(ANSWER, steps, failed="think")

    assert words(changes.added) == {"sum": "adder"}
    assert words(changes.swapped) == {"tell": "second"}
    assert changes.swapped[0].spec.depends_on == ("look", "sum")
    assert changes.skipped == ("check",)
    assert not changes.repeats("think")


def test_a_failed_step_that_the_former_version_has_is_done_over_by_it():
    steps = steps_of(ANSWER_2, look=STATE.COMPLETED, think=STATE.COMPLETED, check=STATE.COMPLETED, tell=STATE.RUNNING)

    changes = changes_to(ANSWER, steps, failed="tell")

    assert words(changes.added) == {"sum": "adder"}
    assert words(changes.swapped) == {"tell": "second"}
    assert changes.repeats("tell")
    assert changes.skipped == ()


def test_a_step_at_which_a_worker_is_goes_on_whichever_version_it_belongs_to():
    steps = steps_of(ANSWER_2, look=STATE.RUNNING, think=STATE.RUNNING, check=STATE.RUNNING)

    changes = changes_to(ANSWER, steps, failed="think")

    assert words(changes.swapped) == {"tell": "second"}
    assert words(changes.added) == {"sum": "adder"}
    assert changes.skipped == ()


def test_a_question_that_the_former_version_would_not_ask_is_dropped_and_another_one_stays():
    steps = steps_of(ANSWER_2, look=STATE.WAITING, think=STATE.RUNNING, check=STATE.WAITING)

    changes = changes_to(ANSWER, steps, failed="think")

    assert changes.skipped == ("check",)
    assert "look" not in words(changes.swapped)


NAMES = [f"s{number}" for number in range(7)]


@st.composite
def workflows(draw, name):
    """A graph over some of the names, each step after earlier ones only."""
    order = draw(st.permutations(NAMES))[: draw(st.integers(1, len(NAMES)))]
    after = {
        step: draw(st.sets(st.sampled_from(order[:place]))) if place else set() for place, step in enumerate(order)
    }
    return workflow(name, *(f"{step} {name} {' '.join(sorted(after[step]))}" for step in order))


@st.composite
def runs_in_the_middle(draw):
    """A run of a new workflow in which some steps have settled, some run, and one of those fails."""
    new = draw(workflows("new"))
    steps = steps_of(new)
    states = {}
    for step in steps:
        if all(states[name] in module.SETTLED for name in step.depends_on):
            step.state = draw(st.sampled_from([*STATE]))
            step.state = STATE.READY if step.state == STATE.BLOCKED else step.state
        states[step.name] = step.state
    running = [step.name for step in steps if step.state == STATE.RUNNING]
    if not running:
        unsettled = [step for step in steps if step.state == STATE.READY]
        if not unsettled:
            steps[-1].state = STATE.RUNNING
        else:
            unsettled[0].state = STATE.RUNNING
        running = [step.name for step in steps if step.state == STATE.RUNNING]
    return steps, draw(st.sampled_from(running))


@given(workflows("former"), runs_in_the_middle())
def test_however_far_a_run_is_the_former_version_brings_it_to_its_end(former, run):
    steps, failed = run
    before = {step.name: step.state for step in steps}

    changes = changes_to(former, steps, failed=failed)

    now = dict(before) | ({} if changes.repeats(failed) else {failed: STATE.FAILED})
    now |= dict.fromkeys(changes.skipped, STATE.SKIPPED)
    after = {step.name: set(step.depends_on) for step in steps}
    for planned in (*changes.swapped, *changes.added):
        now[planned.spec.name] = STATE.BLOCKED
        after[planned.spec.name] = set(planned.spec.depends_on)

    # Nothing that has settled or that a worker is at is touched.
    touched = {name for name in before if now[name] != before[name]} - {failed}
    assert not {name for name in touched if before[name] in module.SETTLED | {STATE.RUNNING}}
    # What is planned is as the former version has it.
    for planned in (*changes.swapped, *changes.added):
        assert planned.spec == former.steps[planned.position]
    # Whatever the former version has is there, and step by step all of it comes to an end.
    assert {spec.name for spec in former.steps} <= set(now)
    while open_steps := {name for name, state in now.items() if state not in module.SETTLED}:
        done = {name for name in open_steps if not after[name] & open_steps or now[name] != STATE.BLOCKED}
        assert done, f"{open_steps} wait for each other"
        now |= dict.fromkeys(done, STATE.COMPLETED)


def test_a_new_agent_gives_way_before_a_new_workflow_does(make_flag):
    releases.register(MORE)
    releases.register(FIRST)
    make_flag("more")
    make_flag("first-2")
    steps = steps_of(ANSWER_2, look=STATE.RUNNING)
    steps[0].agent = "first-2"

    taken = fallback(workflow="answer-2", failed="look", steps=steps)

    assert taken.release == FIRST
    assert words(taken.changes.swapped) == {"look": "first"}
    assert taken.changes.swapped[0].spec.deadline == 7
    assert (taken.changes.added, taken.changes.skipped) == ((), ())


def test_a_new_workflow_gives_way_where_the_agent_that_failed_is_no_new_one(make_flag):
    releases.register(MORE)
    make_flag("more")
    steps = steps_of(ANSWER_2, look=STATE.COMPLETED, think=STATE.RUNNING)

    taken = fallback(workflow="answer-2", failed="think", steps=steps)

    assert taken.release == MORE
    assert words(taken.changes.added) == {"sum": "adder"}


@pytest.mark.parametrize("made", [{"fallback_enabled": False}, None])
def test_without_leave_to_fall_back_nothing_takes_over(make_flag, made):
    releases.register(MORE)
    if made:
        make_flag("more", **made)

    assert fallback(workflow="answer-2", failed="look", steps=steps_of(ANSWER_2, look=STATE.RUNNING)) is None


def test_a_stopped_or_disabled_release_still_gives_way_in_the_runs_that_have_it(make_flag, alice):
    releases.register(MORE)
    make_flag("more", flags.Stage.OFF)
    flags.disable_all(by=alice)

    assert fallback(workflow="answer-2", failed="look", steps=steps_of(ANSWER_2, look=STATE.RUNNING)) is not None


@pytest.mark.django_db
def test_the_former_version_itself_has_nothing_to_fall_back_to():
    releases.register(MORE)

    assert fallback(workflow="answer", failed="look", steps=steps_of(ANSWER, look=STATE.RUNNING)) is None


# --- How it went -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("succeeded", [True, False])
def test_a_workflow_is_judged_by_the_run(succeeded):
    releases.register(MORE)

    assert outcomes(workflow="answer-2", succeeded=succeeded, steps=[]) == {"more": succeeded}
    assert outcomes(workflow="answer", succeeded=succeeded, steps=[]) == {}


def by_first(state, *, after=()):
    return [Step(name=f"s{place}", agent="first-2", state=each) for place, each in enumerate([*after, state])]


@pytest.mark.parametrize(
    ("steps", "judged"),
    [
        (by_first(STATE.COMPLETED), {"first-2": True}),
        (by_first(STATE.FAILED), {"first-2": False}),
        (by_first(STATE.SKIPPED), {}),
        (by_first(STATE.RUNNING), {}),
        (by_first(STATE.COMPLETED, after=[STATE.FAILED]), {"first-2": False}),
        (by_first(STATE.FAILED, after=[STATE.COMPLETED]), {"first-2": False}),
        ([Step(name="s", agent="second", state=STATE.FAILED)], {}),
    ],
)
def test_an_agent_is_judged_by_its_own_steps_and_not_by_what_others_did(steps, judged):
    releases.register(FIRST)

    assert outcomes(workflow="answer", succeeded=False, steps=steps) == judged


@pytest.fixture
def run(as_principal, alice, settings, rings):
    from apps.conversations.services import create_thread

    settings.DEFAULT_WORKFLOW = "answer-2"
    thread = create_thread(principal=as_principal(alice))
    started = services.start_run(principal=as_principal(alice), thread_id=thread.pk, text="Hello")
    return Run.objects.get(pk=started.run)


def end(run, *, succeeded):
    module.record_outcomes(run_id=run.pk, user_id=run.user_id, workflow=run.workflow, succeeded=succeeded)


def test_the_end_of_a_run_is_written_down_for_each_release_it_used(make_flag, run, alice):
    releases.register(MORE)
    releases.register(FIRST)
    make_flag("more")
    make_flag("first-2")
    Step.objects.create(run=run, name="look", agent="first-2", position=0, state=STATE.COMPLETED)

    end(run, succeeded=False)

    told = FlagOutcome.objects.order_by("flag").values_list("flag", "user", "run_id", "succeeded")
    assert list(told) == [("first-2", alice.pk, run.pk, True), ("more", alice.pk, run.pk, False)]


def test_a_run_that_fell_back_counts_as_failed_although_it_completed(make_flag, run):
    releases.register(FIRST)
    make_flag("first-2")
    flags.record_outcome("first-2", user_id=run.user_id, run_id=run.pk, succeeded=False)
    Step.objects.create(run=run, name="look", agent="first-2", position=0, state=STATE.COMPLETED)

    end(run, succeeded=True)

    assert list(FlagOutcome.objects.values_list("succeeded", flat=True)) == [False]


def test_without_a_release_the_end_of_a_run_costs_no_query(run, django_assert_num_queries):
    with django_assert_num_queries(0):
        end(run, succeeded=True)


# --- At start-up -----------------------------------------------------------------------------------------------------


def test_releases_that_make_sense_are_accepted():
    releases.register(MORE)
    releases.register(FIRST)

    module.validate_releases()


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ([Release(flag="f", kind="workflow", old="answer", new="nothing")], "workflow 'nothing', which does not exist"),
        ([Release(flag="f", kind="agent", old="nobody", new="first-2")], "agent 'nobody', which does not exist"),
        ([Release(flag="f", kind="agent", old="answer", new="answer-2")], "agent 'answer', which does not exist"),
        ([Release(flag="f", kind="agent", old="first", new="first")], "two places, of 'f' and 'f'"),
        ([FIRST, Release(flag="g", kind="agent", old="first", new="second")], "'first' has a part in two places"),
        ([FIRST, Release(flag="g", kind="agent", old="first-2", new="deep")], "'first-2' has a part in two places"),
        (
            [Release(flag="f", kind="agent", old="first", new="adder")],
            "hands over a Sum, where first hands over a Note",
        ),
        ([Release(flag="f", kind="agent", old="first", new="deep")], "'answer-2' names the agent 'deep'"),
        ([Release(flag="two words", kind="agent", old="first", new="first-2")], "No flag can be named 'two words'"),
        ([Release(flag="f" * 65, kind="agent", old="first", new="first-2")], "longer than 64"),
    ],
)
def test_a_release_that_could_not_work_is_refused_with_its_name(wrong, complaint):
    for release in wrong:
        releases.register(release)

    with pytest.raises(BrokenRelease, match=complaint):
        module.validate_releases()


def test_a_step_of_both_workflows_must_hand_over_the_same():
    registry.workflows.register(workflow("answer-3", "look adder"))
    releases.register(Release(flag="f", kind="workflow", old="answer", new="answer-3"))

    with pytest.raises(BrokenRelease, match="adder hands over a Sum, where first hands over a Note"):
        module.validate_releases()


def test_a_flag_belongs_to_one_release():
    releases.register(MORE)

    with pytest.raises(registry.AlreadyRegistered):
        releases.register(Release(flag="more", kind="agent", old="first", new="first-2"))
    with pytest.raises(NotRegistered, match="more"):
        releases.get("less")
