"""The journal's laws: numbers without gaps, nothing from a stale attempt, nothing after the end."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from django.db import connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase as HypothesisTestCase

from apps.accounts.models import Organization, Plan, User
from apps.conversations import journal
from apps.conversations.journal import Fact, Fence, Fenced
from apps.conversations.models import Run, Step, Thread
from apps.realtime.schema import MalformedEvent

THOUGHT = Fact("agent_thinking", {"thought": "hm", "progress": 10})
CANCELLED = Fact("run_cancelled", {"by": uuid4()})


def live_step(user: User, organization: Organization) -> Fence:
    """A thread with a live run whose one step is held."""
    thread = Thread.objects.create(user=user, organization=organization)
    run = Run.objects.create(
        thread=thread, user=user, organization=organization, workflow="w", goal="g", key=uuid4().hex, state="running"
    )
    Thread.objects.filter(pk=thread.pk).update(live_run=run.pk)
    Step.objects.create(run=run, name="one", agent="a", position=0, state="running", attempt=1)
    return Fence(thread=thread.pk, run=run.pk, step="one", attempt=1)


def numbers(fence: Fence) -> list[int]:
    return [event["seq"] for event in journal.read(thread=fence.thread, after=0, limit=10_000)]


@pytest.fixture
def fence(alice, acme) -> Fence:
    return live_step(alice, acme)


@pytest.mark.django_db(transaction=True)
class TestTogether:
    def test_many_writers_of_one_thread_leave_neither_gap_nor_double(self, fence):
        def write(_):
            for _ in range(25):
                journal.append(fence, THOUGHT, THOUGHT)
            connection.close()

        with ThreadPoolExecutor(8) as writers:
            list(writers.map(write, range(8)))

        assert numbers(fence) == list(range(1, 401))

    def test_nothing_is_written_after_the_end_however_many_still_write(self, fence):
        ended = threading.Event()

        def write(_):
            try:
                while True:
                    journal.append(fence, THOUGHT)
            except Fenced:
                assert ended.wait(10)
            finally:
                connection.close()

        with ThreadPoolExecutor(4) as writers:
            writing = [writers.submit(write, n) for n in range(4)]
            while len(numbers(fence)) < 50:
                pass
            journal.append_to_run(thread=fence.thread, run=fence.run, facts=[CANCELLED])
            ended.set()
            for each in writing:
                each.result(20)

        told = journal.read(thread=fence.thread, after=0, limit=10_000)
        assert told[-1]["type"] == "run_cancelled"
        assert [event["seq"] for event in told] == list(range(1, len(told) + 1))

    def test_a_rescue_shuts_the_old_attempt_out_at_once(self, fence):
        def write(_):
            try:
                while True:
                    journal.append(fence, THOUGHT)
            except Fenced:
                return
            finally:
                connection.close()

        with ThreadPoolExecutor(4) as writers:
            writing = [writers.submit(write, n) for n in range(4)]
            while len(numbers(fence)) < 20:
                pass
            Step.objects.filter(run_id=fence.run).update(attempt=2)
            seen = len(numbers(fence))
            for each in writing:
                each.result(20)

        assert {event["attempt"] for event in journal.read(thread=fence.thread, after=0, limit=10_000)} == {1}
        assert len(numbers(fence)) == seen


def test_a_rollback_takes_the_numbers_back(fence):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        journal.append(fence, THOUGHT)
        raise ZeroDivisionError

    journal.append(fence, THOUGHT)

    assert numbers(fence) == [1]


def test_hints_leave_only_after_the_commit(fence, django_capture_on_commit_callbacks, monkeypatch):
    told = []
    monkeypatch.setattr("apps.realtime.notifier._publish", lambda channel, payload: told.append(channel))

    with django_capture_on_commit_callbacks(execute=True):
        journal.append(fence, THOUGHT)
        assert told == []

    assert told == [f"netra:thread:{fence.thread}"]


@pytest.mark.parametrize(
    "fact",
    [
        Fact("no_such_event", {}),
        Fact("agent_thinking", {"thought": "hm"}),
        Fact("agent_thinking", {"thought": "hm", "progress": 101}),
        Fact("agent_thinking", {"thought": "hm", "progress": 1, "secret": "x"}),
        Fact("tool_completed", {"call": "c", "tool": "t", "status": "perhaps", "seconds": 1, "summary": ""}),
    ],
)
def test_a_malformed_event_is_never_stored(fence, fact):
    with pytest.raises(MalformedEvent):
        journal.append(fence, THOUGHT, fact)

    assert numbers(fence) == []


def test_a_run_has_one_end(fence):
    journal.append_to_run(thread=fence.thread, run=fence.run, facts=[CANCELLED])

    with pytest.raises(Fenced):
        journal.append_to_run(thread=fence.thread, run=fence.run, facts=[CANCELLED])


def test_an_event_knows_its_own_last_number(fence):
    journal.append(fence, THOUGHT)

    (end,) = journal.append_to_run(thread=fence.thread, run=fence.run, facts=[CANCELLED])

    assert end["data"]["final_seq"] == end["seq"] == 2


class TestAnyText(HypothesisTestCase):
    @settings(max_examples=20)
    @given(st.text(max_size=200))
    def test_any_text_can_be_told(self, text):
        Plan.objects.get_or_create(code="free")
        acme = Organization.objects.create(name="Acme")
        fence = live_step(User.objects.create_user(f"{uuid4().hex}@example.com"), acme)

        journal.append(fence, Fact("agent_thinking", {"thought": text, "progress": 0}))

        (event,) = journal.read(thread=fence.thread, after=0, limit=10)
        assert event["data"]["thought"] == text.replace("\x00", "")
