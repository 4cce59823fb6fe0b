"""The fault catalogue: what is done to a house, and what is promised when it happens.

Every case works on real processes with real signals; what must hold after each of them is in `oracle.py`. A case
answers the seconds until the house had recovered, or None where there is nothing to recover from.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

from tests.faults.play import NOTHING, Asked, NothingHappened, Play
from tests.faults.scene import LIVING, POSTGRES, REDIS, WEB, moment
from tests.faults.script import Act, Script
from tests.houses import Person

Done = float | None

RUNG_WITHIN = 0.3  # seconds after a message was taken


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault. `within` is the promised time to recovery in seconds, None where none is promised."""

    number: str
    fault: str
    promise: str
    run: Callable[[Play], Done]
    within: float | None = None


CATALOGUE: dict[str, Case] = {}


def case(
    number: str, *, fault: str, promise: str, within: float | None = None
) -> Callable[[Callable[[Play], Done]], Callable[[Play], Done]]:
    """Enter a function into the catalogue."""

    def enter(run: Callable[[Play], Done]) -> Callable[[Play], Done]:
        CATALOGUE[number] = Case(number=number, fault=fault, promise=promise, run=run, within=within)
        return run

    return enter


# --- Processes -------------------------------------------------------------------------------------------------------


@case(
    "F1",
    fault="an agent worker is killed, with all it has started, in the middle of its calls",
    promise="another worker goes on within 7 s; what was journaled is not done again",
    within=7.0,
)
def a_worker_is_killed(play: Play) -> Done:
    play.crowd()
    victim = play.in_the_middle()["pid"]
    moment(play.random, 0.0, 0.2)
    killed_at = play.scene.kill(victim)
    play.finish()
    return play.seconds_to_recovery(killed_at)


@case(
    "F2",
    fault="the process that runs one tool is killed in the middle of it",
    promise="the run goes on within 7 s; the effect is not doubled",
    within=7.0,
)
def a_tool_process_is_killed(play: Play) -> Done:
    kind = ("idempotent", "queryable", "unsafe")[play.repeat % 3]
    asked = play.ask(Script(first=[Act(tool=kind, elsewhere=True, seconds=1.5)]))
    call = play.until(lambda: play.calls(asked), what="the tool is called")[0]
    if call["pid"] in play.scene.agent_workers():
        raise NothingHappened("the tool ran in the agent worker, not in a process of its own")
    moment(play.random, 0.0, 1.0)
    os.kill(call["pid"], signal.SIGKILL)
    killed_at = time.time()
    play.finish()
    again = [call["at"] for call in play.calls(asked) if call["at"] > killed_at]
    return min([*again, play.time_of(asked, after=killed_at)]) - killed_at


@case(
    "F3",
    fault="a worker is killed between a tool's effect and its entry in the journal",
    promise="an idempotent call is made again under the same key, one effect; of an unsafe one the person is told",
    within=7.0,
)
def effect_done_and_not_journaled(play: Play) -> Done:
    kind = ("idempotent", "unsafe", "queryable")[play.repeat % 3]
    with play.scene.points.held("tool.effect_done") as standing:
        asked = play.ask(Script(first=[Act(tool=kind)]))
        victim = play.until(standing, what="a process at the point tool.effect_done")
        moment(play.random, 0.0, 0.2)
        killed_at = play.scene.kill(victim)
    play.finish()
    made = play.calls(asked)
    expected = {"idempotent": 2, "queryable": 1, "unsafe": 1 + asked.answers.get("first-1", []).count("retry")}[kind]
    assert len(made) == expected, f"{kind}: the tool server was called {len(made)} times instead of {expected}"
    return play.seconds_to_recovery(killed_at)


@case(
    "F4",
    fault="a process is killed after it has committed and before it has told anybody",
    promise="every tab has the event within 5 s and a look; a message that was stored is answered",
    within=6.0,
)
def committed_and_not_told(play: Play) -> Done:
    return (_last_event_not_hinted, _event_not_hinted, _message_not_rung)[play.repeat % 3](play)


def _event_not_hinted(play: Play) -> float:
    """One in the middle: the hint of the next one gives away that there was one before."""
    asked = play.ask(Script(first=[Act(tool="pure", seconds=0.5)]))
    play.until(lambda: play.calls(asked), what="the tool is called")
    with play.scene.points.held("event.committed") as standing:
        victim = play.until(standing, what="a process at the point event.committed")
        held = len(play.events(asked))
        killed_at = play.scene.kill(victim)
    play.finish()
    spectator = play.steady_tab(asked.person)
    play.until(lambda: spectator.numbers(asked.thread) >= held, what="the tab is told of the event")
    return spectator.tab.came_at[asked.thread, held] - killed_at


def _last_event_not_hinted(play: Play) -> float:
    """The last event of all: no later one brings a hint that would give it away."""
    points = play.scene.points
    asked = play.ask(Script(last=[Act(tool="pure", seconds=0.5)]))
    play.until(lambda: play.calls(asked), what="the last step calls its tool")
    with contextlib.ExitStack() as settling:
        standing = settling.enter_context(points.held("step.settling"))
        play.until(standing, what="a process at the point step.settling")
        with points.held("event.committed") as committed:
            settling.close()
            victim = play.until(committed, what="a process at the point event.committed")
            held = len(play.events(asked))
            killed_at = play.scene.kill(victim)
    spectator = play.steady_tab(asked.person)
    play.until(lambda: spectator.numbers(asked.thread) >= held, what="the tab is told of the event")
    return spectator.tab.came_at[asked.thread, held] - killed_at


def _message_not_rung(play: Play) -> float:
    person = play.person("alice")
    thread = play.new_thread(person)
    key, text = uuid4().hex, NOTHING.as_text()
    with ThreadPoolExecutor(1) as sender, play.scene.points.held("run.committed") as standing:
        sent = sender.submit(play.send, person, thread, text, key=key)
        victim = play.until(standing, what="a process at the point run.committed")
        killed_at = play.scene.kill(victim)
        play.until(lambda: play.scene.house.pid_of(WEB) not in (None, victim), what="the web process is there again")
    asked = play.note(person, thread, sent.result())
    play.finish()
    return play.time_of(asked, "agent_started", after=killed_at) - killed_at


@case(
    "F6",
    fault="a worker is stopped (SIGSTOP) in the middle of a step, and woken while or after another does its work",
    promise="the other begins within 7 s; the woken one writes nothing",
    within=7.0,
)
def a_stopped_worker_wakes(play: Play) -> Done:
    return _wakes_beside_another(play) if play.repeat % 2 else _wakes_after_the_end(play)


def _wakes_after_the_end(play: Play) -> float:
    with play.scene.points.held("step.settling") as standing:
        asked = play.ask(Script(first=[Act(tool="idempotent", seconds=0.1)]))
        zombie = play.until(standing, what="a process at the point step.settling")
        os.kill(zombie, signal.SIGSTOP)
        stopped_at = time.time()
    try:
        play.finish()
        before = play.events(asked)
    finally:
        os.kill(zombie, signal.SIGCONT)
    _live_on(play, zombie)
    assert play.events(asked) == before, "the woken worker wrote an event"
    return play.seconds_to_recovery(stopped_at)


def _wakes_beside_another(play: Play) -> float:
    asked = play.ask(Script(first=[Act(tool="idempotent", seconds=2.0)] * 2))
    zombie = play.until(lambda: play.calls(asked), what="the tool is called")[0]["pid"]
    moment(play.random, 0.0, 1.0)
    os.kill(zombie, signal.SIGSTOP)
    stopped_at = time.time()
    try:
        play.until(lambda: len(play.calls(asked)) > 1, what="another worker makes the call again")
    finally:
        os.kill(zombie, signal.SIGCONT)
    _live_on(play, zombie)
    play.finish()
    late = [
        e for e in play.events(asked) if e["attempt"] == 1 and e["at"].timestamp() > stopped_at and e["step"] == "first"
    ]
    assert not late, f"the woken worker wrote {[event['type'] for event in late]}"
    return play.seconds_to_recovery(stopped_at)


def _live_on(play: Play, worker: int) -> None:
    """Wait until a worker that was woken has had the time to do harm."""
    woken_at = time.time()
    play.until(lambda: play.scene.beat_at(worker) > woken_at + 1.0, what="the woken worker lives on")


@case(
    "F24",
    fault="a run kills every worker that takes it up",
    promise="it fails as poisoned after 3 losses without progress; the runs of others complete",
)
def a_poisonous_run(play: Play) -> Done:
    begun_at = time.time()
    poison = play.ask(Script(first=[Act(then="die")]), ends=frozenset({"agent_error"}))
    for _ in range(3):
        play.ask(play.script(seconds=(0.05, 0.2), kinds=("pure", "idempotent")), person="bob")
        moment(play.random, 0.5, 2.0)
    play.finish(within=90.0)
    end = play.events(poison)[-1]
    assert end["data"]["code"] == "run.poisoned", f"it failed as {end['data']['code']}"
    return end["at"].timestamp() - begun_at


@case(
    "F25",
    fault="a step never gives its process back: an endless loop, or the interpreter's lock held",
    promise="others take the step over within 15 s, and the process is ended",
    within=15.0,
)
def a_step_that_hangs(play: Play) -> Done:
    hang, elsewhere = (("spin", False), ("hold", False), ("spin", True))[play.repeat % 3]
    act = Act(tool="brief" if elsewhere else None, elsewhere=elsewhere, then=hang, attempt=1)
    begun_at = time.time()
    asked = play.ask(Script(first=[act]))
    play.ask(play.script(kinds=("pure", "idempotent")), person="bob")
    play.ask(Script(first=[Act(tool="brief", seconds=4.0)]), person="carol")  # takes effect, and answers too late
    play.finish(within=90.0)
    if elsewhere:
        return play.time_of(asked, "tool_completed", after=begun_at) - begun_at
    return play.seconds_to_recovery(begun_at)


@case(
    "F32",
    fault="agent workers are told to quit at once (SIGQUIT), again and again, while they write",
    promise="every run ends once, with one set of events",
)
def cold_shutdowns(play: Play) -> Done:
    play.crowd(threads=4, seconds=(0.05, 0.3))
    for _ in range(1000 if play.nightly else 4):
        workers = play.until(play.scene.agent_workers, what="an agent worker")
        os.kill(play.random.choice(workers), signal.SIGQUIT)
        moment(play.random, 0.1, 1.0)
        play.scene.keep_workers()
        if play.nightly and play.random.random() < 0.1:
            play.finish()
            play.crowd(threads=1, seconds=(0.05, 0.3))
    quit_at = time.time()
    play.finish(within=90.0)
    return max(0.0, play.last_end() - quit_at)


# --- Redis and the doorbell ------------------------------------------------------------------------------------------


@case(
    "F7",
    fault="a ring is taken out of Redis by a worker that dies with it",
    promise="the run starts within 5 s all the same: another worker is rung again",
    within=5.0,
)
def a_ring_is_lost(play: Play) -> Done:
    person = play.person("alice")
    with play.scene.nothing_restarted(), play.scene.only_the_house_hears():
        hearing = play.scene.agent_workers()[0]
        moment(play.random, 1.5, 2.5)  # what the other one asked Redis for before ends after a second
        lost = play.until(lambda: _sent_to_a_frozen(play, hearing, person), what="a frozen worker takes a ring")
        killed_at = play.scene.kill(hearing)
    play.finish()
    return play.time_of(lost, "agent_started") - killed_at


def _sent_to_a_frozen(play: Play, worker: int, person: Person) -> Asked | None:
    """A run whose ring `worker`, which stands still, has taken out of Redis.

    A worker asks Redis for rings for a second at a time. Where that second was just over, it is woken to do the run.
    """
    thread = play.new_thread(person)
    os.kill(worker, signal.SIGSTOP)
    asked = play.note(person, thread, play.send(person, thread, NOTHING.as_text(), key=uuid4().hex))
    time.sleep(RUNG_WITHIN)
    if play.scene.redis.llen("agents") == 0 and "agent_started" not in play.kinds(asked):
        return asked
    os.kill(worker, signal.SIGCONT)
    play.finish()
    return None


@case(
    "F8",
    fault="one run is rung for twenty times at once",
    promise="it is executed once",
)
def many_rings(play: Play) -> Done:
    asked = play.ask(play.script(seconds=(0.0, 0.1)))
    play.scene.ring(asked.run, times=20)
    play.finish()
    attempts = {(event["step"], event["attempt"]) for event in play.events(asked) if event["step"]}
    assert attempts == {(step, 1) for step, _ in attempts}, f"steps were taken up again: {sorted(attempts)}"
    assert len(play.calls(asked)) == len({call["call"] for call in play.calls(asked)}), "a call was made twice"
    return None


@case(
    "F9",
    fault="Redis is killed while runs are under way, and comes back with its file at once or after 3 s",
    promise="nothing is lost; a message sent then is taken up within 15 s",
    within=15.0,
)
def redis_is_killed(play: Play) -> Done:
    thread = play.thread_of("late")
    play.crowd(seconds=(0.1, 0.4))
    play.in_the_middle(left=0.0)
    moment(play.random, 0.0, 1.0)
    with play.scene.nothing_restarted():
        os.kill(play.until(lambda: play.scene.house.pid_of(REDIS), what="Redis"), signal.SIGKILL)
        time.sleep(play.random.choice((0.0, 3.0, 30.0) if play.nightly else (0.0, 3.0)))
    return _taken_up_after(play, thread)


@case(
    "F10",
    fault="Redis loses everything (FLUSHALL), queue and all",
    promise="the queue is made again from the database; as F9",
    within=15.0,
)
def redis_is_wiped(play: Play) -> Done:
    thread = play.thread_of("late")
    play.crowd(seconds=(0.1, 0.4))
    for _ in range(3):
        moment(play.random, 0.0, 0.6)
        play.scene.redis.flushall()
    return _taken_up_after(play, thread)


def _taken_up_after(play: Play, thread: str) -> float:
    """Seconds until a run that is asked for now has started."""
    play.until(play.scene.redis_answers, what="Redis answers")
    back_at = time.time()
    late = play.ask(person="late", thread=thread)
    play.finish()
    return max(0.0, play.time_of(late, "agent_started") - back_at)


@case(
    "F11",
    fault="Redis stands still (SIGSTOP)",
    promise="messages are taken within 2 s all the same, and runs under way go on writing; the rest follows",
    within=2.0,
)
def redis_stands_still(play: Play) -> Done:
    thread = play.thread_of("bob")
    first = play.ask(Script(first=[Act(tool="idempotent", seconds=1.0)], left=[Act(tool="idempotent", seconds=1.0)]))
    play.until(lambda: play.calls(first), what="the tool is called")
    pid = play.until(lambda: play.scene.house.pid_of(REDIS), what="Redis")
    os.kill(pid, signal.SIGSTOP)
    stopped_at = time.time()
    try:
        play.ask(person="bob", thread=thread)
        taken_at = time.time()
        moment(play.random, *((20.0, 20.0) if play.nightly else (3.0, 6.0)))
    finally:
        os.kill(pid, signal.SIGCONT)
        back_at = time.time()
    written = [e for e in play.events(first) if stopped_at + 0.5 < e["at"].timestamp() < back_at]
    assert written, "the run that was under way wrote nothing while Redis stood still"
    play.finish()
    return taken_at - stopped_at


@case(
    "F12",
    fault="Redis is full (maxmemory, noeviction)",
    promise="messages are taken and runs under way complete; whatever is left starts within 15 s of room",
    within=15.0,
)
def redis_is_full(play: Play) -> Done:
    thread = play.thread_of("bob")
    first = play.ask(Script(first=[Act(tool="idempotent", seconds=1.0)], left=[Act(tool="idempotent", seconds=0.5)]))
    play.until(lambda: play.calls(first), what="the tool is called")
    play.scene.redis.config_set("maxmemory", "1mb")
    try:
        play.finish()
        waiting = play.ask(person="bob", thread=thread)
        moment(play.random, 1.0, 4.0)
    finally:
        play.scene.redis.config_set("maxmemory", "0")
        back_at = time.time()
    play.finish()
    return max(0.0, play.time_of(waiting, "agent_started") - back_at)


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@case(
    "F5",
    fault="the same message is sent twice at the same moment, and runs are cancelled twice at the same moment",
    promise="one run with one end, and numbers without a hole",
)
def the_same_twice(play: Play) -> Done:
    person = play.person("alice")
    twin = play.scene.second_session(person)
    with ThreadPoolExecutor(2) as both:
        for number in range(500 if play.nightly else 10):
            thread = play.new_thread(person)
            key, text = uuid4().hex, play.script(seconds=(0.0, 0.2)).as_text()
            runs = set(both.map(lambda who, t=thread, x=text, k=key: play.send(who, t, x, key=k), (person, twin)))
            assert len(runs) == 1, f"one message became {len(runs)} runs"
            asked = play.note(person, thread, runs.pop(), ends=frozenset({"agent_completed", "run_cancelled"}))
            if number % 2:
                moment(play.random, 0.0, 0.3)
                path = f"runs/{asked.run}/cancel/"
                answers = [a.status_code for a in both.map(lambda who, p=path: who.call("POST", p), (person, twin))]
                assert set(answers) <= {200, 409}, f"cancelled twice: {answers}"
                assert answers.count(200) <= 1, "the same run was cancelled twice"
    play.finish()
    return None


@case(
    "F13",
    fault="PostgreSQL is stopped in the middle of everything (immediate shutdown), and comes back",
    promise="no acknowledged event is lost, no effect doubled; messages are taken again within 15 s",
    within=15.0,
)
def postgresql_is_killed(play: Play) -> Done:
    longest = 0.0
    until = time.monotonic() + (600.0 if play.nightly and play.repeat % 50 == 0 else 1.0)
    while time.monotonic() < until:
        thread = play.thread_of("late")
        play.crowd()
        play.in_the_middle(left=0.0)
        moment(play.random, 0.0, 1.5)
        with play.scene.nothing_restarted():
            os.kill(play.until(lambda: play.scene.house.pid_of(POSTGRES), what="PostgreSQL"), signal.SIGQUIT)
            time.sleep(play.random.choice((0.0, 2.0)))
        killed_at = time.time()
        play.ask(person="late", thread=thread)
        longest = max(longest, time.time() - killed_at)
        play.finish(within=90.0)
    return longest


@case(
    "F14",
    fault="sessions of PostgreSQL are ended at random, ten a second",
    promise="nobody notices; what was committed and not confirmed is not done twice",
)
def sessions_are_ended(play: Play) -> Done:
    threads = [play.thread_of("late") for _ in range(10)]
    play.crowd()
    until = time.monotonic() + play.random.uniform(4.0, 7.0)
    while time.monotonic() < until:
        play.scene.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() "
            "and pid <> pg_backend_pid() and backend_type = 'client backend' order by random() limit 1"
        )
        if threads and play.random.random() < 0.15:
            play.ask(person="late", thread=threads.pop())
        time.sleep(0.1)
    ended_at = time.time()
    play.finish(within=90.0)
    return max(0.0, play.last_end() - ended_at)


@case(
    "F15",
    fault="every session that PostgreSQL allows is taken by somebody else",
    promise="whoever sends a message is told to come back (503, Retry-After); runs end when there is room again",
    within=15.0,
)
def no_session_left(play: Play) -> Done:
    thread = play.thread_of("late")
    person = play.person("late")
    play.scene.hear_everybody()
    play.crowd(threads=2)
    play.in_the_middle(left=0.0)
    with ThreadPoolExecutor(1) as sender:
        with play.scene.all_sessions_taken() as session:
            sent = sender.submit(play.send, person, thread, NOTHING.as_text(), key=uuid4().hex)
            moment(play.random, 6.0, 12.0)
            living = {pid for (pid,) in session.execute(LIVING)}
            assert living.issuperset(play.scene.agent_workers()), "a worker fell silent although it lives"
        free_at = time.time()
        play.note(person, thread, sent.result())
    play.finish()
    wrong = [a for a in play.refusals if a.status_code != 503 or "Retry-After" not in a.headers]
    assert not wrong, f"{person.email} was told {wrong[0].status_code} {wrong[0].text[:200]}"
    return max(0.0, play.last_end() - free_at)


# --- Many at once ----------------------------------------------------------------------------------------------------


@case(
    "F20",
    fault="tabs subscribe at the very moment of a run's first and last events",
    promise="each sees all of it",
)
def subscribing_races(play: Play) -> Done:
    people = [play.person(f"racer{number}") for number in range(4)]

    def race(person: Person, delays: list[float]) -> list[tuple[str, str]]:
        raced = []
        for delay in delays:
            thread = person.new_thread()
            if not delay:
                play.watch(person, thread)
            raced.append((thread, play.send(person, thread, NOTHING.as_text(), key=uuid4().hex)))
            if delay:
                time.sleep(delay)
                play.watch(person, thread)
        return raced

    for _ in range(60 if play.nightly else 1):
        delays = [[max(0.0, play.random.uniform(-0.2, 0.3)) for _ in range(15)] for _ in people]
        with ThreadPoolExecutor(len(people)) as racing:
            for person, raced in zip(people, racing.map(race, people, delays), strict=True):
                for thread, run in raced:
                    play.note(person, thread, run)
        play.finish()
    return None


@case(
    "F26",
    fault="one person asks for hundreds of runs at once",
    promise="the others wait no longer than twice what they wait alone, or a second; nobody has more than five running",
)
def a_flood(play: Play) -> Done:
    def waits(count: int) -> list[float]:
        found = []
        for _ in range(count):
            asked = play.ask(person="bob")
            play.until(lambda a=asked: play.kinds(a) & {"agent_completed"}, what="the run of the other ends")
            moments = {event["type"]: event["at"] for event in play.events(asked)}
            found.append((moments["agent_started"] - moments["run_queued"]).total_seconds())
        return sorted(found)

    alone = waits(10)
    flooder = play.person("flooder")
    threads = [play.new_thread(flooder) for _ in range(10)]
    flood = [
        play.ask(Script(first=[Act(seconds=0.5)]), person="flooder", thread=threads[number % len(threads)])
        for number in range(2000 if play.nightly else 80)
    ]
    beside = waits(10)
    if "agent_started" in play.kinds(flood[-1]):
        raise NothingHappened("the flood was over before the others had asked")
    longest = max(beside)
    assert longest <= max(2 * max(alone), 1.0), f"alone {max(alone):.3f} s at most, beside the flood {longest:.3f} s"
    play.finish(within=600.0 if play.nightly else 90.0)
    return longest


@case(
    "F28",
    fault="what a tool calls fails, is well again, and a worker is killed in the very call that tries it out",
    promise="2 s after five failures it is left alone, but for two tries at a time; runs wait, and go on within 30 s",
    within=30.0,
)
def a_dependency_fails(play: Play) -> Done:
    script = Script(first=[Act(tool="flaky", seconds=0.02)])
    threads = [(name, play.new_thread(play.person(name))) for name in ("flaky0", "flaky1", "flaky2") for _ in range(10)]
    play.scene.tools.fare("error")
    try:
        for name, thread in threads:
            play.ask(script, person=name, thread=thread)
            moment(play.random, 0.1, 0.2)
    finally:
        # Slow enough to be killed in, and not so slow that it counts as ill.
        play.scene.tools.fare("slow", 0.6)
        well_at = time.time()
    failures = [call["at"] for call in play.calls() if call["refused"]]
    tries = [at for at in failures if at > failures[4] + 2.0]
    assert len(tries) <= 4, f"{len(tries)} calls to something that was known to fail"
    if play.repeat % 2:
        trial = play.until(lambda: [c for c in play.calls() if c["at"] > well_at], what="somebody tries it out")[0]
        play.scene.kill(trial["pid"])
    play.scene.tools.fare("ok")
    play.finish(within=90.0)
    return play.last_end() - well_at
