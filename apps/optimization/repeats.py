"""Calls that ask the same again: what makes two of them the same, whose they are, whose answer serves which."""

from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.optimization.calls import Calls
from apps.optimization.prefix.replay import Floats, Integers, compiled

# What decides an answer beside the prompt: the model, where it runs, and its parameters.
SETTING = "model, provider, parameters_hash, temperature, tools"
SAME = f"hash(prompt_hash, {SETTING})"  # two calls are the same if all that decides the answer is
# Whose a call is: nobody else may get its answer. NULL where the call names no user, no session and no trace.
OWNER = """CASE WHEN "user" IS NOT NULL THEN hash('user', "user") WHEN session IS NOT NULL THEN hash('session', session)
    WHEN trace_id IS NOT NULL THEN hash('trace', trace_id) END"""
# An answer that was cut short is not complete, and a failure is none.
COMPLETE = """status IS DISTINCT FROM 'failed'
    AND coalesce(lower(finish_reason) NOT IN ('length', 'max_tokens', 'max_output_tokens'), true)"""
# What another call's answer takes away from a call: nothing, variety, or what the tools do.
PLAIN, WARM, TOOLS = 0, 1, 2
KIND = f"(CASE WHEN tools THEN {TOOLS} WHEN temperature > 0 THEN {WARM} ELSE {PLAIN} END)::UTINYINT"
APART = {WARM: "temperature above 0", TOOLS: "tools offered"}
NOBODY = -1


def served_by(same: NDArray[Any], at: Floats, usable_at: Floats, until: Floats, kept: NDArray[np.bool_]) -> Integers:
    """For each call the place of the one whose answer serves it, NOBODY where it has to ask; all arrays (calls,).

    The calls are in the order of `same` and then `at`. Of each kind of call one answer is held: the first that can be
    used (from after `usable_at` on) of those that are worth keeping (`kept`). It serves every call that starts until
    `until`, which renews nothing; the first call after that asks again. A call that starts before the answer can be
    used asks too.
    """
    if not len(at):
        return np.zeros(0, np.int64)
    found: Integers = compiled(_loop)(same, at, usable_at, until, kept)
    return found


def _loop(same: Any, at: Floats, usable_at: Floats, until: Floats, kept: Any) -> Integers:
    found = np.full(len(at), -1, np.int64)
    held = -1
    for call in range(len(at)):
        if call == 0 or same[call] != same[call - 1]:
            held = -1
        if held < 0 or at[call] > until[held]:
            if kept[call]:
                held = call
        elif at[call] > usable_at[held]:
            found[call] = held
        elif kept[call] and usable_at[call] < usable_at[held]:
            held = call
    return found


def taken_for_granted(calls: Calls, counted: str, named: str) -> tuple[str, ...]:
    """What the calls of the table `counted` do not say and KIND takes for granted, with how many they are."""
    whole, warmth, tools = calls.row(
        f"""SELECT count(*), count(*) FILTER (temperature IS NULL), count(*) FILTER (tools IS NULL)
            FROM calls JOIN {counted} USING ("call")"""  # noqa: S608
    )
    said = (
        (warmth, "do not tell their temperature; it is taken for 0"),
        (tools, "do not tell whether they offer tools; they are taken to offer none"),
    )
    return tuple(f"{silent:,} of {whole:,} {named} {what}." for silent, what in said if silent)


def look_up_seconds(calls: Calls) -> tuple[float, bool]:
    """How long an answer from a cache takes, and whether that was measured: the median of the answers that the
    caller's own cache gave, else an assumed LOOK_UP."""
    (measured,) = calls.row(
        """SELECT median(epoch(ended_at) - epoch(started_at)) FROM calls
           WHERE cached_answer AND status IS DISTINCT FROM 'failed' AND ended_at IS NOT NULL"""
    )
    return (LOOK_UP, False) if measured is None else (round(float(measured), 6), True)


LOOK_UP = 0.05  # seconds; a store on the same network answers in a few milliseconds


def forever(seconds: float | None) -> float:
    """Seconds that an answer is kept, infinite where it is kept for good."""
    return inf if seconds is None else seconds


def exact_sum(costs: NDArray[np.int64]) -> int:
    """The sum of pico-dollars, also where it is beyond 64 bits."""
    return int((costs // 10**9).sum()) * 10**9 + int((costs % 10**9).sum())
