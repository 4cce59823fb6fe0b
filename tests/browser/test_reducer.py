"""What a thread looks like is computed from its events alone."""

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

RUN = "run-1"


def events(*facts, run=RUN, begin=1):
    """Numbered events from `(type, data)` or `(type, data, step)`."""
    return [
        {
            "type": fact[0],
            "thread": "t",
            "run": run,
            "seq": begin + place,
            "at": f"2026-01-01T00:00:{place:02}.000Z",
            "data": fact[1],
            **({"step": fact[2], "attempt": 1} if len(fact) > 2 else {}),
        }
        for place, fact in enumerate(facts)
    ]


def delta(text, offset, attempt=1, message="m-2", run=RUN):
    data = {"message": message, "offset": offset, "text": text}
    return {"type": "message_delta", "thread": "t", "run": run, "attempt": attempt, "data": data}


ASKED = [("message_created", {"message": "m-1", "role": "user", "text": "Where?"}), ("run_queued", {"position": 2})]
STARTED = [*ASKED, ("agent_started", {"agent": "supervisor", "workflow": "savings", "goal": "Where?"})]
WORKED = [
    *STARTED,
    ("step_started", {"agent": "data"}, "data"),
    ("agent_thinking", {"thought": "Looking", "progress": 40}, "data"),
    ("tool_executing", {"call": "c", "tool": "overview", "arguments": {"a": 1}}, "data"),
    (
        "tool_completed",
        {"call": "c", "tool": "overview", "status": "succeeded", "seconds": 0.5, "summary": "3"},
        "data",
    ),
    ("step_completed", {"agent": "data", "status": "completed", "summary": "Done", "confidence": None}, "data"),
]
ANSWERED = [
    *WORKED,
    ("agent_completed", {"message": "m-2", "report": "r", "usage": {}, "text": "The answer.", "final_seq": 9}),
]


@pytest.fixture
def shown(modules):
    """The state after some events."""

    def shown(*groups):
        return modules.evaluate(
            """async (events) => {
                const { emptyThread, reduce } = await import("/web/reducer.js");
                return events.reduce(reduce, emptyThread());
            }""",
            [event for group in groups for event in group],
        )

    return shown


@pytest.mark.parametrize(
    ("facts", "phase"),
    [
        (ASKED, "queued"),
        (STARTED, "running"),
        (WORKED, "running"),
        (ANSWERED, "completed"),
        ([*STARTED, ("data_requested", {"items": []})], "waiting"),
        ([*STARTED, ("data_requested", {"items": []}), ("answer_received", {"by": "u", "call": None})], "queued"),
        ([*STARTED, ("run_cancelled", {"by": "u", "final_seq": 4})], "cancelled"),
        ([*ASKED, ("run_cancelled", {"by": "u", "final_seq": 3})], "cancelled"),
        ([*STARTED, ("agent_error", {"code": "c", "detail": "d", "suggestions": [], "support_id": "s"})], "failed"),
    ],
)
def test_a_run_is_in_the_phase_that_its_events_say(shown, facts, phase):
    [run] = shown(events(*facts))["runs"]

    assert run["phase"] == phase


def test_steps_thoughts_and_tool_calls_are_kept_in_order(shown):
    [run] = shown(events(*ANSWERED))["runs"]

    [step] = run["steps"]
    assert (step["agent"], step["status"], step["thoughts"], step["progress"]) == ("data", "completed", ["Looking"], 40)
    [call] = step["calls"]
    assert (call["tool"], call["status"], call["seconds"], call["arguments"]) == (
        "overview",
        "succeeded",
        0.5,
        {"a": 1},
    )
    assert run["answer"]["text"] == "The answer."


def test_events_that_come_twice_or_too_early_change_nothing(shown):
    once = events(*ANSWERED)
    twice = [event for event in once for _ in range(2)]
    early = [once[0], once[3], once[2], *once[1:]]

    assert shown(twice) == shown(once) == shown(early)


def test_an_event_of_a_later_release_counts_and_does_no_harm(shown):
    state = shown(events(*STARTED, ("something_new", {"x": 1}), ("run_cancelled", {"by": "u", "final_seq": 5})))

    assert state["last"] == 5
    assert state["runs"][0]["phase"] == "cancelled"


def test_two_runs_stand_in_the_order_they_were_asked(shown):
    state = shown(events(*ASKED), events(*ASKED, run="run-2", begin=3))

    assert [run["id"] for run in state["runs"]] == ["run-1", "run-2"]


def test_after_a_rescue_nothing_is_shown_twice(shown):
    rescued = [
        *WORKED[:-2],
        ("run_recovering", {"attempt": 2, "reason": "worker lost"}),
        *WORKED[-2:],
    ]
    [run] = shown(events(*rescued))["runs"]

    assert len(run["steps"]) == len(run["steps"][0]["calls"]) == 1
    assert run["recovering"]["attempt"] == 2


class TestLiveText:
    def text(self, shown, *deltas):
        return (shown(events(*STARTED), deltas)["runs"][0]["answer"] or {}).get("text")

    def test_pieces_are_joined(self, shown):
        assert self.text(shown, delta("The ", 0), delta("answer", 4)) == "The answer"

    def test_a_piece_that_comes_twice_is_shown_once(self, shown):
        assert (
            self.text(shown, delta("The ", 0), delta("The ", 0), delta("answer", 4), delta("answer", 4)) == "The answer"
        )

    def test_a_snapshot_replaces_from_its_offset(self, shown):
        assert self.text(shown, delta("The old", 0), delta("new answer", 4)) == "The new answer"

    def test_a_piece_after_a_lost_one_waits_for_the_snapshot(self, shown):
        assert self.text(shown, delta("The ", 0), delta("late", 40)) == "The "
        assert self.text(shown, delta("The ", 0), delta("late", 40), delta("The answer, late", 0)) == "The answer, late"

    def test_offsets_count_characters_not_halves_of_them(self, shown):
        assert self.text(shown, delta("💶💶", 0), delta(" saved", 2)) == "💶💶 saved"
        assert self.text(shown, delta("💶💶x", 0), delta("y", 2)) == "💶💶y"

    def test_a_later_attempt_starts_over_and_an_earlier_one_is_stale(self, shown):
        assert self.text(shown, delta("First", 0), delta("Second", 0, attempt=2)) == "Second"
        assert self.text(shown, delta("Second", 0, attempt=2), delta("stale", 6, attempt=1)) == "Second"

    def test_text_after_the_end_is_ignored(self, shown):
        state = shown(events(*ANSWERED), [delta("late", 0)])

        assert state["runs"][0]["answer"]["text"] == "The answer."

    def test_text_of_an_unknown_run_is_ignored(self, shown):
        assert shown([delta("x", 0)]) == {"last": 0, "runs": []}


def test_a_state_is_never_changed_in_place(modules):
    same = modules.evaluate(
        """async (events) => {
            const { emptyThread, reduce } = await import("/web/reducer.js");
            const freeze = (value) => {
                if (value && typeof value === "object") Object.values(Object.freeze(value)).forEach(freeze);
                return value;
            };
            const reached = events.reduce((state, event) => freeze(reduce(state, event)), freeze(emptyThread()));
            return reached.last;
        }""",
        events(*ANSWERED),
    )

    assert same == len(ANSWERED)
