"""The journal: facts of a thread, numbered 1, 2, 3 ... without gaps, stored before they are told.

Every writer appends in one statement that takes the thread's next numbers and inserts the events, so that counter and
rows share a transaction: a rollback takes both back. Hints leave after the commit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from apps.errors import NetraError
from apps.operations.database import storable
from apps.operations.debug_points import point
from apps.realtime import notifier
from apps.realtime.schema import TERMINAL, event_data
from apps.statements import fetch

Envelope = dict[str, Any]


class Fenced(NetraError):
    """Somebody else holds the step now, or the run has ended: whatever the writer still wants to say is stale."""

    code = "step.fenced"


@dataclass(frozen=True, kw_only=True)
class Fence:
    """What entitles a worker to write for a step: this attempt of it, and no other."""

    thread: UUID
    run: UUID
    step: str
    attempt: int


@dataclass(frozen=True)
class Fact:
    """An event before it has a number."""

    type: str
    data: Mapping[str, Any]


Entry = tuple[Fact, str, int]  # a fact of a step, with the step's name and attempt


# The fence is locked, not joined: a plain join re-reads only the row it locks and lets stale attempts through.
_FENCE = """fence as materialized (
    select run_id from conversations_step
    where run_id = %(run)s and name = %(step)s and attempt = %(attempt)s and state = 'running'
    for no key update
)"""
_LIVE = "and thread.live_run = %(run)s"


def _numbering(*, first: str = "", source: str = "", condition: str = "", live: str = "") -> str:
    """The part of the statement that takes the thread's next numbers; `live` lets one run write, or none any more."""
    change = f", live_run = {live}" if live else ""
    return f"""with {first}numbered as (
    update conversations_thread thread
    set last_seq = last_seq + %(count)s, updated_at = clock_timestamp(){change}
    {source} where thread.id = %(thread)s {condition}
    returning thread.last_seq
)"""  # noqa: S608  # fixed parts only


_BY_STEP = _numbering(first=f"{_FENCE}, ", source="from fence", condition="and thread.live_run = fence.run_id")
_BY_LIVE_RUN = _numbering(condition=_LIVE)
_BY_LIVE_RUN_ENDING = _numbering(condition=_LIVE, live="null")
_BEGINNING = _numbering(condition="and thread.live_run is null", live="%(run)s")
_BY_THREAD = _numbering()
_HOLD = f"""with {_FENCE}
select thread.id from conversations_thread thread join fence on thread.live_run = fence.run_id
where thread.id = %(thread)s for no key update of thread"""  # noqa: S608  # fixed parts only
_INSERT = """
insert into conversations_event (thread_id, seq, run_id, step, attempt, type, data, at)
select %(thread)s, numbered.last_seq - %(count)s + fact.place, %(run)s, fact.step, fact.attempt, fact.type,
    case when fact.type = any(%(terminal)s)
         then fact.data || jsonb_build_object('final_seq', numbered.last_seq - %(count)s + fact.place)
         else fact.data end,
    clock_timestamp()
from numbered, unnest(%(types)s::text[], %(datas)s::text[]::jsonb[], %(steps)s::text[], %(attempts)s::int[])
    with ordinality as fact(type, data, step, attempt, place)
returning seq, step, attempt, type, data, at
"""
_READ = """
select run_id, seq, step, attempt, type, data, at from conversations_event
where thread_id = %(thread)s and seq > %(after)s order by seq limit %(limit)s
"""


def hold(fence: Fence) -> None:
    """Lock the step and its thread, in the one order that everybody keeps, until the transaction ends.

    Raises:
        Fenced: the attempt is stale or the run is not live any more.
    """
    held = {"thread": fence.thread, "run": fence.run, "step": fence.step, "attempt": fence.attempt}
    if not fetch(_HOLD, held):
        raise Fenced(f"Run {fence.run} is not {fence} any more.")


def lock_thread(thread: UUID) -> None:
    """Lock a thread until the transaction ends, as everybody does first who changes what is not their own step.

    Raises:
        Fenced: the thread does not exist any more.
    """
    if not fetch("select id from conversations_thread where id = %(thread)s for no key update", {"thread": thread}):
        raise Fenced(f"Thread {thread} is gone.")


def append(fence: Fence, *facts: Fact) -> list[Envelope]:
    """Append facts of a step that is held under `fence`.

    Raises:
        Fenced: the attempt is stale or the run is not live any more; nothing was stored.
        MalformedEvent: a fact does not fit the contract; nothing was stored.
    """
    return _append(
        _BY_STEP,
        thread=fence.thread,
        run=fence.run,
        facts=[(fact, fence.step, fence.attempt) for fact in facts],
        fence=fence,
    )


def append_to_run(*, thread: UUID, run: UUID, facts: Sequence[Fact | Entry]) -> list[Envelope]:
    """Append facts of the live run of a thread; a fact of a step comes with the step's name and attempt.

    A terminal fact, which must be the last, ends the run: no step of it can write any more.

    Raises:
        Fenced: the run is not the live one; nothing was stored.
    """
    entries = [fact if isinstance(fact, tuple) else (fact, None, None) for fact in facts]
    ends = entries[-1][0].type in TERMINAL
    return _append(_BY_LIVE_RUN_ENDING if ends else _BY_LIVE_RUN, thread=thread, run=run, facts=entries)


def begin_run(*, thread: UUID, run: UUID, started: Fact) -> None:
    """Make a run the live one of its thread, and say so.

    Raises:
        Fenced: another run is live.
    """
    _append(_BEGINNING, thread=thread, run=run, facts=[(started, None, None)])


def append_to_thread(*, thread: UUID, run: UUID, facts: Sequence[Fact]) -> list[Envelope]:
    """Append facts of a run that is queued: nobody else writes for it, whoever may be live.

    Raises:
        Fenced: the thread does not exist any more.
    """
    return _append(_BY_THREAD, thread=thread, run=run, facts=[(fact, None, None) for fact in facts])


def _append(
    numbering: str,
    *,
    thread: UUID,
    run: UUID,
    facts: Sequence[tuple[Fact, str | None, int | None]],
    fence: Fence | None = None,
) -> list[Envelope]:
    datas = [_checked(fact) for fact, _, _ in facts]
    parameters: dict[str, Any] = {
        "thread": thread,
        "run": run,
        "count": len(facts),
        "types": [fact.type for fact, _, _ in facts],
        "datas": datas,
        "steps": [step for _, step, _ in facts],
        "attempts": [attempt for _, _, attempt in facts],
        "terminal": sorted(TERMINAL),
        "step": fence.step if fence else None,
        "attempt": fence.attempt if fence else None,
    }
    rows = sorted(fetch(numbering + _INSERT, parameters))
    if not rows:
        raise Fenced(f"Run {run} is not {fence or 'the live run'} any more.")
    stored = [_envelope(thread, run, *row) for row in rows]
    transaction.on_commit(lambda: _tell(thread, stored), robust=True)
    return stored


def _tell(thread: UUID, events: Sequence[Envelope]) -> None:
    point("event.committed")
    notifier.publish_events(thread_id=thread, events=events)


def _checked(fact: Fact) -> str:
    """The fact's data as JSON; a terminal's own number is filled in by the statement that gives it."""
    said = storable(fact.data)
    if fact.type in TERMINAL:
        data = event_data(fact.type, {**said, "final_seq": 0})
        del data["final_seq"]
    else:
        data = event_data(fact.type, said)
    return json.dumps(data)


def read(*, thread: UUID, after: int, limit: int) -> list[Envelope]:
    """At most `limit` events of a thread numbered above `after`, in order."""
    rows = fetch(_READ, {"thread": thread, "after": after, "limit": limit})
    return [_envelope(thread, row[0], *row[1:]) for row in rows]


def _envelope(
    thread: UUID, run: UUID, seq: int, step: str | None, attempt: int | None, type_: str, data: Any, at: datetime
) -> Envelope:
    envelope: Envelope = {"type": type_, "thread": str(thread), "run": str(run), "seq": seq, "at": instant(at)}
    if step is not None:
        envelope |= {"step": step, "attempt": attempt}
    return envelope | {"data": json.loads(data)}


def instant(at: datetime) -> str:
    """A time as the wire writes it: `2026-01-31T12:00:00.000Z`."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
