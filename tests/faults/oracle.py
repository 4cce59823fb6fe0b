"""What must hold after every fault, whatever the fault was. Each check answers the violations that it finds.

I1  no gap, no duplicate, the same content in every client, over REST and in the table
I2  every effect exactly once, or shown as `unknown`
I3  every run terminal, as its case expects, and nothing of it left open
I4  never more running runs of a user than the plan allows
I5  nothing leaked: connections, sessions, locks, processes
I6  nobody was told anything of a run that they may not read
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from tests.faults.play import Asked, Play
from tests.faults.scene import Scene
from tests.socket_client import TERMINAL, Refused

CAP = 5  # running runs of one user, in the plan that everybody signs up to
CATCH_UP = 12.0  # seconds for every tab to be told everything: two position checks
EACH_PROCESS = 17  # sessions: its pool, and one for its beat
THREADS_OF_A_PROCESS, FILES_OF_A_PROCESS = 80, 200
OPENED, CLOSED = (
    {"step_started": "step", "tool_executing": "call"},
    {"step_completed": "step", "tool_completed": "call"},
)
FINISHED = {"agent_completed": "completed", "agent_error": "failed", "run_cancelled": "cancelled"}
EVENT_FIELDS = ("type", "run", "seq", "at", "step", "attempt", "data")

Event = dict[str, Any]


def examine(play: Play) -> list[str]:
    """Everything that is wrong after a case."""
    stored = {thread: stored_events(play.scene, thread) for thread in {asked.thread for asked in play.asked}}
    return [
        *check_clients(play, stored),
        *check_numbers(stored),
        *check_effects(play, stored),
        *check_ends(play, stored),
        *check_cap(play),
        *check_privacy(play),
        *check_sessions(play.scene),
    ]


def stored_events(scene: Scene, thread: str) -> list[Event]:
    """The table's rows of a thread, in the shape that clients are told."""
    rows = scene.rows(
        "select type, run_id::text as run, seq, at, step, attempt, data from conversations_event "
        "where thread_id = %(thread)s order by seq",
        thread=thread,
    )
    return [as_told(thread, row) for row in rows]


def as_told(thread: str, row: Event) -> Event:
    at: datetime = row["at"]
    told = {"type": row["type"], "thread": thread, "run": row["run"], "seq": row["seq"], "data": row["data"]}
    told["at"] = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return told if row["step"] is None else told | {"step": row["step"], "attempt": row["attempt"]}


# --- I1 --------------------------------------------------------------------------------------------------------------


def check_clients(play: Play, stored: dict[str, list[Event]]) -> Iterator[str]:
    """Every tab and REST tell what the table holds."""
    deadline = time.monotonic() + CATCH_UP
    for asked in {asked.thread: asked for asked in play.asked}.values():
        events = stored[asked.thread]
        told = asked.person.call("GET", f"threads/{asked.thread}/events/").json()
        yield from differences(f"I1 REST, thread {asked.thread}", told["events"], events)
        for spectator in play.spectators:
            if spectator.person is not asked.person:
                continue
            while spectator.numbers(asked.thread) < len(events) and time.monotonic() < deadline:
                time.sleep(0.05)
            seen = list(spectator.tab.events.get(asked.thread, ()))
            kind = "restless tab" if spectator.restless else "tab"
            yield from differences(f"I1 {kind} of {spectator.person.email}, thread {asked.thread}", seen, events)


def differences(where: str, seen: list[Event], events: list[Event]) -> Iterator[str]:
    """How what was seen differs from what is stored."""
    if seen == events:
        return
    numbers, right = [event["seq"] for event in seen], [event["seq"] for event in events]
    if numbers != right:
        yield f"{where}: saw {numbers} instead of 1 to {len(right)}"
    else:
        wrong = next((a, b) for a, b in zip(seen, events, strict=True) if a != b)
        yield f"{where}: was told {wrong[0]}, stored is {wrong[1]}"


def check_numbers(stored: dict[str, list[Event]]) -> Iterator[str]:
    """Numbers without holes; every run opens once, closes what it opened, ends once, and says nothing afterwards."""
    for thread, events in stored.items():
        if [event["seq"] for event in events] != list(range(1, len(events) + 1)):
            yield f"I1 table, thread {thread}: numbers {[event['seq'] for event in events]}"
        runs: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            runs[event["run"]].append(event)
        for run, own in runs.items():
            yield from (f"I1 run {run}: {problem}" for problem in check_story(own))


def check_story(events: list[Event]) -> Iterator[str]:
    """The rules of the event contract for one run."""
    kinds = [event["type"] for event in events]
    if kinds[:2] != ["message_created", "run_queued"] or kinds.count("run_queued") != 1:
        yield f"it begins with {kinds[:2]}"
    if kinds.count("agent_started") > 1:
        yield "agent_started was said twice"
    if sum(kind in TERMINAL for kind in kinds) > 1 or any(kind in TERMINAL for kind in kinds[:-1]):
        yield f"something follows its terminal event: {kinds}"
    if kinds[-1] in TERMINAL and events[-1]["data"]["final_seq"] != events[-1]["seq"]:
        yield f"final_seq is {events[-1]['data']['final_seq']}, its own number is {events[-1]['seq']}"
    opened = Counter(_opening(event, OPENED) for event in events if event["type"] in OPENED)
    closed = Counter(_opening(event, CLOSED) for event in events if event["type"] in CLOSED)
    yield from (f"{name} was opened {times} times" for name, times in opened.items() if times > 1)
    if kinds[-1] in TERMINAL and opened != closed:
        yield f"opened and closed differ: {sorted((opened - closed) + (closed - opened))}"


def _opening(event: Event, names: dict[str, str]) -> tuple[str, str]:
    """What a paired event is about: a step, or a call of a step."""
    call = event["data"].get("call", "") if names[event["type"]] == "call" else ""
    return str(event["step"]), call


# --- I2 --------------------------------------------------------------------------------------------------------------


def check_effects(play: Play, stored: dict[str, list[Event]]) -> Iterator[str]:
    """The tool server's record against what the events claim."""
    runs = {asked.run: asked for asked in play.asked}
    calls: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for call in play.calls():
        if call["run"] in runs:
            calls[call["run"], call["call"]].append(call)
    endings = {
        (event["run"], event["data"]["call"]): event
        for events in stored.values()
        for event in events
        if event["type"] == "tool_completed"
    }
    for (run, call), made in calls.items():
        problems = check_call(made, endings.get((run, call)), runs[run].answers.get(call, []), shown(runs[run], stored))
        yield from (f"I2 run {run}, call {call} ({made[0]['kind']}): {problem}" for problem in problems)
    for (run, call), ending in endings.items():
        if ending["data"]["status"] == "succeeded" and (run, call) not in calls:
            yield f"I2 run {run}, call {call}: told as succeeded, and the tool server never heard of it"


def shown(asked: Asked, stored: dict[str, list[Event]]) -> set[str]:
    """The calls of a run that its person was told to be unknown."""
    own = [event for event in stored[asked.thread] if event["run"] == asked.run]
    return {
        event["data"]["call"]
        for event in own
        if (event["type"] == "tool_completed" and event["data"]["status"] == "unknown")
        or (event["type"] == "approval_requested" and event["data"]["reason"] == "unknown_effect")
    }


def check_call(
    made: list[dict[str, Any]], ending: Event | None, answers: list[str], unknown: set[str]
) -> Iterator[str]:
    """One call: `made` is what the tool server heard of it, `ending` how the house said it ended."""
    effects, kind, call = sum(each["effect"] for each in made), made[0]["kind"], made[0]["call"]
    if len({each["key"] for each in made}) > 1 and kind != "pure":
        yield f"it was called under {len({each['key'] for each in made})} keys"
    if ending is None:
        yield "it was made, and no event closes it"
        return
    status = ending["data"]["status"]
    if effects > 1 + answers.count("retry"):
        yield f"{effects} effects"
    if kind in ("unsafe", "brief") and len(made) > 1 + answers.count("retry"):
        yield f"called {len(made)} times without being asked to"
    if status == "succeeded" and not effects and kind != "pure":
        yield "told as succeeded, and it had no effect"
    if effects and status not in ("succeeded", "unknown") and call not in unknown:
        yield f"it had its effect, and was told as {status}"
    # What was cut off was under way, and may come to the tool server a moment later: once.
    under_way = int(status == "unknown")
    over = datetime.fromisoformat(ending["at"]).timestamp() + 0.001
    if any(each["at"] > over for each in sorted(made, key=lambda each: float(each["at"]))[under_way:]):
        yield "it was called again after its result was journaled"


# --- I3 --------------------------------------------------------------------------------------------------------------


def check_ends(play: Play, stored: dict[str, list[Event]]) -> Iterator[str]:
    """Every run ended as its case expects, in its row as in its events, and nothing of it is open."""
    ids = [asked.run for asked in play.asked]
    states = {row["id"]: row["state"] for row in _of_runs(play, "select id::text, state from conversations_run", "id")}
    for asked in play.asked:
        ends = [e for e in stored[asked.thread] if e["run"] == asked.run and e["type"] in TERMINAL]
        if len(ends) != 1 or ends[0]["type"] not in asked.ends:
            said = [(end["type"], end["data"].get("code"), end["data"].get("detail")) for end in ends]
            yield f"I3 run {asked.run}: ended with {said or 'nothing'} instead of {sorted(asked.ends)}"
        elif states.get(asked.run) != FINISHED[ends[0]["type"]]:
            yield f"I3 run {asked.run}: its row says {states.get(asked.run)}, its last event {ends[0]['type']}"
    for row in _of_runs(play, "select run_id::text, name, state from conversations_step", "run_id"):
        if row["state"] not in ("completed", "failed", "skipped"):
            yield f"I3 run {row['run_id']}: step {row['name']} is left {row['state']}"
    for row in _of_runs(play, "select run_id::text, call, state from conversations_toolcall", "run_id"):
        if row["state"] in ("intended", "started"):
            yield f"I3 run {row['run_id']}: call {row['call']} is left {row['state']}"
    for row in play.scene.rows(
        "select id::text from conversations_thread where live_run = any(%(ids)s::uuid[])", ids=ids
    ):
        yield f"I3 thread {row['id']}: an ended run still holds it"


def _of_runs(play: Play, query: str, column: str) -> list[dict[str, Any]]:
    return play.scene.rows(f"{query} where {column} = any(%(runs)s::uuid[])", runs=[asked.run for asked in play.asked])


# --- I4 --------------------------------------------------------------------------------------------------------------


def check_cap(play: Play) -> Iterator[str]:
    """From the times at which runs started, waited, went on and ended."""
    by_person: dict[str, list[str]] = defaultdict(list)
    for asked in play.asked:
        by_person[asked.person.email].append(asked.run)
    for email, runs in by_person.items():
        # Milliseconds, as clients are told, would let an end and the start that it makes room for change places.
        events = play.scene.rows(
            "select run_id::text as run, type, at, seq, data from conversations_event "
            "where run_id = any(%(runs)s::uuid[])",
            runs=runs,
        )
        if (most := most_at_once(events)) > CAP:
            yield f"I4 {email}: {most} runs at once"


def most_at_once(events: list[Event]) -> int:
    """The largest number of running runs, told from the events of one user.

    A run that waits, for a person or for something that is out of order, leaves its place until it says more.
    """
    running: set[str] = set()
    waiting: set[str] = set()
    most = 0
    for event in sorted(events, key=lambda event: (event["at"], event["seq"])):
        run, kind = event["run"], event["type"]
        postponed = kind == "agent_thinking" and event["data"]["thought"].startswith("Waiting ")
        if kind in TERMINAL or kind in ("approval_requested", "data_requested") or postponed:
            running.discard(run)
            waiting = waiting - {run} if kind in TERMINAL else waiting | {run}
        elif kind == "agent_started" or (run in waiting and kind != "answer_received"):
            waiting.discard(run)
            running.add(run)
        most = max(most, len(running))
    return most


_OVER_THE_CAP = """
select user_id, count(*) from conversations_run where state = 'running' group by user_id having count(*) > %s
"""


class CapWatch:
    """Looks again and again, while faults happen, at how many runs of each user the table calls running."""

    def __init__(self, database_url: str) -> None:
        self.violations: list[str] = []
        self._url = database_url
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cap watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.2):
            try:
                with psycopg.connect(self._url, autocommit=True) as connection:
                    self._look(connection)
            except psycopg.OperationalError:
                continue  # away, or full: that is what some faults are about

    def _look(self, connection: "psycopg.Connection[Any]") -> None:
        while not self._stopped.wait(0.1):
            for user, count in connection.execute(_OVER_THE_CAP, [CAP]):
                self.violations.append(f"I4 user {user}: {count} running runs in the table")


# --- I5 --------------------------------------------------------------------------------------------------------------


def check_sessions(scene: Scene) -> Iterator[str]:
    """No session idles in a transaction, and nobody waits for a lock."""
    for row in scene.rows(
        "select pid, state, query from pg_stat_activity where datname = current_database() "
        "and backend_type = 'client backend' and xact_start < clock_timestamp() - interval '5 seconds'"
    ):
        yield f"I5 session {row['pid']} ({row['state']}) has been in a transaction for more than 5 s: {row['query']}"


def check_leaks(scene: Scene) -> Iterator[str]:
    """At the end of a house: sessions, threads and open files within what its processes may hold."""
    pids = [int(pid) for pid in scene.pids()]
    sessions = scene.rows(
        "select count(*) as number from pg_stat_activity where datname = current_database() "
        "and backend_type = 'client backend'"
    )[0]["number"]
    if sessions > EACH_PROCESS * len(pids):
        yield f"I5 {sessions} sessions of {len(pids)} processes"
    for pid in pids:
        folder = Path(f"/proc/{pid}")
        if not folder.exists():
            continue
        threads, files = len(list((folder / "task").iterdir())), len(list((folder / "fd").iterdir()))
        if threads > THREADS_OF_A_PROCESS or files > FILES_OF_A_PROCESS:
            yield f"I5 process {pid} has {threads} threads and {files} open files"


# --- I6 --------------------------------------------------------------------------------------------------------------


def check_privacy(play: Play) -> Iterator[str]:
    """Every tab saw its own person's runs only, and a stranger sees none."""
    owners = {asked.run: asked.person.email for asked in play.asked}
    for spectator in play.spectators:
        told = {event["run"] for events in spectator.tab.events.values() for event in events}
        for run in told:
            if owners.get(run) != spectator.person.email:
                yield f"I6 {spectator.person.email} was told of run {run} of {owners.get(run, 'somebody else')}"
    stranger = play.scene.person("stranger")
    asked = play.random.choice(play.asked)
    for path in (f"threads/{asked.thread}/events/", f"runs/{asked.run}/"):
        if (status := stranger.call("GET", path).status_code) != 404:
            yield f"I6 a stranger's GET {path} is answered {status}"
    tab = stranger.tab()
    try:
        tab.subscribe(asked.thread)
        yield f"I6 a stranger may follow thread {asked.thread}"
    except Refused:
        pass
    finally:
        tab.close()
