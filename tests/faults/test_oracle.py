"""The oracle sees what it is there to see: each rule broken once, on a story that is otherwise whole."""

import copy

import pytest

from tests.faults import oracle

AT = "2026-01-31T12:00:{:02d}.000Z"


def event(seq, kind, *, run="r1", step=None, **data):
    told = {"type": kind, "thread": "t", "run": run, "seq": seq, "at": AT.format(seq), "data": data}
    return told if step is None else told | {"step": step, "attempt": 1}


def story(run="r1"):
    return [
        event(1, "message_created", run=run),
        event(2, "run_queued", run=run),
        event(3, "agent_started", run=run),
        event(4, "step_started", run=run, step="first"),
        event(5, "tool_executing", run=run, step="first", call="c"),
        event(6, "tool_completed", run=run, step="first", call="c", status="succeeded"),
        event(7, "step_completed", run=run, step="first"),
        event(8, "agent_completed", run=run, final_seq=8),
    ]


def without(number):
    return [each for each in story() if each["seq"] != number]


def with_more(*more):
    return [*story()[:-1], *more, story()[-1]]


def test_a_whole_story_is_in_order():
    assert list(oracle.check_numbers({"t": story()})) == []
    assert list(oracle.differences("tab", story(), story())) == []


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        (without(5), "numbers"),
        (without(1), "begins with"),
        (without(7), "opened and closed differ"),
        (without(6), "opened and closed differ"),
        (with_more(event(7, "agent_started")), "said twice"),
        (with_more(event(7, "step_started", step="first")), "opened 2 times"),
        (with_more(event(7, "tool_executing", step="first", call="c")), "opened 2 times"),
        ([*story(), event(9, "agent_thinking", step="first")], "follows its terminal"),
        ([*story(), event(9, "agent_error", final_seq=9)], "follows its terminal"),
        ([*story()[:-1], event(8, "agent_completed", final_seq=7)], "final_seq is 7"),
    ],
)
def test_a_broken_story_is_told(events, problem):
    assert problem in " ".join(oracle.check_numbers({"t": events}))


def test_what_a_tab_missed_or_saw_twice_or_otherwise_is_told():
    other = copy.deepcopy(story())
    other[5]["data"]["status"] = "failed"

    for seen in (without(5), [*story(), story()[-1]], other):
        assert len(list(oracle.differences("tab", seen, story()))) == 1


def made(*, kind="idempotent", effect=True, key="k", at=0.0):
    return {"kind": kind, "effect": effect, "key": key, "call": "c", "at": at}


def ended(status):
    return event(6, "tool_completed", step="first", call="c", status=status)


@pytest.mark.parametrize(
    ("calls", "status", "answers", "unknown"),
    [
        ([made()], "succeeded", [], set()),
        ([made(), made(effect=False)], "succeeded", [], set()),
        ([made(kind="unsafe")], "unknown", ["skip"], {"c"}),
        ([made(kind="unsafe"), made(kind="unsafe")], "succeeded", ["retry"], {"c"}),
        ([made(kind="pure", effect=False), made(kind="pure", effect=False)], "failed", [], set()),
        ([made(effect=False)], "failed", [], set()),
        ([made(at=4e9)], "unknown", [], set()),
    ],
)
def test_an_effect_that_happened_once_or_was_shown_as_unknown_is_right(calls, status, answers, unknown):
    assert list(oracle.check_call(calls, ended(status), answers, unknown)) == []


@pytest.mark.parametrize(
    ("calls", "status", "problem"),
    [
        ([made(kind="queryable"), made(kind="queryable")], "succeeded", "2 effects"),
        ([made(kind="unsafe"), made(kind="unsafe", effect=False)], "unknown", "without being asked"),
        ([made(), made(key="other")], "succeeded", "under 2 keys"),
        ([made(effect=False)], "succeeded", "had no effect"),
        ([made(kind="unsafe")], "failed", "told as failed"),
        ([made(), made(effect=False, at=4e9)], "succeeded", "after its result was journaled"),
        ([made(at=4e9)], "succeeded", "after its result was journaled"),
        ([made(), made(effect=False, at=4e9)], "unknown", "after its result was journaled"),
    ],
)
def test_an_effect_that_was_doubled_or_lied_about_is_told(calls, status, problem):
    assert problem in " ".join(oracle.check_call(calls, ended(status), [], set()))


def test_a_call_that_nothing_closes_is_told():
    assert list(oracle.check_call([made()], None, [], set())) == ["it was made, and no event closes it"]


def runs_at_once(*spans):
    """Starts and ends of runs, in seconds."""
    told = []
    for number, (start, end) in enumerate(spans):
        told += [
            event(start, "agent_started", run=f"r{number}"),
            event(end, "agent_completed", run=f"r{number}", final_seq=end),
        ]
    return told


def test_runs_at_once_are_counted_from_their_events():
    assert oracle.most_at_once(runs_at_once((1, 4), (2, 5), (4, 6))) == 2
    assert oracle.most_at_once(runs_at_once(*[(number, 30) for number in range(6)])) == 6


@pytest.mark.parametrize(
    "rests",
    [
        event(3, "approval_requested", run="a", step="first"),
        event(3, "agent_thinking", run="a", step="first", thought="Waiting 3 s: it is left alone"),
    ],
)
def test_a_run_that_waits_leaves_its_place_until_it_goes_on(rests):
    first = [
        event(1, "agent_started", run="a"),
        rests,
        event(6, "answer_received", run="a"),
        event(8, "agent_thinking", run="a", step="first", thought="first, act 1 of 1"),
        event(20, "agent_completed", run="a", final_seq=20),
    ]

    assert oracle.most_at_once([*first, *runs_at_once((4, 7))]) == 1
    assert oracle.most_at_once([*first, *runs_at_once((4, 9))]) == 2
