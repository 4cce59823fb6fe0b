"""What a thread looks like is computed from its events alone."""

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("house")]

RUN = "run-1"


def events(*facts, run=RUN, begin=1):
    """Numbered events, a second apart, from `(type, data)`, `(type, data, step)` or `(type, data, step, attempt)`."""
    return [
        {
            "type": fact[0],
            "thread": "t",
            "run": run,
            "seq": begin + place,
            "at": f"2026-01-01T00:00:{place:02}.000Z",
            "data": fact[1],
            **({"step": fact[2], "attempt": fact[3] if len(fact) > 3 else 1} if len(fact) > 2 else {}),
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
ITEM = {
    "field": "prompt_hash",
    "why": "Repeats cannot be seen.",
    "unlocks": "caching",
    "worth_usd": "12.50",
    "how_to_export": "Switch `hashes` on.",
}
BEGUN = [*STARTED, ("step_started", {"agent": "data"}, "data")]
DATA_ASKED = [*BEGUN, ("data_requested", {"items": [ITEM]}, "data")]
REPLIED = [
    *DATA_ASKED,
    ("message_created", {"message": "m-3", "role": "user", "text": "There is none."}),
    ("answer_received", {"by": "u", "call": "data"}),
]
PUBLISHING = ("tool_executing", {"call": "c", "tool": "publish", "arguments": {"to": "all"}}, "data", 2)


def leave_for(call, step="data", reason="unsafe"):
    said = {"call": call, "tool": "publish", "reason": reason, "expires_at": "2026-01-02T00:00:00Z"}
    return "approval_requested", said, step


def answer_to(call):
    return "answer_received", {"by": "u", "call": call}


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
        (DATA_ASKED, "waiting"),
        (REPLIED, "queued"),
        ([*REPLIED, ("agent_thinking", {"thought": "Good", "progress": 5}, "data", 2)], "running"),
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


@pytest.mark.parametrize(("dataset", "progress"), [("d", 40), ("another", None)])
def test_a_running_call_says_how_far_the_analysis_of_its_dataset_is(modules, dataset, progress):
    asked = ("tool_executing", {"call": "j", "tool": "joint_saving", "arguments": {"dataset": "d"}}, "data")
    state = modules.evaluate(
        """async ([events, frame]) => {
            const { emptyThread, measured, reduce } = await import("/web/reducer.js");
            return measured(events.reduce(reduce, emptyThread()), frame);
        }""",
        [events(*BEGUN, asked), {"type": "analysis_progress", "dataset": dataset, "progress": 40}],
    )

    assert state["runs"][0]["steps"][0]["calls"][0]["progress"] == progress


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
        ("run_recovering", {"attempt": 2, "reason": "the worker stopped"}, "data", 2),
        *WORKED[-2:],
    ]
    [run] = shown(events(*rescued))["runs"]

    assert len(run["steps"]) == len(run["steps"][0]["calls"]) == 1
    assert run["steps"][0]["recovered"] == {"attempt": 2, "reason": "the worker stopped"}


def test_a_step_that_is_skipped_is_known_and_keeps_nothing_waiting(shown):
    skipped = [
        *STARTED,
        ("step_started", {"agent": "data"}, "data", 0),
        ("step_completed", {"agent": "data", "status": "skipped", "summary": "Not needed."}, "data", 0),
    ]
    [run] = shown(events(*skipped))["runs"]

    assert (run["phase"], [step["status"] for step in run["steps"]]) == ("running", ["skipped"])


class TestQuestions:
    """What a run asks, from asked to answered or given up."""

    def run(self, shown, *facts):
        [run] = shown(events(*facts))["runs"]
        return run

    def asked(self, run):
        return [entry["status"] for entry in run["dialogue"] if entry["kind"] != "reply"]

    def test_what_is_asked_and_replied_stands_in_order_and_the_first_question_stays(self, shown):
        run = self.run(shown, *REPLIED)

        assert [entry["kind"] for entry in run["dialogue"]] == ["data", "reply"]
        assert run["dialogue"][0]["items"] == [ITEM]
        assert run["dialogue"][1]["text"] == "There is none."
        assert run["question"]["text"] == "Where?"
        assert self.asked(run) == ["answered"]

    def test_a_call_that_waits_for_leave_is_listed_and_goes_on_once_it_is_given(self, shown):
        calls = [
            self.run(shown, *facts)["steps"][0]["calls"][0]["status"]
            for facts in (
                [*BEGUN, leave_for("c")],
                [*BEGUN, leave_for("c"), answer_to("c")],
                [*BEGUN, leave_for("c"), answer_to("c"), PUBLISHING],
            )
        ]

        assert calls == ["waiting", "queued", "running"]

    def test_a_call_of_unknown_effect_is_asked_about_with_its_arguments(self, shown):
        run = self.run(shown, *BEGUN, PUBLISHING, leave_for("c", reason="unknown_effect"))

        assert run["dialogue"][0]["arguments"] == {"to": "all"}
        assert len(run["steps"][0]["calls"]) == 1

    def test_an_answer_closes_the_question_it_names_and_no_other(self, shown):
        run = self.run(shown, *BEGUN, leave_for("a"), leave_for("b"), answer_to("b"))

        assert self.asked(run) == ["open", "answered"]
        assert run["phase"] == "waiting"

    def test_an_answer_that_names_no_tool_call_is_the_data(self, shown):
        asked = [*BEGUN, leave_for("c"), ("data_requested", {"items": [ITEM]}, "data")]

        assert self.asked(self.run(shown, *asked, answer_to("data"))) == ["open", "answered"]

    def test_a_step_waits_on_for_its_other_question_though_it_worked_meanwhile(self, shown):
        run = self.run(shown, *BEGUN, leave_for("a"), leave_for("c"), answer_to("c"), PUBLISHING)

        assert (run["phase"], run["steps"][0]["status"]) == ("waiting", "waiting")

    def test_a_run_with_another_step_at_work_is_running(self, shown):
        both = [*BEGUN, ("step_started", {"agent": "prices"}, "prices"), leave_for("c")]
        done = ("step_completed", {"agent": "prices", "status": "completed", "summary": "Done"}, "prices")

        assert self.run(shown, *both)["phase"] == "running"
        assert self.run(shown, *both, done)["phase"] == "waiting"
        assert self.run(shown, *both, done, answer_to("c"))["phase"] == "queued"

    def test_a_call_that_a_tool_worker_ends_meanwhile_does_not_wake_the_step(self, shown):
        other = {"call": "o", "tool": "count", "status": "succeeded", "seconds": 1.0, "summary": "3"}
        asked = [*BEGUN, ("tool_executing", {"call": "o", "tool": "count", "arguments": {}}, "data"), leave_for("c")]
        ends = ("tool_completed", other, "data")

        assert self.run(shown, *asked, ends)["phase"] == "waiting"
        assert self.run(shown, *asked, answer_to("c"), ends)["phase"] == "queued"

    def test_text_of_the_next_attempt_is_a_sign_of_life_and_that_of_the_last_is_none(self, shown):
        replied = events(*REPLIED)

        assert shown(replied, [delta("Old", 0, attempt=1)])["runs"][0]["phase"] == "queued"
        assert shown(replied, [delta("New", 0, attempt=2)])["runs"][0]["phase"] == "running"

    @pytest.mark.parametrize(
        ("end", "phase"),
        [
            (("run_cancelled", {"by": "u", "final_seq": 6}), "cancelled"),
            (
                ("agent_error", {"code": "run.expired", "detail": "d", "suggestions": [], "support_id": "s"}),
                "failed",
            ),
        ],
    )
    @pytest.mark.parametrize("question", [leave_for("c"), ("data_requested", {"items": [ITEM]}, "data")])
    def test_a_run_that_ends_asks_nothing_any_more(self, shown, question, end, phase):
        run = self.run(shown, *BEGUN, question, end)

        assert (self.asked(run), run["phase"]) == (["closed"], phase)

    def test_a_step_that_ends_asks_nothing_any_more(self, shown):
        failed = ("step_completed", {"agent": "data", "status": "failed", "summary": "Too late"}, "data")

        assert self.asked(self.run(shown, *BEGUN, leave_for("c"), failed)) == ["closed"]

    def test_the_clocks_of_work_stand_while_the_person_is_asked(self, modules):
        def worked(*facts):
            return modules.evaluate(
                """async ([events, now]) => {
                    const { emptyThread, reduce, worked } = await import("/web/reducer.js");
                    const [run] = events.reduce(reduce, emptyThread()).runs;
                    return [run, run.steps[0]].map((each) => worked(each, now));
                }""",
                [events(*facts), "2026-01-01T00:00:59.000Z"],
            )

        ends = ("step_completed", {"agent": "data", "status": "completed", "summary": "Done"}, "data", 2)

        # The run began at second 2 and its step at 3; asked at 4, answered at 6.
        assert worked(*DATA_ASKED) == [2, 1]
        assert worked(*REPLIED) == [2 + 59 - 6, 1 + 59 - 6]
        assert worked(*REPLIED, ends, ("run_cancelled", {"by": "u", "final_seq": 9})) == [2 + 8 - 6, 1 + 7 - 6]


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
        events(*BEGUN, leave_for("a"), answer_to("a"), PUBLISHING, *ANSWERED[len(BEGUN) :]),
    )

    assert same == len(ANSWERED) + 3
