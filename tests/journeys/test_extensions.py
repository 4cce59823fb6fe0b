"""The module in docs/extensions.md, as it is printed there, answers in a house of its own."""

import re
import tempfile
from pathlib import Path

import pytest

from tests.houses import ROOT, House, becomes

pytestmark = [pytest.mark.long, pytest.mark.processes, pytest.mark.xdist_group("extensions")]

PAGE = (ROOT / "docs" / "extensions.md").read_text()


@pytest.fixture(scope="module")
def house():
    with tempfile.TemporaryDirectory(prefix="netra-house-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        (home / "noticeboard.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1])
        house = House(
            home,
            PYTHONPATH=folder,
            NETRA_EXTENSIONS="noticeboard",
            NETRA_WORKFLOW="noticeboard",
            NETRA_SAMPLE_DATA="false",
        )
        try:
            yield house
        finally:
            house.close()


@pytest.fixture(scope="module")
def person(house):
    return house.sign_up("ada")


def ask(person, text):
    """A thread and a run that waits for the name of a reader."""
    thread = person.new_thread()
    run = person.call("POST", f"threads/{thread}/messages/", json={"text": text}).json()["run"]
    becomes(lambda: "data_requested" in events(person, thread))
    return thread, run


def events(person, thread):
    told = person.call("GET", f"threads/{thread}/events/").json()["events"]
    return {event["type"]: event["data"] for event in told}


def answer(person, run, call, value):
    answered = person.call("POST", f"runs/{run}/answer/", json={"call": call, "value": value})
    assert answered.status_code == 200, answered.text


def pinned(house):
    board = house.home / "home" / "noticeboard.txt"
    return board.read_text().splitlines() if board.exists() else []


def test_its_questions_are_answered_over_rest_and_its_tool_is_called_once(house, person):
    thread, run = ask(person, "The milk is out.")

    answer(person, run, "data", {"text": "Ada"})
    becomes(lambda: "approval_requested" in events(person, thread))
    assert "For Ada: The milk is out." not in pinned(house)
    answer(person, run, "pin", "approve")

    done = becomes(lambda: events(person, thread).get("agent_completed"))
    assert done["text"] == "Pinned up: For Ada: The milk is out."
    assert pinned(house).count("For Ada: The milk is out.") == 1


def test_the_next_message_is_the_answer_and_who_denies_has_nothing_pinned_up(house, person):
    thread, run = ask(person, "Never mind.")

    person.call("POST", f"threads/{thread}/messages/", json={"text": "Bob"})
    asked = becomes(lambda: events(person, thread).get("approval_requested"))
    assert asked["arguments"] == {"reader": "Bob", "text": "Never mind."}
    answer(person, run, "pin", "deny")

    done = becomes(lambda: events(person, thread).get("agent_completed"))
    assert done["text"].startswith("Nothing was pinned up:")
    assert "For Bob: Never mind." not in pinned(house)
