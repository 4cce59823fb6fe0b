"""How a thread's state is drawn."""

import pytest
from playwright.sync_api import expect

from tests.browser.test_reducer import ANSWERED, ASKED, STARTED, WORKED, delta, events

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

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


def test_a_rescue_is_said_and_forgotten_when_work_goes_on(draw):
    rescued = [*STARTED, ("run_recovering", {"attempt": 2, "reason": "worker lost"})]
    page = draw(events(*rescued))
    expect(page.locator(".notice.warning")).to_be_visible()

    draw(events(*rescued, ("agent_thinking", {"thought": "On it", "progress": 1}, "data")))

    expect(page.locator(".notice.warning")).to_be_hidden()


def test_missing_data_is_asked_for_with_its_worth(draw):
    item = {
        "field": "prompt_hash",
        "why": "Repeats cannot be seen.",
        "unlocks": "caching",
        "worth_usd": "12.50",
        "how_to_export": "Switch hashes on.",
    }
    page = draw(events(*STARTED, ("data_requested", {"items": [item]})))

    for text in ("prompt_hash", "Repeats cannot be seen.", "$12.50", "Switch hashes on."):
        expect(page.locator(".missing")).to_contain_text(text)


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
