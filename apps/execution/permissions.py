"""Whether a tool may be called: one ruling out of several layers, each of which can only take away."""

from dataclasses import dataclass
from enum import StrEnum

from apps.accounts.models import Plan
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Tool

_PLANS = [Plan.Code.FREE, Plan.Code.EARLY, Plan.Code.MID, Plan.Code.ENTERPRISE]


class Verdict(StrEnum):
    ALLOWED = "allowed"
    DENIED = "denied"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    INSUFFICIENT_PLAN = "insufficient_plan"
    APPROVAL_NEEDED = "approval_needed"


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """A verdict, and a sentence for the agent and the person where it is not `allowed`."""

    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Tool calls that the user has made already, and how many their plan allows."""

    last_minute: int
    last_day: int
    per_minute: int
    per_day: int


_ALLOWED = Ruling(verdict=Verdict.ALLOWED)


def may_use(context: UserExecutionContext, tool: Tool) -> Ruling:
    """Whether the user may use the tool at all: role, operators' tools, plan."""
    if tool.operators_only and not context.operator:
        return Ruling(verdict=Verdict.DENIED, reason=f"{tool.name} is for operators.")
    if not context.principal.may(tool.role):
        return Ruling(verdict=Verdict.DENIED, reason=f"{tool.name} needs the role {tool.role}.")
    if _PLANS.index(Plan.Code(context.principal.plan)) < _PLANS.index(Plan.Code(tool.plan)):
        return Ruling(verdict=Verdict.INSUFFICIENT_PLAN, reason=f"{tool.name} needs the plan {tool.plan}.")
    return _ALLOWED


def may_call(tool: Tool, spent: Spent, *, approved: bool) -> Ruling:
    """Whether this one call may be made now: rate and quota of the plan, and a person's leave where it is needed."""
    if spent.last_minute >= spent.per_minute:
        said = f"{spent.last_minute} tool calls in the last minute; the plan allows {spent.per_minute}."
        return Ruling(verdict=Verdict.RATE_LIMITED, reason=said)
    if spent.last_day >= spent.per_day:
        said = f"{spent.last_day} tool calls in the last 24 hours; the plan allows {spent.per_day}."
        return Ruling(verdict=Verdict.QUOTA_EXCEEDED, reason=said)
    if tool.needs_approval and not approved:
        return Ruling(verdict=Verdict.APPROVAL_NEEDED, reason=f"{tool.name} needs somebody's leave.")
    return _ALLOWED
