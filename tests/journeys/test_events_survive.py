"""Events reach the browser in order, without gap or double, whatever happens to sockets and processes."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

import pytest
import redis
from websockets.exceptions import ConnectionClosed

from apps.agents.team.data import TOOLS
from tests.houses import House, Person, becomes
from tests.socket_client import TERMINAL, Recorder, Refused

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("house")]

WEB = "netra.asgi"
AGENTS = "-Q agents"
CALLS = b"""timestamp,model,prompt_tokens,completion_tokens,feature
2026-01-01T00:00:00Z,gpt-4o,1000000,0,search
2026-01-01T00:01:00Z,gpt-4o-mini,1000000,0,summary
"""


@pytest.fixture
def tab(alice_there):
    tab = alice_there.tab()
    yield tab
    tab.close()


@pytest.fixture
def thread(alice_there, tab):
    thread = alice_there.new_thread()
    tab.subscribe(thread)
    return thread


def test_an_answer_is_told_from_message_to_end(tab, thread):
    run = tab.say(thread, "Where can I save?")["run"]

    end = tab.follow(run)

    assert end["type"] == "agent_completed"
    assert end["data"]["final_seq"] == end["seq"] == len(tab.events[thread])
    assert tab.kinds(thread)[:3] == ["message_created", "run_queued", "agent_started"]
    tab.assert_whole()


def test_a_socket_lost_in_the_middle_of_an_answer_is_resumed_where_it_broke(tab, thread):
    run = tab.say(thread, "Where can I save?")["run"]
    for wanted in ("agent_started", "step_started", "step_completed"):
        tab.follow(run, until={wanted})
        tab.close()
        tab.open()

    tab.follow(run)

    tab.assert_whole()


def test_a_second_tab_that_comes_late_sees_the_same_thread(alice_there, tab, thread):
    run = tab.say(thread, "Where can I save?")["run"]
    tab.follow(run)

    late = alice_there.tab()
    late.subscribe(thread)
    late.follow(run)
    late.close()

    assert late.events[thread] == tab.events[thread]


def test_rest_tells_the_same_events_as_the_socket(alice_there, tab, thread):
    tab.follow(tab.say(thread, "Where can I save?")["run"])

    told = alice_there.call("GET", f"threads/{thread}/events/").json()

    assert told["events"] == tab.events[thread]
    assert told["last_seq"] == len(tab.events[thread])
    assert told["more"] is False


def test_server_sent_events_tell_the_same_and_resume_by_id(alice_there, tab, thread):
    tab.follow(tab.say(thread, "Where can I save?")["run"])
    total = len(tab.events[thread])

    def ids(**headers):
        stream = alice_there.call(
            "GET", f"threads/{thread}/events/", headers={"Accept": "text/event-stream", **headers}, stream=True
        )
        numbers = (int(line[4:]) for line in stream.iter_lines() if line.startswith(b"id: "))
        found = [next(numbers)]
        while found[-1] < total:
            found.append(next(numbers))
        stream.close()
        return found

    assert ids() == list(range(1, total + 1))
    assert ids(**{"Last-Event-ID": "3"}) == list(range(4, total + 1))


# --- Killed in the middle --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A question of somebody, and the tab in which they watch it."""

    person: Person
    tab: Recorder
    thread: str
    run: str

    @property
    def events(self) -> list[dict]:
        return [event for event in self.tab.events[self.thread] if event["run"] == self.run]

    def moment_of(self, kinds: set[str]) -> datetime:
        """When the first event of these kinds was stored."""
        return datetime.fromisoformat(next(event["at"] for event in self.events if event["type"] in kinds))


@pytest.fixture
def ask_at_once(house):
    """Questions of several people who have data, in threads of their own, so that all may run side by side."""
    tabs = []

    def ask_at_once(*, people: int, threads: int) -> list[Asked]:
        places = []
        for number in range(people):
            person = house.sign_up(f"crowd{number}")
            assert person.upload("calls.csv", CALLS)["state"] == "ready"
            tab = person.tab()
            tabs.append(tab)
            for _ in range(threads):
                thread = person.new_thread()
                tab.subscribe(thread)
                places.append((person, tab, thread))
        return [Asked(*place, place[1].say(place[2], "Where can I save?")["run"]) for place in places]

    yield ask_at_once
    for tab in tabs:
        tab.close()


def kill(house: House, words: str, number: signal.Signals = signal.SIGKILL) -> datetime:
    """Kill a process of the house and wait until another one runs; answers when it was killed."""
    pid = becomes(lambda: house.pid_of(words))
    os.kill(pid, number)
    moment = datetime.now(UTC)
    becomes(lambda: house.pid_of(words) not in (None, pid))
    return moment


def assert_all_end_once(asked: list[Asked]) -> None:
    """Every run ends with one terminal, what was opened was closed once, and the record says the same as the tab."""
    with ThreadPoolExecutor(len(asked)) as watching:
        list(watching.map(_watch, {id(each.tab): [e for e in asked if e.tab is each.tab] for each in asked}.values()))
    for each in asked:
        told = each.person.call("GET", f"threads/{each.thread}/events/").json()
        assert told["events"] == each.tab.events[each.thread]
        assert [e["type"] for e in each.events if e["type"] in TERMINAL] == ["agent_completed"]
        assert each.events[-1]["data"]["final_seq"] == each.events[-1]["seq"]
        assert _told("step_started", each, "step") == _told("step_completed", each, "step") == ONCE["steps"]
        assert _told("tool_executing", each, "tool") == _told("tool_completed", each, "tool") == ONCE["tools"]
        each.tab.assert_whole()


ONCE = {
    "steps": ["data", "report", "triage"],
    "tools": sorted(TOOLS["savings"]),
}


def _watch(asked: list[Asked]) -> None:
    """Read a tab until each of its runs has ended."""
    for each in asked:
        each.tab.follow(each.run, timeout=60)


def _told(kind: str, asked: Asked, name: str) -> list[str]:
    """What the events of one kind name, in order of the alphabet."""
    return sorted(event.get(name) or event["data"][name] for event in asked.events if event["type"] == kind)


def assert_some_were_in_the_middle(asked: list[Asked], killed_at: datetime) -> None:
    """Work on at least one run had begun when the process was killed, and it ended only afterwards."""
    middle = [each for each in asked if each.moment_of({"agent_started"}) < killed_at < each.moment_of(TERMINAL)]
    assert middle, "nothing was running any more; the kill proved nothing"


def test_a_web_process_killed_in_the_middle_of_answers_loses_and_doubles_nothing(house, ask_at_once):
    asked = ask_at_once(people=2, threads=4)
    asked[-1].tab.follow(asked[-1].run, until={"agent_started"})

    killed_at = kill(house, WEB)

    assert_all_end_once(asked)
    assert_some_were_in_the_middle(asked, killed_at)


@pytest.mark.long
def test_an_agent_worker_that_is_told_to_stop_hands_every_one_of_its_runs_over(house, ask_at_once):
    asked = ask_at_once(people=6, threads=4)
    asked[-1].tab.follow(asked[-1].run, until={"agent_started"})

    killed_at = kill(house, AGENTS, signal.SIGTERM)

    assert_all_end_once(asked)
    assert_some_were_in_the_middle(asked, killed_at)


@pytest.mark.long
def test_a_wiped_redis_costs_time_and_no_event(house, ask_at_once):
    store = redis.Redis.from_url(_redis_url(house))

    asked = ask_at_once(people=2, threads=4)
    for each in asked[::2]:
        each.tab.follow(each.run, until={"agent_started"})
        store.flushall()
        wiped_at = datetime.now(UTC)

    assert_all_end_once(asked)
    assert_some_were_in_the_middle(asked, wiped_at)


@pytest.mark.long
def test_a_redis_killed_and_restarted_costs_time_and_no_event(house, ask_at_once):
    asked = ask_at_once(people=2, threads=4)
    asked[-1].tab.follow(asked[-1].run, until={"agent_started"})

    killed_at = kill(house, "redis-server")
    becomes(house.answers)
    first = asked[0]
    late = Asked(first.person, first.tab, first.thread, first.tab.say(first.thread, "Where can I save now?")["run"])

    assert_all_end_once([*asked[1:], late])
    assert_some_were_in_the_middle(asked, killed_at)


# --- Many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("people", "runs_each"), [(4, 4), pytest.param(10, 10, marks=pytest.mark.long)])
def test_runs_of_many_people_at_once_keep_to_themselves(house, people, runs_each):
    """Each person watches their runs in four threads, loses the socket at random, and sees only what is theirs."""

    def live(number: int) -> Recorder:
        random = Random(number)
        person = house.sign_up(f"p{number}")
        person.upload("calls.csv", CALLS)
        tab = person.tab()
        threads = [person.new_thread() for _ in range(4)]
        for thread in threads:
            tab.subscribe(thread)
        runs = [tab.say(random.choice(threads), f"Where can I save, {number}?")["run"] for _ in range(runs_each)]
        while not _all_ended(tab, runs):
            if random.random() < 0.02:
                tab.open()  # a reload: what was missed comes with the subscription
            else:
                tab.receive()
        tab.close()
        assert {event["run"] for events in tab.events.values() for event in events} == set(runs)
        assert set(tab.events) <= set(threads)
        return tab

    with ThreadPoolExecutor(people) as threads:
        tabs = list(threads.map(live, range(people)))

    for tab in tabs:
        tab.assert_whole()
        assert tab.kinds().count("agent_completed") == runs_each
        assert (
            tab.kinds().count("tool_executing")
            == tab.kinds().count("tool_completed")
            == len(TOOLS["savings"]) * runs_each
        )


def _all_ended(tab, runs):
    ended = {e["run"] for events in tab.events.values() for e in events if e["type"] in TERMINAL}
    return ended >= set(runs)


def _redis_url(house):
    import json

    return json.loads((house.home / "home" / "house.json").read_text())["redis_url"]


# --- What a socket refuses -------------------------------------------------------------------------------------------


def test_a_stranger_cannot_follow_a_thread_nor_stop_its_run(charlie_there, tab, thread):
    run = tab.say(thread, "Where can I save?")["run"]
    stranger = charlie_there.tab()

    for message in (
        {"type": "thread.subscribe", "thread": thread, "after": 0},
        {"type": "message.send", "thread": thread, "text": "Hello", "key": "k"},
        {"type": "run.cancel", "run": run},
    ):
        with pytest.raises(Refused) as refused:
            stranger.ask(message)
        assert refused.value.frame["code"].endswith("not_found")
    stranger.close()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"type": "no.such"}, "message.unknown"),
        ({"type": "thread.subscribe", "thread": "not a uuid"}, "message.invalid"),
        ({"type": "ping", "more": 1}, "message.invalid"),
        ([1, 2], "message.unknown"),
        ({"type": "hello"}, "message.invalid"),
    ],
)
def test_a_frame_that_makes_no_sense_is_answered_and_the_socket_stays(tab, frame, code):
    tab.send(frame)
    tab.ask({"type": "ping", "at": 1})

    assert [f["code"] for f in tab.frames if f["type"] == "error"] == [code]


@pytest.mark.parametrize(
    ("origin", "signed_in", "code"),
    [("same", False, 4401), ("https://evil.example", True, 4403), ("null", True, 4403), (None, True, 4401)],
)
def test_a_socket_of_nobody_or_of_a_foreign_page_is_closed_with_its_code(house, alice_there, origin, signed_in, code):
    recorder = Recorder(house.url, cookie=alice_there.cookie if signed_in else None, origin=origin)

    with pytest.raises(ConnectionClosed) as closed:
        recorder.open()

    assert closed.value.rcvd.code == code


def test_a_ticket_opens_one_socket_and_no_second(house, alice_there):
    ticket = alice_there.call("POST", "ws-ticket/").json()["ticket"]
    first = Recorder(house.url, ticket=lambda: ticket, origin=None)
    assert first.open()["type"] == "ready"
    first.close()

    with pytest.raises(ConnectionClosed) as closed:
        Recorder(house.url, ticket=lambda: ticket, origin=None).open()
    assert closed.value.rcvd.code == 4401


def test_a_flood_of_messages_is_closed(tab):
    def flood():
        for _ in range(1000):
            tab.send({"type": "ping"})
        while True:
            tab.receive()

    with pytest.raises(ConnectionClosed) as closed:
        flood()
    assert closed.value.rcvd.code == 4029


@pytest.mark.long
def test_a_postgresql_killed_in_the_middle_costs_time_and_no_run(house):
    people = [house.sign_up(f"q{number}") for number in range(4)]
    tabs = [person.tab() for person in people]
    runs = []
    for person, tab in zip(people, tabs, strict=True):
        for _ in range(4):
            thread = person.new_thread()
            tab.subscribe(thread)
            runs.append((tab, tab.say(thread, "Where can I save?")["run"]))

    house.kill("postgres -D")
    becomes(house.answers)

    assert [tab.follow(run, timeout=60)["type"] for tab, run in runs] == ["agent_completed"] * len(runs)
    for tab in tabs:
        tab.assert_whole()
        tab.close()
    becomes(lambda: people[0].call("GET", "threads/").status_code == 200, within=60)
