"""A real Chromium, and two sites for it: the modules alone, and a whole house."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from tests.houses import Person

STATIC = Path(__file__).resolve().parents[2] / "apps" / "web" / "static"
MODULES = "http://modules.test"
# The shell draws pages just as the others do, and starts and ends with a fraction of their work.
CHROMIUMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


expect.set_options(timeout=20_000)  # milliseconds; the machine may be busy with other tests


# Not for the whole session: while Playwright runs, its event loop keeps Django's ORM from working in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


def watched(context: BrowserContext) -> Page:
    """A page whose uncaught errors and broken policies are remembered in `page.complaints`."""
    page = context.new_page()
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on(
        "console",
        lambda message: "Content Security Policy" in message.text and page.complaints.append(message.text),
    )
    return page


@pytest.fixture(scope="module")
def workbench(browser) -> Iterator[Page]:
    """A page that can import our modules, straight from the working tree."""

    def serve(route: Route) -> None:
        path = STATIC / route.request.url.removeprefix(MODULES + "/")
        if path.is_file():
            route.fulfill(body=path.read_text(), content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html><title>modules</title>", content_type="text/html")

    context = browser.new_context()
    context.route(f"{MODULES}/**", serve)
    yield watched(context)
    context.close()


@pytest.fixture
def modules(workbench) -> Iterator[Page]:
    """The page, empty: what a test before did in it, stored or left running there is gone."""
    workbench.goto("about:blank")
    workbench.goto(f"{MODULES}/")
    workbench.evaluate("localStorage.clear(); sessionStorage.clear()")
    workbench.complaints.clear()
    yield workbench
    assert workbench.complaints == []


@pytest.fixture
def person(house) -> Person:
    """Somebody new, with an organization of their own."""
    return house.sign_up("dora")


@pytest.fixture
def open_page(browser, house, person) -> Iterator[Callable[..., Page]]:
    """Open a page of the house as `person`; every opened page must stay free of complaints."""
    contexts: list[BrowserContext] = []
    pages: list[Page] = []

    def open_page(path: str = "/", **options) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        context.add_cookies(
            [{"name": name, "value": value, "url": house.url} for name, value in person.session.cookies.items()]
        )
        pages.append(watched(context))
        pages[-1].goto(house.url + path)
        return pages[-1]

    yield open_page
    complaints = [complaint for page in pages for complaint in page.complaints]
    for context in contexts:
        context.close()
    assert complaints == []
