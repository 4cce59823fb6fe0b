"""Two people at once in one house see nothing of each other, and the command that says so would see it if they did."""

import json
import os
import subprocess
import sys
from io import StringIO

import psycopg
import pytest
from django.core.management import call_command

from apps.execution.isolation import FOREIGN_MESSAGES, FOREIGN_REQUESTS
from tests.houses import ROOT

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("house")]

# The second person is the first one under another name, and is known by words that are in every question: whatever
# either of them has, the other gets to see. Deleting is left out, or there would soon be nothing to see.
ONE_PERSON = """
import sys
from dataclasses import replace
from django.core.management import execute_from_command_line
import django
django.setup()
from apps.execution import isolation
first = isolation._make_person("first")
twins = [first, replace(first, name="second", marker="by model and feature", ids=set(), latest={})]
isolation._make_person = lambda name: twins.pop(0)
remove, isolation._remove = isolation._remove, lambda person: person is first and remove(person)
isolation.FOREIGN_REQUESTS = [request for request in isolation.FOREIGN_REQUESTS if request[0] != "DELETE"]
execute_from_command_line(["manage.py", *sys.argv[1:]])
"""


@pytest.fixture
def verify(house):
    """Run the command in the house, and answer its exit code and what it printed."""

    def verify(*arguments, home=house.home / "home", script=(str(ROOT / "manage.py"),)):
        done = subprocess.run(
            [sys.executable, *script, "verify_isolation", *arguments],
            env=os.environ | {"NETRA_HOME": str(home), "DATABASE_URL": "", "REDIS_URL": ""},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return verify


def left_over(house):
    """What the command should have taken away again."""
    url = json.loads((house.home / "home" / "house.json").read_text())["database_url"]
    with psycopg.connect(url) as database:
        people = database.execute("select count(*) from accounts_user where email like 'isolation-%'").fetchone()[0]
        places = database.execute(
            "select count(*) from accounts_organization where name like 'isolation-%'"
        ).fetchone()[0]
        events = database.execute(
            "select count(*) from conversations_event where data::text like '%isolation-%'"
        ).fetchone()[0]
    return people, places, events


def test_of_two_people_who_try_everything_neither_sees_anything_of_the_other(house, verify):
    done = verify("--seconds", "2", "--json")

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["crossed"] == []
    tried = found["tried"]
    assert tried["runs"] >= 2 * 3 * 2  # people, conversations, turns
    assert all(tried[what] >= 6 for what in ("rows", "tool_results", "frames", "stream_lines", "answers"))
    # Each of the two at each door, at least once.
    assert tried["foreign_requests"] >= 2 * len(FOREIGN_REQUESTS)
    assert tried["foreign_messages"] >= 2 * len(FOREIGN_MESSAGES)
    assert left_over(house) == (0, 0, 0)


@pytest.mark.long
def test_what_does_cross_is_seen_at_each_door_and_said(house, verify):
    done = verify("--seconds", "2", "--json", script=("-c", ONE_PERSON))

    assert done.returncode == 1, done.stdout + done.stderr
    where = {crossing["where"] for crossing in json.loads(done.stdout)["crossed"]}
    assert where >= {f"{method} {path}" for method, path, *_ in FOREIGN_REQUESTS if method != "DELETE"}
    assert where >= {f"socket {message['type']}" for message in FOREIGN_MESSAGES}
    assert where >= {"socket", "event stream", "GET threads/", "GET runs/", "GET datasets/"}
    assert where >= {"threads", "runs", "messages", "steps", "tool calls", "events"}
    assert left_over(house) == (0, 0, 0)


@pytest.mark.long
def test_a_person_at_the_terminal_is_told_what_was_tried(verify):
    done = verify("--seconds", "0.1")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "foreign requests" in done.stdout
    assert done.stdout.strip().endswith("Nothing crossed.")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "86401"])
def test_a_time_that_is_none_is_refused_with_a_sentence(seconds):
    said = StringIO()

    with pytest.raises(SystemExit) as ended:
        call_command("verify_isolation", "--url", "http://127.0.0.1:9", "--seconds", seconds, stderr=said)

    assert ended.value.code == 2
    assert "--seconds: give a number of seconds above 0" in said.getvalue()


def test_without_a_house_the_remedy_is_said(verify, tmp_path):
    done = verify("--json", home=tmp_path)

    assert done.returncode == 2
    assert json.loads(done.stdout)["code"] == "house.not_running"


def test_a_house_that_does_not_answer_is_said_and_nobody_is_left_over(house, verify):
    done = verify("--json", "--url", "http://127.0.0.1:9")

    assert done.returncode == 2
    assert json.loads(done.stdout)["code"] == "isolation.not_tried"
    assert left_over(house) == (0, 0, 0)
