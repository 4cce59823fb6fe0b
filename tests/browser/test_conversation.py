"""How a thread's state is drawn."""

import pytest
from playwright.sync_api import expect

from tests.browser.test_reducer import (
    ANSWERED,
    ASKED,
    BEGUN,
    DATA_ASKED,
    PUBLISHING,
    REPLIED,
    STARTED,
    WORKED,
    answer_to,
    delta,
    events,
    leave_for,
)

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("house")]

FAILED = [
    *STARTED,
    (
        "agent_error",
        {
            "code": "model.unreachable",
            "detail": "The model <b>did not</b> answer.",
            "retryable": True,
            "suggestions": ["Start the model server."],
            "support_id": "abc123",
        },
    ),
]


@pytest.fixture
def draw(modules):
    """Draw what some events say; the page keeps what was asked of it in `asked`."""
    modules.evaluate(
        """async () => {
            const { ConversationView } = await import("/web/conversation.js");
            const { emptyThread, reduce } = await import("/web/reducer.js");
            document.body.innerHTML = '<div class="log"><div class="column"></div></div>';
            window.asked = [];
            window.fetch = async (path) => new Response(path.startsWith("/messages/") ? "<p>From the server</p>" : "");
            const view = new ConversationView(document.querySelector(".column"), {
                onAsk: (text) => asked.push(["ask", text]),
                onEdit: (text) => asked.push(["edit", text]),
                onAnswer: (run, { call }, value) => {
                    asked.push(["answer", run.id, call, value]);
                    return new Promise((resolve, reject) => Object.assign(window, { accept: resolve, refuse: reject }));
                },
                onReport: () => {},
                now: () => "2026-01-01T00:00:09.000Z",
            });
            let state = emptyThread();
            window.draw = (events, pending = []) => {
                state = events.reduce(reduce, state);
                view.draw(state, pending);
            };
        }"""
    )

    def draw(*groups, pending=()):
        said = [event for group in groups for event in group]
        modules.evaluate("([events, pending]) => draw(events, pending)", [said, list(pending)])
        return modules

    return draw


def test_a_failure_says_what_happened_and_what_to_do(draw):
    page = draw(events(*FAILED))

    failure = page.get_by_role("alert")
    expect(failure).to_contain_text("The model <b>did not</b> answer.")
    expect(failure).to_contain_text("Start the model server.")
    expect(failure).to_contain_text("support id abc123")
    failure.get_by_role("button", name="Try again").click()
    assert page.evaluate("asked") == [["ask", "Where?"]]


def test_drawing_the_same_twice_changes_nothing(draw):
    page = draw(events(*WORKED), [delta("The **answer**\n\n- one\n- two", 0)])
    page.evaluate(
        """() => {
            window.changes = 0;
            const options = { subtree: true, childList: true, attributes: true, characterData: true };
            new MutationObserver((list) => (window.changes += list.length)).observe(document.body, options);
        }"""
    )

    draw()
    draw(events(*WORKED))

    assert page.evaluate("changes") == 0


def test_what_the_reader_opened_stays_open(draw):
    page = draw(events(*WORKED))
    page.locator(".call summary").click()
    page.locator(".thoughts summary").click()

    more = [*WORKED, ("step_started", {"agent": "reporting"}, "reporting")]
    draw(events(*more))

    assert page.locator(".call").get_attribute("open") == ""
    assert page.locator(".thoughts").first.get_attribute("open") == ""
    expect(page.locator(".step")).to_have_count(2)


def test_work_is_open_while_it_lasts_and_folded_when_it_is_done(draw):
    page = draw(events(*WORKED))
    assert page.locator(".work").get_attribute("open") == ""

    draw(events(*ANSWERED))

    assert page.locator(".work").get_attribute("open") is None
    expect(page.locator(".work > summary")).to_have_text("Worked for 6.0 s · 1 step · 1 tool call")


def test_live_text_is_shown_as_it_comes_and_then_as_the_server_renders_it(draw):
    page = draw(events(*STARTED), [delta("Save **$3** with `batch`", 0)])
    expect(page.locator(".prose.caret strong")).to_have_text("$3")
    expect(page.locator(".prose code")).to_have_text("batch")

    draw(events(*ANSWERED))

    expect(page.locator(".prose")).to_have_text("From the server")
    expect(page.locator(".caret")).to_have_count(0)


def test_an_answer_is_announced_once_when_it_is_complete(draw):
    page = draw(events(*WORKED))
    expect(page.locator(".turn")).to_have_attribute("aria-busy", "true")

    draw(events(*ANSWERED))

    expect(page.locator(".turn")).to_have_attribute("aria-busy", "false")


def test_a_rescue_is_said_quietly_where_it_happened(draw):
    rescued = [*WORKED[:-1], ("run_recovering", {"attempt": 2, "reason": "the worker stopped"}, "data", 2)]
    page = draw(events(*rescued))

    expect(page.locator(".step .recovered")).to_have_text("Attempt 2 · the worker stopped")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_skipped_step_is_listed_and_not_counted(draw):
    skipped = [
        *WORKED,
        ("step_started", {"agent": "prices"}, "prices", 0),
        ("step_completed", {"agent": "prices", "status": "skipped", "summary": "Not needed."}, "prices", 0),
        ("agent_completed", {**ANSWERED[-1][1], "final_seq": 11}),
    ]
    page = draw(events(*skipped))
    page.locator(".work > summary").click()

    expect(page.locator(".work > summary")).to_have_text("Worked for 8.0 s · 1 step · 1 skipped · 1 tool call")
    expect(page.locator(".step.skipped .took")).to_have_text("skipped · Not needed.")


def test_missing_data_is_asked_for_with_its_worth(draw):
    page = draw(events(*DATA_ASKED))

    card = page.get_by_role("group", name="Some data is missing")
    for text in ("prompt_hash", "Repeats cannot be seen.", "$12.50", "Switch hashes on.", "Your next message"):
        expect(card).to_contain_text(text)
    expect(page.locator(".turn")).to_have_attribute("aria-busy", "false")


def test_a_reply_stands_below_what_was_asked_for(draw):
    page = draw(events(*REPLIED))

    expect(page.locator(".bubble")).to_have_text(["Where?", "There is none."])
    expect(page.locator(".dialogue > *").first).to_contain_text("Asked for prompt_hash · answered")
    expect(page.locator(".missing")).to_be_hidden()


class TestLeave:
    """The card that asks whether a tool may run."""

    @pytest.mark.parametrize(
        ("reason", "title", "answers"),
        [
            ("unsafe", "May publish run?", {"Allow": "approve", "Do not allow": "deny"}),
            ("size", "May publish run, although it is large?", {"Allow": "approve", "Do not allow": "deny"}),
            ("unknown_effect", "Run publish again?", {"Run it again": "retry", "Leave it": "skip"}),
        ],
    )
    def test_each_reason_has_its_question_and_its_answers(self, draw, reason, title, answers):
        page = draw(events(*BEGUN, leave_for("c", reason=reason)))
        card = page.get_by_role("group", name=title)
        expect(card.get_by_role("button")).to_have_count(2)
        expect(card.locator("time")).to_have_attribute("datetime", "2026-01-02T00:00:00Z")

        for label, value in answers.items():
            card.get_by_role("button", name=label, exact=True).click()
            page.evaluate("refuse(new Error('Once more.'))")
            expect(card.get_by_role("alert")).to_have_text("Once more.")
            assert page.evaluate("asked.at(-1)") == ["answer", "run-1", "c", value]

    def test_it_is_answered_once_until_it_is_refused(self, draw):
        page = draw(events(*BEGUN, leave_for("c")))
        allow, deny = page.get_by_role("button", name="Allow").all()

        allow.click()
        expect(deny).to_be_disabled()
        deny.dispatch_event("click")
        assert page.evaluate("asked.length") == 1

        page.evaluate("refuse(new Error('The run asks nothing of that kind.'))")
        expect(page.get_by_role("alert")).to_have_text("The run asks nothing of that kind.")
        expect(deny).to_be_enabled()

    def test_accepted_it_stays_shut_until_the_event_closes_it_and_the_keyboard_goes_on_there(self, draw):
        asked = [*BEGUN, leave_for("c")]
        page = draw(events(*asked))
        page.get_by_role("button", name="Allow", exact=True).focus()
        page.keyboard.press("Enter")
        page.evaluate("accept()")
        expect(page.get_by_role("button", name="Allow", exact=True)).to_be_disabled()

        draw(events(*asked, answer_to("c"), PUBLISHING))

        expect(page.locator(".asked")).to_have_count(0)
        expect(page.locator(".asked-line")).to_have_text("Whether publish may run · answered")
        expect(page.locator(".asked-line")).to_be_focused()

    def test_a_run_that_is_stopped_takes_its_question_with_it(self, draw):
        page = draw(events(*BEGUN, leave_for("c"), ("run_cancelled", {"by": "u", "final_seq": 6})))

        expect(page.get_by_role("button", name="Allow")).to_have_count(0)
        expect(page.locator(".asked-line")).to_have_text("Whether publish may run · not answered")
        expect(page.locator(".call .dot.cancelled")).to_have_count(1)

    def test_arguments_are_shown_as_text(self, draw):
        call = {"call": "c", "tool": "publish", "arguments": {"to": "<b>all</b>", "count": 3}}
        page = draw(events(*BEGUN, ("tool_executing", call, "data"), leave_for("c", reason="unknown_effect")))

        expect(page.locator(".asked dd")).to_have_text(["<b>all</b>", "3"])

    def test_what_is_being_decided_survives_other_events(self, draw):
        asked = [*BEGUN, ("step_started", {"agent": "prices"}, "prices"), leave_for("c")]
        page = draw(events(*asked))
        page.get_by_role("button", name="Allow", exact=True).focus()

        draw(events(*asked, ("agent_thinking", {"thought": "On it", "progress": 1}, "prices")))

        expect(page.get_by_role("button", name="Allow", exact=True)).to_be_focused()


def test_nothing_spins_on_after_a_stop(draw):
    stopped = [*WORKED[:-2], ("run_cancelled", {"by": "u", "final_seq": 7})]
    page = draw(events(*stopped))

    expect(page.locator(".dot.running")).to_have_count(0)
    expect(page.locator(".notice", has_text="You stopped this.")).to_be_visible()


def test_a_message_on_its_way_is_shown_until_it_is_confirmed(draw):
    page = draw(pending=[{"key": "k", "text": "Where?"}])
    expect(page.locator(".bubble.pending")).to_have_text("Where?")

    draw(events(*ASKED))

    expect(page.locator(".bubble.pending")).to_have_count(0)
    expect(page.locator(".bubble")).to_have_text("Where?")
