"""Releases: a new version of an agent or a workflow beside the former one, and the flag that says who gets it.

Declared in code, like what they release; how far a release is, operators say (`apps/operations/flags.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import validate_slug

from apps.conversations.models import Step
from apps.execution.registry import Registry, StepSpec, Workflow, agents, workflows
from apps.operations import flags

Kind = Literal["agent", "workflow"]

FLAG_LENGTH = 64  # characters


@dataclass(frozen=True, kw_only=True)
class Release:
    """`new` answers in place of `old` where `flag` is on."""

    flag: str
    kind: Kind
    old: str
    new: str

    @property
    def name(self) -> str:
        """Its flag: what goes wrong under a flag is to be the fault of one release."""
        return self.flag


releases: Registry[Release] = Registry("release")


class BrokenRelease(ValueError):
    """A release that names what does not exist, or whose sides cannot stand in for each other; a bug."""


# --- Which version answers -------------------------------------------------------------------------------------------


def workflow_for(name: str, *, user_id: UUID, is_staff: bool) -> str:
    """The workflow that answers a user in place of `name`: its new version or itself."""
    return _variant("workflow", name, user_id, is_staff)


def agent_for(name: str, *, user_id: UUID, is_staff: bool) -> str:
    """The agent that does a step for a user in place of `name`: its new version or itself."""
    return _variant("agent", name, user_id, is_staff)


def _variant(kind: Kind, name: str, user_id: UUID, is_staff: bool) -> str:
    release = next((each for each in releases if (each.kind, each.old) == (kind, name)), None)
    if release is None or not flags.is_on(release.flag, user_id=user_id, is_staff=is_staff):
        return name
    return release.new


def old_of(kind: Kind, name: str) -> Release | None:
    """The release whose new version `name` is; None for what is nobody's new version."""
    return next((each for each in releases if (each.kind, each.new) == (kind, name)), None)


# --- When the new version fails --------------------------------------------------------------------------------------

SETTLED = frozenset({Step.State.COMPLETED, Step.State.FAILED, Step.State.SKIPPED})
BEGUN = frozenset({Step.State.RUNNING, Step.State.WAITING})  # a worker is at it, or a person is asked


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A step as the former version has it, blocked until it is seen what it still waits for."""

    spec: StepSpec
    position: int


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What the steps of a run have to become so that the former version goes on from where the run is."""

    swapped: tuple[Planned, ...] = ()  # there already: they get the former agent and its place in the graph
    added: tuple[Planned, ...] = ()
    skipped: tuple[str, ...] = ()  # the former version has no use for them

    def repeats(self, step: str) -> bool:
        """Whether the step is done over by the former version; a failed one that is not, is closed as failed."""
        return any(planned.spec.name == step for planned in self.swapped)


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """What takes over."""

    release: Release
    changes: Changes


def fallback(*, workflow: str, failed: str, steps: Iterable[Step]) -> Fallback | None:
    """What takes over when the step `failed` of a run of `workflow` has failed for good; None: the run fails.

    A new agent gives way before a new workflow does, which would change more. `steps` are those of the run, as they are
    under its thread's lock; one that is just being claimed counts as running.
    """
    steps = list(steps)
    failing = next(step for step in steps if step.name == failed)
    release = old_of("agent", failing.agent)
    if release is not None and flags.falls_back(release.flag):
        spec = replace(_spec(workflow, failing), agent=release.old)
        changes = Changes(swapped=(Planned(spec=spec, position=failing.position),))
        return Fallback(release=release, changes=changes)
    release = old_of("workflow", workflow)
    if release is not None and flags.falls_back(release.flag):
        return Fallback(release=release, changes=changes_to(workflows.get(release.old), steps, failed=failed))
    return None


def _spec(workflow: str, step: Step) -> StepSpec:
    """How the workflow describes the step; one that it does not have any more is described by its row."""
    named = (spec for spec in workflows.get(workflow).steps if spec.name == step.name)
    return next(named, StepSpec(name=step.name, agent=step.agent, depends_on=tuple(step.depends_on)))


def changes_to(former: Workflow, steps: Iterable[Step], *, failed: str) -> Changes:
    """How a run whose step `failed` has failed goes on as a run of `former`.

    What has settled or begun stays, as its hand-over is of the type that `former` expects. The rest becomes as `former`
    has it; all of it gets its turn, since that has no cycles. A running step that `former` does not have may finish.
    """
    states = {step.name: step.state for step in steps}
    states[failed] = Step.State.BLOCKED
    settled = {name for name, state in states.items() if state in SETTLED}
    begun = {name for name, state in states.items() if state in BEGUN}
    needed = [
        Planned(spec=spec, position=position)
        for position, spec in enumerate(former.steps)
        if spec.name not in settled | begun
    ]
    of_former = {spec.name for spec in former.steps}
    idle = {name for name, state in states.items() if state not in SETTLED and state != Step.State.RUNNING}
    return Changes(
        swapped=tuple(planned for planned in needed if planned.spec.name in states),
        added=tuple(planned for planned in needed if planned.spec.name not in states),
        skipped=tuple(sorted(idle - of_former - {failed})),
    )


# --- How it went -----------------------------------------------------------------------------------------------------


def outcomes(*, workflow: str, succeeded: bool, steps: Iterable[Step]) -> Mapping[str, bool]:
    """What a run that has completed or failed says of each release it ended with: flag -> whether it did well.

    A workflow is judged by the run, an agent by its own steps, and not at all where none of them came to an end.
    """
    judged: dict[str, bool] = {}
    release = old_of("workflow", workflow)
    if release is not None:
        judged[release.flag] = succeeded
    for step in steps:
        release = old_of("agent", step.agent)
        if release is not None and step.state in (Step.State.COMPLETED, Step.State.FAILED):
            did_well = step.state == Step.State.COMPLETED
            judged[release.flag] = judged.get(release.flag, True) and did_well
    return judged


def record_outcomes(*, run_id: UUID, user_id: UUID, workflow: str, succeeded: bool) -> None:
    """Write down, in the transaction that ends a run, how the releases it ended with did."""
    if not any(releases):
        return
    steps = Step.objects.filter(run_id=run_id).only("agent", "state")
    for flag, did_well in outcomes(workflow=workflow, succeeded=succeeded, steps=steps).items():
        flags.record_outcome(flag, user_id=user_id, run_id=run_id, succeeded=did_well)


# --- At start-up -----------------------------------------------------------------------------------------------------


def validate_releases() -> None:
    """Look at every declaration once, at start-up, after `registry.validate`.

    Raises:
        BrokenRelease: says what is wrong with which one.
    """
    parts: dict[tuple[Kind, str], str] = {}
    for release in releases:
        _validate_names(release)
        for side in (release.old, release.new):
            if (release.kind, side) in parts:
                both = f"{parts[release.kind, side]!r} and {release.flag!r}"
                raise BrokenRelease(f"The {release.kind} {side!r} has a part in two places, of {both}; one at a time.")
            parts[release.kind, side] = release.flag
        if release.kind == "agent":
            _validate_hand_over(release, release.old, release.new)
            _validate_way_in(release)
        else:
            _validate_steps(release)


def _validate_names(release: Release) -> None:
    try:
        validate_slug(release.flag)
    except ValidationError:
        raise BrokenRelease(f"No flag can be named {release.flag!r}: use letters, digits, - and _.") from None
    if len(release.flag) > FLAG_LENGTH:
        raise BrokenRelease(f"The flag {release.flag!r} is longer than {FLAG_LENGTH} characters.")
    for side in (release.old, release.new):
        if side not in (agents if release.kind == "agent" else workflows):
            raise BrokenRelease(f"Release {release.flag!r} names the {release.kind} {side!r}, which does not exist.")


def _validate_way_in(release: Release) -> None:
    """Only the flag leads to a new agent: where a workflow names it, everybody would get it."""
    for workflow in workflows:
        if any(spec.agent == release.new for spec in workflow.steps):
            raise BrokenRelease(
                f"The workflow {workflow.name!r} names the agent {release.new!r}, which only the flag "
                f"{release.flag!r} may hand out; name {release.old!r} there."
            )


def _validate_steps(release: Release) -> None:
    """Where both workflows have a step, the former one must be able to go on from what the new one's hands over."""
    former = {spec.name: spec.agent for spec in workflows.get(release.old).steps}
    for spec in workflows.get(release.new).steps:
        if spec.name in former:
            _validate_hand_over(release, former[spec.name], spec.agent)


def _validate_hand_over(release: Release, old: str, new: str) -> None:
    promised, made = agents.get(old).artifact, agents.get(new).artifact
    if promised is not made:
        raise BrokenRelease(
            f"Release {release.flag!r}: {new} hands over a {made.__name__}, where {old} hands over a "
            f"{promised.__name__}; neither can stand in for the other."
        )
