"""What follows when a step has settled: the next steps, a pause, or the end of the run. One transaction each."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_never
from uuid import UUID

import structlog
from django.db import transaction
from django.utils import timezone
from pydantic import BaseModel
from uuid6 import uuid7

from apps.conversations import journal, lifecycle
from apps.conversations.journal import Entry, Fact, Fenced
from apps.conversations.models import Question, Run, Step
from apps.errors import NetraError
from apps.execution import claims, doorbell, releases
from apps.execution.admission import patience
from apps.execution.claims import Artifact, Claim
from apps.execution.endings import UNSETTLED, close_calls, fail_run, let_next_start, withdraw_questions, workflow_of
from apps.execution.registry import (
    Answer,
    Completed,
    Failed,
    Outcome,
    Postponed,
    StepSpec,
    Waiting,
    agents,
    workflows,
)
from apps.execution.releases import Changes, Fallback, Planned
from apps.llm import ledger
from apps.operations import flags
from apps.operations.database import storable
from apps.operations.debug_points import point
from apps.operations.problems import new_support_id
from apps.statements import change, fetch

log = structlog.get_logger(__name__)

FORMER_TAKES_OVER = "the new version failed; the former one takes over"
PUT_OFF_AT_MOST = timedelta(hours=1)


_STEPS = """
select step.id, step.name, step.agent, step.state, step.attempt, step.depends_on
from conversations_step step where step.run_id = %(run)s order by step.position
"""
_OPEN_CALLS = "select 1 from conversations_toolcall where run_id = %(run)s and finished_at is null limit 1"
_ANSWER = """
insert into conversations_message (id, thread_id, run_id, role, text, report, attempt, created_at)
values (%(id)s, %(thread)s, %(run)s, 'assistant', coalesce(%(text)s, ''), %(report)s, %(attempt)s, clock_timestamp())
on conflict (run_id, role) where role = 'assistant' do update set
    text = coalesce(%(text)s, conversations_message.text), report = coalesce(%(report)s, conversations_message.report)
returning id, text, report
"""


# Whoever pauses a run keeps what is left of its time: waiting does not count, and gives no new time either.
_PAUSE = """
with active as (
    select not_before, state = 'ready' and not_before > clock_timestamp() as is_put_off
    from conversations_step where run_id = %(run)s and state in ('ready', 'running')
)
update conversations_run set state = case when exists (select from active) then 'queued' else 'waiting' end,
    not_before = (select min(not_before) from active),
    seconds_left = greatest(extract(epoch from deadline_at - clock_timestamp()), 0)
where id = %(run)s and state = 'running' and not exists (select from active where is_put_off is not true)
"""
# A step begins anew when it is answered: the time that a person took is not its own.
_SINCE = """
select clock_timestamp(), greatest(step.started_at, (
    select max(asked.answered_at) from conversations_question asked
    where asked.run_id = step.run_id and asked.step = step.name))
from conversations_step step where step.id = %(step)s
"""


@dataclass(frozen=True)
class _Message:
    """A row of `_ANSWER`, in its order."""

    id: UUID
    text: str
    report: UUID | None


@dataclass
class _Node:
    """A row of `_STEPS`, in its order: a step of the graph as it stands, and as it is about to."""

    id: int
    name: str
    agent: str
    state: str
    attempt: int
    depends_on: list[str]


class WorkflowOrchestrator:
    """Walks the graph of one run's workflow, a settled step at a time."""

    def __init__(self, claim: Claim) -> None:
        self._context = claim.context
        self._use(claim.workflow)

    def _use(self, workflow: str) -> None:
        self._workflow = workflow
        # Of a workflow that this release does not have, the next step to be performed tells, and the run fails.
        self._specs = {spec.name: spec for spec in workflows.get(workflow).steps} if workflow in workflows else {}

    def settle(self, outcome: Outcome) -> bool:
        """Write down how the step ended, and ready what waited for it, pause the run or end it.

        Answers whether another step is ready for whoever settled this one; for further ones it has rung.

        Raises:
            Fenced: the step is not held any more; nothing was written.
        """
        point("step.settling")
        with transaction.atomic():
            # Step, thread, then the rest: in any other order a settling step and a cancelled run wait for each other.
            journal.hold(self._context.fence)
            if any(releases.releases):
                # Another step may have made the run fall back to the former workflow since this one was claimed.
                self._use(workflow_of(self._context.run_id))
            match outcome:
                case Completed():
                    return self._complete(outcome)
                case Failed():
                    return self._fail(outcome)
                case Waiting():
                    self._rest(outcome)
                case Postponed():
                    self._postpone(outcome)
                case _:
                    assert_never(outcome)
        return False

    def give_up(self, failure: Failed) -> None:
        """End the run, because how it goes on from here cannot be found out.

        Raises:
            Fenced: see `settle`.
        """
        with transaction.atomic():
            journal.hold(self._context.fence)
            self._end(failure, self._closing(Step.State.FAILED, failure.detail, None))

    # --- The step has ended ------------------------------------------------------------------------------------------

    def _complete(self, outcome: Completed) -> bool:
        artifact = outcome.artifact.model_dump(mode="json")
        summary, confidence = outcome.summary, outcome.confidence
        closing_facts = self._closing(Step.State.COMPLETED, summary, confidence)
        closed = {"summary": summary, "confidence": confidence, "artifact": artifact}
        return self._advance(Step.State.COMPLETED, closing_facts, closed, outcome.answer)

    def _fail(self, outcome: Failed) -> bool:
        if (taken := self._fallback()) is not None:
            return self._fall_back(taken, outcome)
        closing_facts = self._closing(Step.State.FAILED, outcome.detail, None)
        spec = self._specs.get(self._context.step)
        # A step that the workflow does not have any more may fail.
        if self._workflow in workflows and (spec is None or spec.continue_on_error):
            return self._advance(Step.State.FAILED, closing_facts, {"summary": outcome.detail}, None)
        self._end(outcome, closing_facts)
        return False

    def _end(self, failure: Failed, closing_facts: list[Fact]) -> None:
        context = self._context
        journal.append(context.fence, *closing_facts)
        self._move(Step.State.FAILED, summary=failure.detail, finished_at=timezone.now())
        fail_run(run=context.run_id, thread=context.thread_id, user=context.principal.user_id, failure=failure)

    def _closing(self, state: str, summary: str, confidence: float | None) -> list[Fact]:
        """The facts that close what the step opened, the step last."""
        run = self._context.run_id
        calls = close_calls(run, self._context.step, timezone.now()) if fetch(_OPEN_CALLS, {"run": run}) else []
        said = {"agent": self._context.agent, "status": str(state), "summary": summary, "confidence": confidence}
        return [*calls, Fact("step_completed", said)]

    def _advance(self, state: str, facts: list[Fact], closed: Mapping[str, object], answer: Answer | None) -> bool:
        """Settle the step, and go on with what that unlocks."""
        self._move(state, finished_at=timezone.now(), **closed)
        if state == Step.State.FAILED:
            withdraw_questions(self._context.run_id, self._context.step)
        return self._go_on(facts, answer)

    def _go_on(self, facts: list[Fact], answer: Answer | None) -> bool:
        """Ready or skip what the settled steps unlock, and end the run when nothing is left.

        Under the thread's lock, so that of two steps settling at once the second sees the first as settled.
        """
        context = self._context
        nodes = {node.name: node for node in (_Node(*row) for row in fetch(_STEPS, {"run": context.run_id}))}
        readied, skipped = self._unlock(nodes)
        entries: list[Fact | Entry] = [(fact, context.step, context.attempt) for fact in facts]
        entries += [entry for node in skipped for entry in _skipping(node)]
        if all(node.state not in UNSETTLED for node in nodes.values()):
            self._complete_run(entries, self._store(answer or Answer(text=None)))
        else:
            if answer is not None:
                self._store(answer)
            if entries:
                journal.append_to_run(thread=context.thread_id, run=context.run_id, facts=entries)
            if not readied and all(node.state != Step.State.RUNNING for node in nodes.values()):
                self._pause()
        for _ in readied[1:]:
            doorbell.ring(context.run_id)
        return bool(readied)

    def _move(self, state: str, **fields: object) -> None:
        context = self._context
        source = Step.State.RUNNING
        if not lifecycle.move_step(context.step_id, attempt=context.attempt, source=source, to=state, **fields):
            raise Fenced(f"Step {context.step} of run {context.run_id} is not ours any more.")

    # --- The graph ---------------------------------------------------------------------------------------------------

    def _unlock(self, nodes: Mapping[str, _Node]) -> tuple[list[_Node], list[_Node]]:
        """Ready the steps all of whose predecessors have settled, and skip those that are not wanted."""
        readied: list[_Node] = []
        skipped: list[_Node] = []
        while node := next((node for node in nodes.values() if _is_unlocked(node, nodes)), None):
            wanted = self._is_wanted(node)
            to = Step.State.READY if wanted else Step.State.SKIPPED
            lifecycle.move_step(node.id, attempt=node.attempt, source=node.state, to=to)
            node.state = to
            (readied if wanted else skipped).append(node)
        return readied, skipped

    def _is_wanted(self, node: _Node) -> bool:
        spec: StepSpec | None = self._specs.get(node.name)
        if spec is None or spec.condition is None:
            return True
        return spec.condition(typed(claims.artifacts(self._context.run_id)))

    # --- The new version has failed ----------------------------------------------------------------------------------

    def _fallback(self) -> Fallback | None:
        if not any(releases.releases):
            return None
        steps = Step.objects.filter(run_id=self._context.run_id)
        return releases.fallback(workflow=self._workflow, failed=self._context.step, steps=steps)

    def _fall_back(self, taken: Fallback, outcome: Failed) -> bool:
        """Let the former version go on from where the run is."""
        context, flag = self._context, taken.release.flag
        log.warning("Release failed; the former version takes over", flag=flag, support_id=outcome.support_id)
        flags.record_outcome(flag, user_id=context.principal.user_id, run_id=context.run_id, succeeded=False)
        if taken.changes.repeats(context.step):
            # What the new version left open would be taken for the former one's.
            facts = close_calls(context.run_id, context.step, timezone.now())
            reset = {"worker": None, "not_before": None, "losses": 0, "barren_losses": 0}
            self._move(Step.State.BLOCKED, reason=FORMER_TAKES_OVER, **reset)
        else:
            told = Fact("run_recovering", {"attempt": context.attempt, "reason": FORMER_TAKES_OVER})
            facts = [told, *self._closing(Step.State.FAILED, outcome.detail, None)]
            self._move(Step.State.FAILED, summary=outcome.detail, finished_at=timezone.now())
        self._change_steps(taken.changes)
        if taken.release.kind == "workflow":
            Run.objects.filter(pk=context.run_id).update(workflow=taken.release.old)
            self._use(taken.release.old)
        return self._go_on(facts, None)

    def _change_steps(self, changes: Changes) -> None:
        """Give the steps that nobody is at their place in the former workflow."""
        run = self._context.run_id
        # A step being claimed at this moment is passed over: it has begun.
        idle = Step.objects.filter(run_id=run, state__in=[Step.State.BLOCKED, Step.State.READY, Step.State.WAITING])
        free = {step.name: step for step in idle.select_for_update(no_key=True, skip_locked=True)}
        for planned in changes.swapped:
            if planned.spec.name in free:
                Step.objects.filter(pk=free[planned.spec.name].pk).update(**_as_planned(planned))
        for planned in changes.added:
            Step.objects.create(run_id=run, name=planned.spec.name, **_as_planned(planned))
        for step in (free[name] for name in changes.skipped if name in free):
            if step.attempt:
                self._close_skipped(step)
            lifecycle.move_step(step.pk, attempt=step.attempt, source=step.state, to=Step.State.SKIPPED)

    def _close_skipped(self, step: Step) -> None:
        withdraw_questions(step.run_id, step.name)
        said = {"agent": step.agent, "status": "skipped", "summary": "Not needed.", "confidence": None}
        facts = [*close_calls(step.run_id, step.name, timezone.now()), Fact("step_completed", said)]
        entries = [(fact, step.name, step.attempt) for fact in facts]
        journal.append_to_run(thread=self._context.thread_id, run=step.run_id, facts=entries)

    # --- The step has not ended --------------------------------------------------------------------------------------

    def _rest(self, outcome: Waiting) -> None:
        """Wait for a person; one who was quick has answered already."""
        asked = Question.objects.filter(run_id=self._context.run_id, step=self._context.step, call=outcome.call)
        if not asked.filter(answered_at=None).exists():
            self._move(Step.State.READY, worker=None, reason="")
            doorbell.ring(self._context.run_id)
            return
        self._move(Step.State.WAITING, worker=None)
        self._pause()

    def _postpone(self, outcome: Postponed) -> None:
        """Give the step back until later; one that has been put off for long enough fails."""
        now, begun_at = fetch(_SINCE, {"step": self._context.step_id})[0]
        if now - begun_at > PUT_OFF_AT_MOST:
            self._fail(_put_off(outcome))
            return
        later = now + timedelta(seconds=outcome.seconds)
        said = {"thought": f"Waiting {outcome.seconds:.0f} s: {outcome.reason}", "progress": 0}
        journal.append(self._context.fence, Fact("agent_thinking", said))
        self._move(Step.State.READY, worker=None, not_before=later, reason=outcome.reason[:200])
        self._pause()

    def _pause(self) -> None:
        """Where nobody can go on with the run now, its owner's place is free, its thread's line is kept."""
        if change(_PAUSE, {"run": self._context.run_id}):
            let_next_start(self._context.principal.user_id)

    # --- The run has ended -------------------------------------------------------------------------------------------

    def _store(self, answer: Answer) -> _Message:
        """The run's answer as it is stored now, after taking on `answer`."""
        context = self._context
        row = {"id": uuid7(), "thread": context.thread_id, "run": context.run_id, "attempt": context.attempt}
        return _Message(*fetch(_ANSWER, {**row, "text": storable(answer.text), "report": answer.report})[0])

    def _complete_run(self, entries: list[Fact | Entry], message: _Message) -> None:
        context = self._context
        usage = ledger.usage_of_run(context.run_id)
        said = {"message": message.id, "report": message.report, "text": message.text, "usage": usage}
        terminal = Fact("agent_completed", said)
        journal.append_to_run(thread=context.thread_id, run=context.run_id, facts=[*entries, terminal])
        moved = {"finished_at": timezone.now(), "usage": usage}
        if not lifecycle.move_run(context.run_id, source=Run.State.RUNNING, to=Run.State.COMPLETED, **moved):
            raise Fenced(f"Run {context.run_id} is not running any more.")
        releases.record_outcomes(
            run_id=context.run_id, user_id=context.principal.user_id, workflow=self._workflow, succeeded=True
        )
        let_next_start(context.principal.user_id)


def _as_planned(planned: Planned) -> dict[str, Any]:
    """The columns of a step that is to be begun as `planned`."""
    spec = planned.spec
    place = {"position": planned.position, "depends_on": list(spec.depends_on)}
    return {"agent": spec.agent, "patience": patience(spec), "state": Step.State.BLOCKED, **place}


def _put_off(outcome: Postponed) -> Failed:
    hours = PUT_OFF_AT_MOST.total_seconds() / 3600
    return Failed(
        code="step.put_off",
        detail=f"What the step needs was out of order for {hours:g} h: {outcome.reason}",
        retryable=True,
        suggestions=("Ask again later.",),
        support_id=new_support_id(),
    )


def _is_unlocked(node: _Node, nodes: Mapping[str, _Node]) -> bool:
    return node.state == Step.State.BLOCKED and all(nodes[name].state not in UNSETTLED for name in node.depends_on)


def _skipping(node: _Node) -> list[Entry]:
    """A step that is not wanted is opened and closed at once, so that whoever watches knows of it."""
    skipped = {"agent": node.agent, "status": "skipped", "summary": "Not needed.", "confidence": None}
    told = [Fact("step_started", {"agent": node.agent}), Fact("step_completed", skipped)]
    # One that was begun already, before the former version took over, is open.
    return [(fact, node.name, node.attempt) for fact in (told[1:] if node.attempt else told)]


class HandOverInvalid(NetraError):
    """What a step handed over is not what its agent promised; a bug, or a release that changed its mind."""

    code = "artifact.invalid"
    status = 500


def typed(artifacts: Mapping[str, Artifact]) -> dict[str, BaseModel]:
    """Stored artifacts, checked against the types that their agents promise.

    Raises:
        HandOverInvalid: one does not fit.
    """
    checked = {}
    for name, artifact in artifacts.items():
        promised = agents.get(artifact.agent).artifact
        try:
            checked[name] = promised.model_validate(artifact.body)
        except ValueError as error:
            raise HandOverInvalid(f"{name} handed over no {promised.__name__}.") from error
    return checked
