"""Letting a tool do its work, wherever it runs: within its deadline, and with every failure turned into a result."""

import asyncio
import time
from functools import cache

import structlog
from django.db import InterfaceError, OperationalError
from pydantic import BaseModel

from apps.conversations.journal import Fenced
from apps.errors import NetraError
from apps.execution.calls import Result
from apps.execution.context import UserExecutionContext
from apps.execution.registry import Effect, Interruption, Tool
from apps.operations.breakers import breakers
from apps.operations.problems import new_support_id
from apps.resilience.breaker import CircuitBreaker, Permit
from apps.resilience.circuit import BreakerSettings

log = structlog.get_logger(__name__)


def breaker_of(tool: Tool) -> CircuitBreaker:
    """The breaker that all processes share for this tool."""
    return breakers().named(f"tool:{tool.name}", _breaker_settings(tool.slow_after))


@cache
def _breaker_settings(slow_after: float | None) -> BreakerSettings:
    return BreakerSettings(slow_seconds=slow_after)


async def run_tool(
    tool: Tool, context: UserExecutionContext, arguments: BaseModel, *, again: bool, permit: Permit
) -> Result:
    """Run `tool`; `again` says that an earlier attempt may have done so, which a queryable tool is asked first.

    `permit` is the breaker's, and told how it went; what is the caller's own mistake says nothing about the tool.

    Raises:
        Fenced, Interruption, OperationalError, InterfaceError: this attempt cannot go on; the call stays open.
    """
    began, seconds = time.monotonic(), min(tool.deadline, context.seconds_left)
    try:
        async with asyncio.timeout(seconds) as deadline:
            result = _succeeded(tool, await _work(tool, context, arguments, again=again))
        permit.succeeded(time.monotonic() - began)
    except (Fenced, Interruption, OperationalError, InterfaceError, asyncio.CancelledError):
        permit.released()
        raise
    except NetraError as error:
        if error.retryable:
            permit.failed(time.monotonic() - began, error)
        else:
            permit.released()
        result = _failed(error.code, error.detail)
    except MemoryError:
        permit.released()
        result = _broken_off(tool, "tool.memory", f"{tool.name} needs more memory than a tool may have")
    except Exception as error:
        if deadline.expired() and seconds < tool.deadline:
            permit.released()  # the step's time was over, not the tool's
        else:
            permit.failed(time.monotonic() - began, error)
        result = _overdue(tool, seconds) if deadline.expired() else _broken(tool, error)
    return result


async def _work(tool: Tool, context: UserExecutionContext, arguments: BaseModel, *, again: bool) -> BaseModel:
    if again and tool.effect == Effect.QUERYABLE and tool.query is not None:
        found = await tool.query(context, arguments)
        if found is not None:
            return found
    return await tool.run(context, arguments)


def _succeeded(tool: Tool, result: BaseModel) -> Result:
    return Result(status="succeeded", result=result.model_dump(mode="json"), summary=tool.summarize(result))


def _overdue(tool: Tool, seconds: float) -> Result:
    return _broken_off(tool, "tool.deadline", f"{tool.name} did not answer within {max(seconds, 0.0):.1f} s")


def _broken(tool: Tool, error: Exception) -> Result:
    support_id = new_support_id()
    log.error("Tool failed", tool=tool.name, support_id=support_id, exc_info=error)
    return _broken_off(tool, "tool.failed", f"{tool.name} failed; support id {support_id}")


def _broken_off(tool: Tool, code: str, said: str) -> Result:
    """Only the tool itself could say, by a NetraError, that nothing has happened outside."""
    if tool.effect == Effect.PURE:
        return _failed(code, f"{said}.")
    return Result(status="unknown", code=code, summary=f"{said}; whether it took effect is not known.")


def _failed(code: str, summary: str) -> Result:
    return Result(status="failed", code=code, summary=summary)
