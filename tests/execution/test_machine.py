"""Anything that may happen to runs, in any order, against a model of what must come of it.

People send, answer and cancel; workers admit, claim, write, settle, die and come back as zombies; time passes, rings
get lost, and somebody sweeps. After every step PostgreSQL says what the model says, and at the end every run can still
be brought to its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from uuid6 import uuid7

from apps.accounts.models import Plan, User
from apps.accounts.tenancy import principal_for
from apps.conversations import journal
from apps.conversations.journal import Fact, Fenced
from apps.conversations.models import Event, Question, Run, Step, Thread, ToolCall
from apps.conversations.services import create_thread
from apps.execution import admission, calls, claims, questions, registry, services
from apps.execution.claims import Claim
from apps.execution.models import WorkerProcess
from apps.execution.orchestrator import WorkflowOrchestrator
from apps.execution.questions import NotWaiting
from apps.execution.registry import Completed, Failed, Outcome, Postponed, StepSpec, Waiting, Workflow, tools, workflows
from apps.execution.services import RunFinished
from apps.execution.sweep import sweep
from tests.execution.conftest import LONG_AGO, Note, assert_well_told, beat

LENGTH = 40  # steps of an example
CAP = 2  # running runs of one user
THOUGHT = Fact("agent_thinking", {"thought": "hm", "progress": 10})
ITEM = {"field": "f", "why": "", "unlocks": "", "worth_usd": None, "how_to_export": ""}
ARGUMENTS = {"text": "hey"}
SETTLED = {"completed", "failed", "skipped"}
ENDED = {"completed", "failed", "cancelled"}

WORKFLOWS = {
    "narrow": (StepSpec(name="only", agent="first"),),
    # Two steps at once, of which the left one may fail; the third is wanted only if it has not.
    "wide": (
        StepSpec(name="left", agent="first", continue_on_error=True),
        StepSpec(name="right", agent="first"),
        StepSpec(
            name="join", agent="second", depends_on=("left", "right"), condition=lambda artifacts: "left" in artifacts
        ),
    ),
}
DEEDS = ["append", "ask", "open_call", "open_call", "close_call", "give_back"]
DEEDS += [
    "complete",
    "complete",
    "complete",
    "wait",
    "wait",
    "postpone",
    "postpone",
    "hear_at_once",
    "hear_late",
    "fail",
]


# --- The model -------------------------------------------------------------------------------------------------------


@dataclass
class Node:
    """A step as it ought to be."""

    name: str
    depends_on: tuple[str, ...]
    state: str
    attempt: int = 0
    worker: UUID | None = None
    postponed: bool = False
    question: str = "none"  # none, open, answered
    call: str = "none"  # none, open, closed


@dataclass
class Life:
    """A run as it ought to be."""

    id: UUID
    thread: UUID
    user: UUID
    workflow: str
    state: str = "queued"
    postponed: bool = False
    nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def is_live(self) -> bool:
        """Whether it has begun and not ended: it alone may write in its thread."""
        return bool(self.nodes) and self.state not in ENDED

    def begin(self) -> None:
        if not self.nodes:
            for spec in WORKFLOWS[self.workflow]:
                self.nodes[spec.name] = Node(spec.name, spec.depends_on, "blocked" if spec.depends_on else "ready")
        self.state, self.postponed = "running", False

    def ready(self) -> Node | None:
        """The step that whoever claims one now gets."""
        if self.state != "running":
            return None
        return next((node for node in self.nodes.values() if node.state == "ready" and not node.postponed), None)

    def settle(self, node: Node, outcome: str) -> None:
        if outcome == "postpone":
            node.state, node.postponed = "ready", True
            self.pause()
        elif outcome == "rest":
            node.state = "waiting" if node.question == "open" else "ready"
            self.pause()
        elif outcome == "complete" or node.name == "left":
            node.state = {"complete": "completed", "fail": "failed"}[outcome]
            self.close_call(node)
            self.go_on()
        else:
            node.state = "failed"
            self.close_call(node)
            self.end("failed")

    def go_on(self) -> None:
        join = self.nodes.get("join")
        if join and join.state == "blocked" and all(self.nodes[name].state in SETTLED for name in join.depends_on):
            join.state = "ready" if self.nodes["left"].state == "completed" else "skipped"
        if all(node.state in SETTLED for node in self.nodes.values()):
            self.state = "completed"
        else:
            self.pause()

    def pause(self) -> None:
        active = [node for node in self.nodes.values() if node.state in ("ready", "running")]
        if all(node.postponed for node in active):
            self.state, self.postponed = ("queued", True) if active else ("waiting", False)

    def end(self, state: str) -> None:
        self.state = state
        for node in self.nodes.values():
            if node.state not in SETTLED:
                self.close_call(node)
            if node.state in ("blocked", "ready", "waiting"):
                node.state = "skipped"

    @staticmethod
    def close_call(node: Node) -> None:
        if node.call == "open":
            node.call = "closed"


@dataclass
class Held:
    """A claim that was made once; whether it still counts, the model knows."""

    claim: Claim
    life: Life
    row: ToolCall | None = None

    @property
    def node(self) -> Node:
        return self.life.nodes[self.claim.context.step]

    @property
    def is_its_own(self) -> bool:
        """Whether nobody has taken the step away, though its run may have ended."""
        return (self.node.state, self.node.attempt) == ("running", self.claim.context.attempt)

    @property
    def counts(self) -> bool:
        return self.life.is_live and self.is_its_own


# --- The machine -----------------------------------------------------------------------------------------------------

some = st.integers(0, 30)  # which of those there are, the last first


class Machine(RuleBasedStateMachine):
    def __init__(self, users: list[User], rings: list[UUID], settings) -> None:
        super().__init__()
        forget_everything()
        self.settings = settings
        self.rings = rings
        self.principals = {user.pk: principal_for(user=user) for user in users}
        self.served = {user.pk: number for number, user in enumerate(users)}
        for user, turn in self.served.items():
            User.objects.filter(pk=user).update(served_at=f"2020-01-0{turn + 1}T00:00:00Z")
        self.threads = [
            create_thread(principal=principal) for principal in self.principals.values() for _ in range(CAP + 1)
        ]
        self.workers = [beat(uuid7()) for _ in range(3)]
        self.silent: set[UUID] = set()
        self.lives: dict[UUID, Life] = {}
        self.asked: dict[UUID, list[str]] = {}  # of a run: steps with an open question, the oldest first
        self.held: list[Held] = []
        self.sent: list[tuple[Thread, str, services.Started]] = []

    # --- People ------------------------------------------------------------------------------------------------------

    @initialize(lines=st.integers(1, CAP + 1))
    def begin(self, lines: int) -> None:
        """Each user has runs in so many of their threads: more than they have places, or fewer."""
        for number, _ in enumerate(self.threads):
            if number % (CAP + 1) < lines:
                self.send(number, "wide" if number % 2 else "narrow")
        for number in range(CAP * len(self.principals)):
            self.work(number)

    @rule(which=some, deed=st.sampled_from(["narrow", "wide", "again", "cancel"]))
    def speak(self, which: int, deed: str) -> None:
        if deed == "again":
            thread, key, started = pick(self.sent, which)
            assert self.say(thread, key) == started
        elif deed == "cancel":
            self.cancel(pick(list(self.lives.values()), which))
        else:
            self.send(which, deed)

    def send(self, which: int, workflow: str) -> None:
        thread = pick(self.threads, which)
        self.settings.DEFAULT_WORKFLOW = workflow
        live = self.live(thread.pk)
        started = self.say(thread, uuid7().hex)
        if live is not None and live.id in self.asked:
            assert started.run == live.id
            self.hear(live, self.asked[live.id][0])
        else:
            assert started.run not in self.lives
            self.lives[started.run] = Life(started.run, thread.pk, thread.user_id, workflow)

    def cancel(self, life: Life) -> None:
        cancel = {"principal": self.principals[life.user], "run_id": life.id}
        if life.state in ENDED:
            with pytest.raises(RunFinished):
                services.cancel_run(**cancel)
        else:
            services.cancel_run(**cancel)
            life.end("cancelled")
            self.too_late(life)

    @precondition(lambda self: self.asked or self.asked_before())
    @rule(which=some, again=st.booleans())
    def answer(self, which: int, again: bool) -> None:
        if self.asked_before() and (again or not self.asked):
            life, step = pick(self.asked_before(), which)
        else:
            life = self.asking(which)
            step = pick(self.asked[life.id], which)
        self.reply(life, step)

    def too_late(self, life: Life) -> None:
        """What an ended run has asked, nobody can answer any more."""
        for step in self.asked.pop(life.id, []):
            self.reply(life, step)

    def reply(self, life: Life, step: str) -> None:
        reply = {"principal": self.principals[life.user], "run_id": life.id, "call": step, "value": "yes"}
        if step in self.asked.get(life.id, []):
            services.answer_run(**reply)
            self.hear(life, step)
        else:
            with pytest.raises(NotWaiting):
                services.answer_run(**reply)

    # --- Workers -----------------------------------------------------------------------------------------------------

    @rule(which=some, ways=st.lists(st.sampled_from(["work", "claim", "claim", "admit"]), min_size=1, max_size=3))
    def take(self, which: int, ways: list[str]) -> None:
        for number, way in enumerate(ways):
            getattr(self, way)(which + number)

    def work(self, which: int) -> None:
        """What a worker does that is done with its run: the next one, from admission to claim."""
        expected = self.next_one()
        claim = admission.admit_and_claim(worker=pick(self.workers, which))
        assert (claim and claim.context.run_id) == expected
        if claim is not None:
            self.admitted(expected)
            self.claimed(self.lives[expected], claim)

    def admit(self, _: int) -> None:
        expected = self.next_one()
        assert admission.admit_one() == expected
        if expected is not None:
            self.admitted(expected)

    def claim(self, which: int) -> None:
        """What a worker does that is rung for a run: mostly one that has a step ready, though it may not be running."""
        lives = list(self.lives.values())
        ready = [life for life in lives if any(node.state == "ready" for node in life.nodes.values())]
        life = pick(ready if ready and which % 8 else lives, which)
        claim = claims.claim_step(life.id, worker=pick(self.workers, which))
        assert (claim and claim.context.step) == (life.ready() and life.ready().name)
        if claim is not None:
            self.claimed(life, claim)

    @precondition(lambda self: self.holding())
    @rule(deeds=st.lists(st.tuples(some, st.sampled_from(DEEDS)), min_size=1, max_size=4))
    def do(self, deeds: list[tuple[int, str]]) -> None:
        for which, deed in deeds:
            if holding := self.holding():
                getattr(self, deed)(pick(holding, which))

    @precondition(lambda self: self.zombies())
    @rule(which=some, thinks_better=st.booleans())
    def haunt(self, which: int, thinks_better: bool) -> None:
        """A zombie tries whatever a worker may do; then it gives its step back, or sees that it is over."""
        zombie = pick(self.zombies(), which)
        for deed in ("append", "ask", "open_call", "close_call", "complete", "fail", "postpone", "rest"):
            getattr(self, deed)(zombie)
        self.give_back(zombie) if thinks_better else self.abandon(zombie)

    def append(self, held: Held) -> None:
        self.told(held.counts, lambda: journal.append(held.claim.context.fence, THOUGHT))

    def ask(self, held: Held) -> None:
        context, node = held.claim.context, held.node
        asked = []
        ask = lambda: asked.append(questions.ask_for_data(context, call=context.step, items=[ITEM]))  # noqa: E731
        # Who asks again writes nothing, and need not be who asked.
        self.told(held.counts or node.question != "none", ask)
        if asked:
            assert (asked[0].value is not None) == (node.question == "answered")
        if held.counts and node.question == "none":
            node.question = "open"
            self.asked.setdefault(held.life.id, []).append(node.name)

    def open_call(self, held: Held) -> None:
        opened = []
        call = lambda: opened.append(calls.open_call(held.claim.context, tools.get("shout"), ARGUMENTS, "c1"))  # noqa: E731
        # Who asks for a result that is there writes nothing.
        self.told(held.counts or held.node.call == "closed", call)
        if held.counts and held.node.call != "closed":
            held.row = opened[0].row
            assert opened[0].again == (held.node.call == "open")
            held.node.call = "open"

    def close_call(self, held: Held) -> None:
        if held.row is None:
            return
        result = calls.Result(status="succeeded", result={"text": "HEY"}, summary="HEY")
        self.told(held.counts, lambda: calls.close_call(held.claim.context, held.row, result))
        if held.counts:
            held.node.call, held.row = "closed", None

    def complete(self, held: Held) -> None:
        self.settle(held, "complete", Completed(artifact=Note(), summary="done"))

    def fail(self, held: Held) -> None:
        self.settle(held, "fail", Failed(code="test.failed", detail="It did not work.", retryable=False))

    def postpone(self, held: Held) -> None:
        self.settle(held, "postpone", Postponed(seconds=3600, reason="Later."))

    def wait(self, held: Held) -> None:
        self.ask(held)
        self.rest(held)

    def hear_at_once(self, held: Held) -> None:
        """Somebody answers before the step has come to rest."""
        self.ask(held)
        if held.node.question == "open":
            self.reply(held.life, held.node.name)
        self.rest(held)

    def hear_late(self, held: Held) -> None:
        """Somebody answers when whatever else could start has started."""
        self.wait(held)
        while self.next_one():
            self.admit(0)
        self.admit(0)
        if held.node.question == "open":
            self.reply(held.life, held.node.name)

    def rest(self, held: Held) -> None:
        self.settle(held, "rest", Waiting(call=held.claim.context.step))

    def settle(self, held: Held, how: str, outcome: Outcome) -> None:
        counted = held.counts
        self.told(counted, lambda: WorkflowOrchestrator(held.claim).settle(outcome))
        if counted:
            held.life.settle(held.node, how)
        if held.life.state in ENDED:
            self.too_late(held.life)

    def give_back(self, held: Held) -> None:
        mine = held.is_its_own
        assert claims.release(held.claim.context) == mine
        if mine:
            held.node.state = "ready" if held.life.is_live else "skipped"

    def abandon(self, held: Held) -> None:
        claims.abandon(held.claim.context)
        if held.is_its_own and held.life.state in ENDED:
            held.node.state = "skipped"

    # --- Faults ------------------------------------------------------------------------------------------------------

    @rule(which=some, fault=st.sampled_from(["die", "overrun", "let_time_pass", "expire"]))
    def suffer(self, which: int, fault: str) -> None:
        self.rings.clear()  # Redis forgets every ring, too
        getattr(self, fault)(which)

    def die(self, which: int) -> None:
        """A worker falls silent for good, and another one starts; whatever the dead one still says is a zombie's."""
        worker = pick(self.workers, which)
        WorkerProcess.objects.filter(pk=worker).update(beat_at=LONG_AGO)
        self.silent.add(worker)
        self.workers[self.workers.index(worker)] = beat(uuid7())
        sweep()
        self.swept()

    def overrun(self, which: int) -> None:
        """A living worker does not come to an end in time."""
        if not self.holding():
            return
        held = pick(self.holding(), which)
        Step.objects.filter(pk=held.claim.context.step_id, state="running").update(deadline_at=LONG_AGO)
        sweep()
        self.swept()
        held.node.state = "ready"

    def let_time_pass(self, _: int) -> None:
        """Whatever was postponed has its time come."""
        pass_time()
        for life in self.lives.values():
            life.postponed = False
            for node in life.nodes.values():
                node.postponed = False
        sweep()
        assert sorted(self.rings) == sorted(self.waiting_for_a_ring())
        self.swept()

    def expire(self, which: int) -> None:
        if not self.asked:
            return
        life = self.asking(which)
        Question.objects.filter(run=life.id, answered_at=None).update(expires_at=LONG_AGO)
        sweep()
        if life.state == "waiting":
            life.end("failed")
            self.too_late(life)
        else:
            Question.objects.filter(run=life.id, answered_at=None).update(
                expires_at=timezone.now() + questions.DATA_WITHIN
            )
        self.swept()

    def waiting_for_a_ring(self) -> Iterator[UUID]:
        """Of a running run, once for each step that is ready; of a queued one, where no other has its thread's line."""
        for life in self.lives.values():
            if life.state == "running":
                yield from (life.id for node in life.nodes.values() if node.state == "ready")
            elif life.state == "queued" and self.live(life.thread) in (None, life):
                yield life.id

    # --- What the model concludes ------------------------------------------------------------------------------------

    def holding(self) -> list[Held]:
        return [held for held in self.held if held.counts]

    def zombies(self) -> list[Held]:
        """Claims that count no more; last those whose step is somebody else's by now."""
        lost = [held for held in self.held if not held.counts]
        return sorted(lost, key=lambda held: held.node.state == "running")

    def live(self, thread: UUID) -> Life | None:
        return next((life for life in self.lives.values() if life.thread == thread and life.is_live), None)

    def asked_before(self) -> list[tuple[Life, str]]:
        """What is asked no more: it was answered or withdrawn, or has expired."""
        return [
            (life, node.name)
            for life in self.lives.values()
            for node in life.nodes.values()
            if node.question != "none" and node.name not in self.asked.get(life.id, [])
        ]

    def asking(self, which: int) -> Life:
        return pick([self.lives[run] for run in self.asked], which)

    def next_one(self) -> UUID | None:
        """The least recently served user who has something that may start, and their oldest."""
        able = [life for life in self.lives.values() if self.may_start(life)]
        return min(((self.served[life.user], life.id) for life in able), default=(0, None))[1]

    def may_start(self, life: Life) -> bool:
        running = sum(other.user == life.user and other.state == "running" for other in self.lives.values())
        earlier = [each for each in self.lives.values() if each.thread == life.thread and each.state == "queued"]
        line_is_free = self.live(life.thread) in (None, life) and earlier[:1] == [life]
        return life.state == "queued" and not life.postponed and line_is_free and running < CAP

    def say(self, thread: Thread, key: str) -> services.Started:
        started = services.start_run(
            principal=self.principals[thread.user_id], thread_id=thread.pk, text=f"Message {key}", key=key
        )
        self.sent.append((thread, key, started))
        return started

    def hear(self, life: Life, step: str) -> None:
        self.asked[life.id].remove(step)
        if not self.asked[life.id]:
            del self.asked[life.id]
        node = life.nodes[step]
        node.question = "answered"
        if node.state != "waiting":
            return  # it finds the answer when it asks again
        node.state = "ready"
        if life.state in ("waiting", "queued"):
            life.state, life.postponed = "queued", False

    def admitted(self, run: UUID) -> None:
        life = self.lives[run]
        self.served[life.user] = max(self.served.values()) + 1
        life.begin()

    def claimed(self, life: Life, claim: Claim) -> None:
        node = life.ready()
        assert node is not None
        assert (claim.context.step, claim.context.attempt) == (node.name, node.attempt + 1)
        node.state, node.attempt, node.worker = "running", node.attempt + 1, claim.context.worker
        self.held.append(Held(claim, life))

    def swept(self) -> None:
        for life in self.lives.values():
            for node in life.nodes.values():
                if node.state == "running" and node.worker in self.silent:
                    node.state = "ready" if life.is_live else "skipped"

    def told(self, expected: bool, write) -> None:
        """Write; whoever may not stores nothing."""
        if expected:
            write()
            return
        before = everything()
        with pytest.raises(Fenced):
            write()
        assert everything() == before

    # --- What must always hold ---------------------------------------------------------------------------------------

    @invariant()
    def the_rows_are_what_they_ought_to_be(self) -> None:
        rows = dict(Run.objects.values_list("pk", "state"))
        assert rows == {life.id: life.state for life in self.lives.values()}
        steps = {(run, name): (state, attempt) for run, name, state, attempt in step_rows()}
        assert steps == {
            (life.id, node.name): (node.state, node.attempt)
            for life in self.lives.values()
            for node in life.nodes.values()
        }

    @invariant()
    def a_thread_has_one_line_and_no_gaps(self) -> None:
        for thread, live_run, last_seq, events, highest in threads_and_events():
            live = self.live(thread)
            assert live_run == (live and live.id)
            assert (events, highest) == (last_seq, last_seq)

    @invariant()
    def nobody_has_more_running_than_the_plan_allows(self) -> None:
        for user in self.principals:
            assert Run.objects.filter(user=user, state="running").count() <= CAP

    @invariant()
    def admission_looks_at_everybody_who_has_something_to_start(self) -> None:
        able = {life.user for life in self.lives.values() if self.may_start(life)}
        assert able <= set(User.objects.filter(runnable=True).values_list("pk", flat=True))

    def teardown(self) -> None:
        """Whatever has happened, each run still comes to its end, by nothing but sweeps and what they ring for."""
        for _ in range(100):
            if not Run.objects.exclude(state__in=ENDED).exists():
                break
            self.drive()
        WorkerProcess.objects.all().delete()
        sweep()
        assert set(Run.objects.values_list("state", flat=True)) <= ENDED
        assert set(Step.objects.values_list("state", flat=True)) <= SETTLED
        assert not ToolCall.objects.filter(finished_at=None).exists()
        assert not Thread.objects.exclude(live_run=None).exists()
        for thread in self.threads:
            assert_well_told(thread)

    def drive(self) -> None:
        self.rings.clear()
        WorkerProcess.objects.all().delete()
        pass_time()
        for question in Question.objects.filter(answered_at=None, run__state__in=["waiting", "queued", "running"]):
            owner = self.principals[question.run.user_id]
            services.answer_run(principal=owner, run_id=question.run_id, call=question.call, value="yes")
        self.rings.clear()
        sweep()
        worker = beat(uuid7())
        for run in self.rings:
            for claim in claims_of(run, worker):
                WorkflowOrchestrator(claim).settle(Completed(artifact=Note(), summary="done"))


def claims_of(run: UUID, worker: UUID) -> Iterator[Claim]:
    """What a worker gets to do that was rung for a run."""
    while claim := claims.claim_step(run, worker=worker):
        yield claim
    while claim := admission.admit_and_claim(worker=worker):
        yield claim
        while claim := claims.claim_step(claim.context.run_id, worker=worker):
            yield claim


def pick(things: list, which: int):
    return things[-1 - which % len(things)]


# --- The tables ------------------------------------------------------------------------------------------------------


def forget_everything() -> None:
    with connection.cursor() as cursor:
        for table in ("event", "question", "toolcall", "message", "step", "run", "thread"):
            cursor.execute(f"delete from conversations_{table}")
        cursor.execute("delete from execution_workerprocess")
        cursor.execute("update accounts_user set runnable = false")


def pass_time() -> None:
    Run.objects.update(rung_at=LONG_AGO)
    Run.objects.filter(not_before__isnull=False).update(not_before=LONG_AGO)
    Step.objects.update(rung_at=LONG_AGO)
    Step.objects.filter(not_before__isnull=False).update(not_before=LONG_AGO)


def step_rows() -> list[tuple]:
    return list(Step.objects.values_list("run_id", "name", "state", "attempt"))


def everything() -> list:
    """All that a zombie might change."""
    kept = (Run, Step, ToolCall, Question, Thread)
    return [Event.objects.count(), *(sorted(map(str, model.objects.values())) for model in kept)]


def threads_and_events() -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(
            """select thread.id, thread.live_run, thread.last_seq, count(event.seq), coalesce(max(event.seq), 0)
            from conversations_thread thread left join conversations_event event on event.thread_id = thread.id
            group by thread.id"""
        )
        return cursor.fetchall()


@pytest.mark.timeout(600)  # a failure is told in its shortest form, which takes a while to find
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("examples", [6, pytest.param(60, marks=pytest.mark.long)])
def test_whatever_happens_runs_are_what_they_ought_to_be(
    examples, script, rings, silence_is_heard, settings, alice, bob
):
    Plan.objects.update(max_running_runs=CAP)
    for name, steps in WORKFLOWS.items():
        workflows.register(Workflow(name=name, lead="first", steps=steps))
    registry.validate()

    run_state_machine_as_test(
        lambda: Machine([alice, bob], rings, settings),
        settings=hypothesis_settings(
            max_examples=examples,
            stateful_step_count=LENGTH,
            deadline=None,
            print_blob=True,
            phases=set(Phase) - {Phase.explain},
            suppress_health_check=list(HealthCheck),
        ),
    )
