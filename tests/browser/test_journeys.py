"""What a person does, in a real browser against a real house."""

import os
import re
import signal

import pytest
import requests
from playwright.sync_api import Page, expect

from apps.optimization.sample import write_sample_files
from tests.houses import PASSWORD

pytestmark = [pytest.mark.browser, pytest.mark.processes, pytest.mark.xdist_group("house")]

MODELS = ["gpt-4o", "gpt-4o-mini"]
FEATURES = ["search", "support", "nightly"]


def usage_log(calls: int = 120) -> bytes:
    """A small log: the same questions again and again, and one row that cannot be."""
    lines = ["timestamp,model,input_tokens,output_tokens,feature,prompt"]
    for number in range(calls):
        tokens = -1 if number == 50 else 1000 + number % 7
        at = f"2026-03-{1 + number % 28:02}T10:00:00Z"
        lines.append(f"{at},{MODELS[number % 2]},{tokens},200,{FEATURES[number % 3]},question {number % 30}")
    return "\n".join(lines).encode()


@pytest.fixture
def log_file(tmp_path) -> str:
    path = tmp_path / "march <b>.csv"
    path.write_bytes(usage_log())
    return str(path)


@pytest.fixture
def dataset(person) -> dict:
    return person.upload("march.csv", usage_log())


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your question").fill(text)
    page.keyboard.press("Enter")


def status(page: Page):
    return page.locator(".status")


def answered(page: Page, count: int = 1) -> None:
    """Wait until the last of `count` answers is complete, with its report."""
    # The count first: until the new turn is there, the last one is the turn before it.
    expect(page.locator(".turn")).to_have_count(count, timeout=30_000)
    expect(page.locator(".turn:last-child .report")).to_be_visible(timeout=30_000)
    expect(status(page)).to_contain_text("Done in", timeout=30_000)


def test_from_sign_up_to_a_sourced_answer(browser, house, log_file):
    page = browser.new_page()
    page.goto(house.url)
    page.get_by_role("link", name="Create an account").click()
    page.get_by_label("Your name").fill("Dora")
    page.get_by_label("Organization").fill("Dora Ltd")
    page.get_by_label("E-mail").fill("dora-journey@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()

    expect(page.get_by_role("heading", name="Where does your LLM money go?")).to_be_visible()
    page.set_input_files("#file", log_file)
    expect(page.locator(".upload")).to_contain_text("Ready: 119 calls, 1 row rejected", timeout=20_000)
    expect(page.get_by_label("Dataset")).to_contain_text("119 calls")
    ask(page, "Where can I save?")
    answered(page)

    expect(page).to_have_url(re.compile(r"/t/[0-9a-f-]{36}/$"))
    expect(page.locator(".finding .amount").first).to_contain_text("$")
    expect(page.locator(".chart").first).to_have_attribute("role", "img")
    page.get_by_role("link", name="Open report").click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator(".finding")).not_to_have_count(0)
    page.close()


def test_from_a_sample_to_an_adopted_recommendation(open_page, tmp_path):
    sample = tmp_path / "sample.csv"
    write_sample_files(path=sample, calls=600, seed=7)
    page = open_page("/data/")
    page.set_input_files("#file", str(sample))
    expect(page.locator(".upload")).to_contain_text("Ready: 600 calls", timeout=20_000)
    page.locator("#datasets").get_by_role("link", name="sample.csv").click()
    page.get_by_role("main").get_by_role("link", name="Savings").click()

    expect(page.locator(".headline")).to_contain_text(re.compile(r"^Together: \$[\d.]+ of \$[\d.]+"), timeout=30_000)
    title = page.locator(".advice h3").first.inner_text()
    page.locator(".advice").first.get_by_role("button", name="Adopt").click()

    expect(page.get_by_role("status")).to_contain_text(f"“{title}” is adopted.")
    expect(page.get_by_role("region", name="Adopted")).to_contain_text(title)
    expect(page.locator(".advice h3", has_text=title)).to_have_count(0)


def test_a_run_is_shown_step_by_step(open_page, dataset):
    page = open_page()
    ask(page, "Where can I save?")
    answered(page)

    work = page.locator(".work")
    expect(work).not_to_have_attribute("open", "")
    work.locator("> summary").click()
    expect(work.locator(".step")).to_have_count(3)
    expect(work.locator(".step .dot.completed")).to_have_count(3)
    call = work.locator(".call").first
    call.locator("summary").click()
    expect(call.locator(".call-body dd").first).to_be_visible()
    expect(work.locator(".call .dot.succeeded")).not_to_have_count(0)


def test_a_reload_in_the_middle_of_an_answer_shows_the_same_as_staying(open_page, dataset):
    page = open_page()
    ask(page, "Where can I save?")
    expect(page).to_have_url(re.compile("/t/"))
    page.reload()
    answered(page)
    first = page.locator(".turns").inner_text()

    page.reload()
    answered(page)
    assert page.locator(".turns").inner_text() == first


def test_a_second_tab_sees_the_same_conversation_live(open_page, dataset):
    page = open_page()
    ask(page, "What do I spend, by model and feature?")
    answered(page)
    other = open_page(page.url.split("/", 3)[3].join(["/", ""]))
    answered(other)

    ask(page, "Where can I save?")

    answered(page, count=2)
    # The other tab was reading its answer; it is told, not moved.
    other.get_by_role("button", name="Jump to latest").click()
    answered(other, count=2)
    assert other.locator(".turn:last-child .prose").inner_text() == page.locator(".turn:last-child .prose").inner_text()


@pytest.mark.long
def test_killed_web_and_worker_processes_cost_time_and_nothing_else(open_page, house, dataset):
    page = open_page()
    ask(page, "Where can I save?")
    answered(page)

    house.kill("netra.asgi", signal.SIGKILL)
    ask(page, "Which calls could run as a batch?")
    answered(page, count=2)
    house.kill("-Q agents", signal.SIGKILL)
    ask(page, "Where can I save?")
    answered(page, count=3)

    expect(page.locator(".bubble")).to_have_count(3)
    expect(page.locator(".pendings .bubble")).to_have_count(0)
    expect(status(page)).not_to_contain_text("no live connection", timeout=20_000)


def test_a_question_that_waits_can_be_stopped(open_page, house, dataset):
    worker = house.pid_of("-Q agents")
    os.kill(worker, signal.SIGSTOP)
    try:
        page = open_page()
        ask(page, "Where can I save?")
        expect(status(page)).to_contain_text("Queued")
        page.get_by_role("button", name="Stop this answer").click()
        expect(page.get_by_text("You stopped this.")).to_be_visible()
        expect(page.get_by_role("button", name="Stop this answer")).to_be_hidden()
    finally:
        os.kill(worker, signal.SIGCONT)

    page.get_by_role("button", name="Ask again").click()
    page.keyboard.press("Enter")
    answered(page, count=2)


def test_without_sockets_the_answer_comes_all_the_same(open_page, dataset):
    page = open_page()
    page.add_init_script("window.WebSocket = class { constructor() { throw new Error('no sockets here'); } };")
    page.reload()
    expect(status(page)).to_contain_text("no live connection", timeout=15_000)

    ask(page, "Where can I save?")

    expect(page.locator(".turn .report")).to_be_visible(timeout=30_000)


def test_a_draft_survives_a_reload_and_leaves_with_the_message(open_page, dataset):
    page = open_page()
    question = page.get_by_label("Your question")
    question.press_sequentially("Where can")
    page.reload()
    expect(question).to_have_value("Where can")

    question.fill("Where can I save?")
    question.press("Enter")
    answered(page)
    expect(question).to_have_value("")
    page.reload()
    expect(question).to_have_value("")


def test_shift_and_enter_begin_a_new_line(open_page):
    page = open_page()
    question = page.get_by_label("Your question")
    question.fill("one")
    question.press("Shift+Enter")
    question.press_sequentially("two")

    expect(question).to_have_value("one\ntwo")
    expect(page.locator(".turn")).to_have_count(0)


def test_what_a_person_types_is_text(open_page, dataset):
    page = open_page()
    text = '<img src=x onerror="document.title=1"> <b>bold</b> {{ 7*7 }}'
    ask(page, text)
    answered(page)

    expect(page.locator(".bubble")).to_have_text(text)
    assert page.locator(".turns img, .bubble b, .thread-list b").count() == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.csv", b"", "The file is empty. Export it again and look that it has rows."),
        ("picture.csv", bytes(range(256)) * 40, None),
        ("words.csv", b"a,b\n1,2\n", None),
    ],
)
def test_a_file_that_is_no_log_is_refused_in_a_sentence(open_page, name, content, said):
    page = open_page("/data/")
    page.set_input_files("#file", files=[{"name": name, "mimeType": "text/csv", "buffer": content}])

    why = page.locator(".upload.failed .why")
    expect(why).to_be_visible(timeout=20_000)
    if said:
        expect(why).to_have_text(said)
    assert why.inner_text().endswith((".", '"', ")")) or len(why.inner_text()) > 20


def test_unusual_columns_are_named_where_the_refusal_says(open_page):
    page = open_page("/data/")
    log = {"name": "own.csv", "mimeType": "text/csv", "buffer": b"llm,prompt_len,reply_len\ngpt-4o,1000,100\n"}
    field = page.get_by_label("Column names, where unusual")
    page.set_input_files("#file", files=[log])
    expect(page.locator(".upload.failed .why")).to_contain_text("“Column names, where unusual” of the Data page")
    page.locator("#datasets").get_by_role("link", name="own.csv").click()
    page.get_by_role("link", name="Upload it again with its column names").click()

    field.fill("prompt_len")
    page.set_input_files("#file", files=[log])
    expect(page.locator(".upload.failed .why")).to_contain_text("“prompt_len” names no column. Write field=column")
    field.fill("input_tokens=prompt_len, output_tokens=reply_len, model=llm")
    page.set_input_files("#file", files=[log])
    expect(page.locator(".upload.done")).to_contain_text("Ready: 1 call", timeout=20_000)

    page.set_input_files("#file", files=[log])
    expect(page.locator(".upload.done").last).to_contain_text("It is here already, as “own.csv”: 1 call")


def test_a_dropped_file_is_uploaded_and_can_be_deleted(open_page):
    page = open_page("/data/")
    transfer = page.evaluate_handle(
        """(text) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([text], "dropped.csv", { type: "text/csv" }));
            return transfer;
        }""",
        usage_log().decode(),
    )
    page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})
    expect(page.locator(".upload.done")).to_be_visible(timeout=20_000)

    page.locator("#datasets").get_by_role("link", name="dropped.csv").click()
    expect(page.get_by_text("By feature", exact=True)).to_be_visible()
    expect(page.get_by_text("The number of tokens is negative.")).to_be_visible()
    page.get_by_role("link", name="Data", exact=True).first.click()
    page.get_by_role("button", name="Delete dropped.csv").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="No data yet")).to_be_visible()


def test_conversations_are_renamed_found_archived_and_deleted(open_page, person):
    for title in ("First bill", "Second bill", "Third idea"):
        person.call("POST", "threads/", json={"title": title})
    page = open_page()
    titles = page.locator(".thread:visible > a")
    expect(titles).to_have_count(3)

    page.get_by_label("Search conversations by title").fill("bill")
    expect(titles).to_have_count(2)
    page.get_by_label("Search conversations by title").fill("")

    def act(title: str, action: str) -> None:
        page.locator(".thread", has_text=title).hover()
        page.get_by_label(f"Actions for {title}").click()
        page.get_by_role("button", name=action).locator("visible=true").click()

    act("First bill", "Rename")
    page.get_by_label("New title").fill("March")
    page.keyboard.press("Enter")
    expect(page.locator(".thread", has_text="March")).to_be_visible()
    act("Second bill", "Archive")
    expect(titles).to_have_count(2)
    act("Third idea", "Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(titles).to_have_count(1)
    expect(titles).to_have_text("March")


def test_somebody_who_scrolled_up_is_not_torn_away(open_page, dataset):
    page = open_page(viewport={"width": 900, "height": 500})
    ask(page, "Where can I save?")
    answered(page)
    log = page.locator(".log")
    log.evaluate("log => log.scrollTop = 40")
    page.wait_for_timeout(150)

    ask_elsewhere = "What do I spend, by model and feature?"
    thread = page.url.rstrip("/").rsplit("/", 1)[1]
    page.evaluate(
        """async ([thread, text]) => {
            const { api } = await import("/static/web/journal.js");
            await api(`/api/threads/${thread}/messages/`, { method: "POST", body: { text } });
        }""",
        [thread, ask_elsewhere],
    )
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.get_by_role("button", name="Jump to latest")).to_be_visible(timeout=20_000)
    assert log.evaluate("log => log.scrollTop") == 40

    page.get_by_role("button", name="Jump to latest").click()
    expect(page.get_by_text(ask_elsewhere).last).to_be_in_viewport()


@pytest.mark.long
def test_a_page_left_open_by_somebody_signed_out_says_so(open_page, house, person, dataset):
    page = open_page()
    expect(status(page)).to_contain_text("Ready")
    token = {"csrfmiddlewaretoken": person.session.cookies["csrftoken"]}
    person.session.post(f"{person.url}/accounts/logout/", data=token, allow_redirects=False)

    house.kill("netra.asgi", signal.SIGKILL)

    expect(status(page)).to_contain_text("signed out", timeout=20_000)
    page.get_by_role("link", name="Sign in").click()
    expect(page).to_have_url(re.compile("/accounts/login/"))


def test_no_page_is_wider_than_its_screen(open_page, house, dataset):
    page = open_page()
    ask(page, "Where can I save?")
    answered(page)
    report = page.get_by_role("link", name="Open report").get_attribute("href")
    thread = page.url.removeprefix(house.url)

    for path in ("/", thread, report, "/data/", f"/data/{dataset['id']}/", "/runs/", "/accounts/settings/"):
        page.goto(house.url + path)
        for width in (340, 820, 1440):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)


def test_the_theme_is_chosen_and_kept(open_page):
    page = open_page("/runs/", color_scheme="light")
    background = "getComputedStyle(document.body.parentElement).backgroundColor"
    light = page.evaluate(background)

    page.get_by_role("button", name="Switch between light and dark").click()
    dark = page.evaluate(background)
    page.reload()

    assert page.evaluate(background) == dark != light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_in_both_themes(open_page, dataset, scheme):
    """WCAG AA: 4.5 to 1 for every piece of text on the busiest pages."""
    page = open_page("/", color_scheme=scheme)
    ask(page, "Where can I save?")
    answered(page)
    page.locator(".work > summary").click()

    assert page.evaluate(CONTRASTS) == []


CONTRASTS = """() => {
    const channel = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const parse = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
    const ground = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const color = parse(getComputedStyle(at).backgroundColor);
            if (color[3] > 250) return color;
        }
        return parse("white");
    };
    const poor = [];
    for (const node of document.querySelectorAll("body *")) {
        const words = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!words || !node.checkVisibility() || node.closest(".hidden, :disabled, svg")) continue;
        const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(`${node.className}: ${node.textContent.trim().slice(0, 40)}`);
    }
    return poor;
}"""


def test_everything_can_be_reached_by_keyboard_and_has_a_name(open_page, dataset):
    page = open_page()
    expect(status(page)).to_contain_text("Ready")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("a, button, input:not([type=hidden]), select, textarea, summary")]
            .filter((node) => node.checkVisibility())
            .filter((node) => !(node.textContent.trim() || node.ariaLabel || node.labels?.length || node.title))
            .map((node) => node.outerHTML)"""
    )
    assert unnamed == []

    page.keyboard.press("Tab")
    reached = set()
    for _ in range(40):
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.textContent.trim().slice(0, 30)")
        )
        page.keyboard.press("Tab")
    assert {"Chat", "Data", "Runs", "Settings", "ask", "attach", "dataset", "metadata-only"} <= reached


def test_a_key_made_in_the_settings_works(open_page, house, person):
    page = open_page("/accounts/settings/")
    page.locator("#keys").get_by_label("Name").fill("nightly")
    page.get_by_role("button", name="Create key").click()
    key = page.locator("#new-key").inner_text()

    answer = requests.get(f"{house.url}/api/threads/", headers={"Authorization": f"Bearer {key}"}, timeout=10)
    assert answer.status_code == 200
    page.goto(f"{house.url}/accounts/settings/")
    assert key not in page.content()
