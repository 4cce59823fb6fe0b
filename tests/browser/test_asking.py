"""What a person does when a run asks them, in a real browser against a real house whose agents ask."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_journeys import CONTRASTS, status
from tests.houses import House, becomes

pytestmark = [pytest.mark.long, pytest.mark.browser, pytest.mark.processes, pytest.mark.xdist_group("asking")]


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="netra-asking-") as folder:
        Path(folder).chmod(0o711)
        house = House(
            Path(folder),
            NETRA_SAMPLE_DATA="false",
            NETRA_EXTENSIONS="tests.browser.asking",
            NETRA_WORKFLOW="asking",
        )
        try:
            yield house
        finally:
            house.close()


@pytest.fixture
def ask(person):
    """Ask in the page, and wait until the run rests and waits for an answer."""

    def ask(page: Page, text: str, *, title: str) -> None:
        page.get_by_label("Your question").fill(text)
        page.keyboard.press("Enter")
        expect(card(page, title)).to_be_visible(timeout=20_000)
        becomes(lambda: person.call("GET", "runs/").json()["results"][0]["state"] == "waiting")

    return ask


def card(page: Page, title: str):
    return page.get_by_role("group", name=title)


def same_page(page: Page) -> str:
    return page.url.split("/", 3)[3].join(["/", ""])


def answered(page: Page, text: str) -> None:
    expect(page.locator(".turn .prose")).to_have_text(text, timeout=20_000)
    expect(status(page)).to_contain_text("Done in")


def shown(page: Page) -> str:
    """What the conversation shows, with everything unfolded."""
    page.evaluate("document.querySelectorAll('.turns details').forEach((each) => (each.open = true))")
    return page.locator(".turns").inner_text()


def test_missing_data_is_asked_for_and_the_next_message_is_the_answer(open_page, house, ask):
    page = open_page()
    ask(page, "What does the data say?", title="Some data is missing")
    expect(status(page)).to_contain_text("Waiting for your answer")
    expect(page.get_by_label("Your answer")).to_have_attribute("placeholder", "Answer what is missing")
    expect(page.locator(".thread.current .asks")).to_be_attached()
    page.reload()
    expect(card(page, "Some data is missing").locator("li")).to_have_count(2)
    other = open_page("/runs/?state=waiting")
    expect(other.locator("tbody .tag")).to_have_text("waiting for you")
    other.get_by_role("link", name="What does the data say?").click()

    page.get_by_label("Your answer").fill("There is none.")
    page.keyboard.press("Enter")

    for each in (page, other):
        answered(each, "You said: There is none.")
        expect(each.locator(".bubble")).to_have_text(["What does the data say?", "There is none."])
        expect(each.locator(".asked")).to_have_count(0)
    expect(page.get_by_label("Your question")).to_have_attribute("placeholder", "Ask about your LLM spend")
    expect(page.locator(".thread .asks")).to_have_count(0)
    expect(page.locator(".step.skipped")).to_have_count(2)


def test_leave_is_given_once_and_every_tab_sees_it(open_page, ask):
    page = open_page()
    ask(page, "Please publish this", title="May publish run?")
    other = open_page(same_page(page))
    expect(card(other, "May publish run?")).to_be_visible()

    page.get_by_label("Your question").fill("Something else")
    page.keyboard.press("Enter")
    expect(page.locator("#refusal")).to_contain_text("waits for your leave")
    expect(page.get_by_label("Your question")).to_have_value("Something else")
    other.get_by_role("button", name="Allow", exact=True).focus()
    other.keyboard.press("Enter")

    for each in (page, other):
        answered(each, "publish succeeded")
        expect(each.locator(".asked-line")).to_have_text("Whether publish may run · answered")
    expect(page.locator("#refusal")).to_be_hidden()
    stayed = shown(page)
    page.reload()
    answered(page, "publish succeeded")
    assert shown(page) == stayed == shown(other)


def test_leave_that_is_refused_refuses_the_call_and_not_the_answer(open_page, ask):
    page = open_page()
    ask(page, "Please publish this", title="May publish run?")

    page.get_by_role("button", name="Do not allow").click()

    answered(page, "publish refused")
    expect(page.locator(".call .dot.refused")).to_have_count(1)


def test_a_call_that_was_cut_off_is_run_again_only_if_the_person_says_so(open_page, house):
    page = open_page()
    page.get_by_label("Your question").fill("Please deliver this")
    page.keyboard.press("Enter")
    expect(page.locator(".call .dot.running")).to_be_visible(timeout=20_000)
    becomes(lambda: list(house.home.glob("home/delivery-*")))

    house.kill("-Q agents")

    expect(card(page, "Run deliver again?")).to_be_visible(timeout=20_000)
    expect(page.locator(".asked dd")).to_have_text("team@example.com")
    expect(page.locator(".recovered:visible")).to_have_text("Attempt 2 · the worker stopped; another took over")
    page.get_by_role("button", name="Run it again").click()
    answered(page, "deliver succeeded")


def test_a_run_that_is_stopped_asks_nobody_any_more(open_page, ask):
    page = open_page()
    ask(page, "Please publish this", title="May publish run?")
    other = open_page(same_page(page))
    expect(card(other, "May publish run?")).to_be_visible()

    page.get_by_role("button", name="Stop this answer").click()

    for each in (page, other):
        expect(each.get_by_text("You stopped this.")).to_be_visible()
        expect(each.locator(".asked-line")).to_have_text("Whether publish may run · not answered")


def test_an_answer_that_is_refused_is_told_in_a_sentence(open_page, ask):
    page = open_page()
    ask(page, "Please publish this", title="May publish run?")
    confused = open_page()
    confused.add_init_script(
        """const say = WebSocket.prototype.send;
        WebSocket.prototype.send = function (text) {
            const frame = JSON.parse(text);
            say.call(this, frame.type === "run.answer" ? JSON.stringify({ ...frame, call: "gone" }) : text);
        };"""
    )
    confused.goto(page.url)

    confused.get_by_role("button", name="Allow", exact=True).click()

    expect(card(confused, "May publish run?").get_by_role("alert")).to_contain_text("asks nothing of that kind")
    expect(confused.get_by_role("button", name="Allow", exact=True)).to_be_enabled()


def test_without_sockets_an_answer_goes_all_the_same(open_page, ask):
    page = open_page()
    page.add_init_script("window.WebSocket = class { constructor() { throw new Error('no sockets here'); } };")
    page.reload()
    ask(page, "Please publish this", title="May publish run?")

    page.get_by_role("button", name="Allow", exact=True).click()

    answered(page, "publish succeeded")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_asked_can_be_read_on_every_screen(open_page, ask, scheme):
    page = open_page("/", color_scheme=scheme)
    ask(page, "Show me data, then publish it", title="Some data is missing")
    for title in ("Some data is missing", "May publish run?"):
        expect(card(page, title)).to_be_visible(timeout=20_000)
        assert page.evaluate(CONTRASTS) == []
        for width in (340, 820, 1440):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (title, width)
        if title == "Some data is missing":
            page.get_by_label("Your answer").fill("There is none.")
            page.keyboard.press("Enter")
    assert re.search(r"\d", page.locator(".asked time").inner_text())
