"""The main job, as a client of the REST interface does it: bring calls, ask, get a sourced report."""

import os
import signal
import socket
from urllib.parse import urlsplit

import pytest
import requests

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("house")]

CALLS = b"""timestamp,model,prompt_tokens,completion_tokens,feature
2026-01-01T00:00:00Z,gpt-4o,1000000,0,search
2026-01-01T00:01:00Z,gpt-4o,1000000,0,search
2026-01-01T00:02:00Z,gpt-4o-mini,1000000,0,summary
"""


def test_from_upload_to_a_report_whose_numbers_come_from_the_calls(alice_there):
    dataset = alice_there.upload("calls.csv", CALLS)
    assert (dataset["state"], dataset["rows"], dataset["rejected_rows"]) == ("ready", 3, 0)

    tab = alice_there.tab()
    thread = alice_there.new_thread()
    tab.subscribe(thread)
    end = tab.follow(tab.say(thread, "Where can I save?", dataset=dataset["id"])["run"])
    tab.close()

    assert end["type"] == "agent_completed"
    assert "$5.15" in end["data"]["text"]
    report = alice_there.call("GET", f"reports/{end['data']['report']}.json").json()
    called = {e["data"]["call"] for e in tab.events[thread] if e["type"] == "tool_completed"}
    assert {finding["source"] for finding in report["findings"]} <= called
    quoted = next(source["analysis"] for source in report["sources"] if source["tool"] == "joint_saving")
    assert alice_there.call("GET", f"analyses/{quoted}/").json()["dataset"] == dataset["id"]
    assert report["dataset"]["id"] == dataset["id"]
    markdown = alice_there.call("GET", f"reports/{end['data']['report']}.md").text
    assert "| gpt-4o |" in markdown


def test_progress_of_an_import_reaches_the_uploaders_socket(alice_there):
    tab = alice_there.tab()

    dataset = alice_there.upload("calls.csv", CALLS.replace(b"search", b"find"))
    while not any(f["type"] == "dataset_progress" and f["state"] == "ready" for f in tab.frames):
        tab.receive()
    tab.close()

    assert {f["id"] for f in tab.frames if f["type"] == "dataset_progress"} == {dataset["id"]}


def test_a_small_file_is_imported_while_no_tool_worker_has_time(house, alice_there):
    busy = house.pid_of("tools@%h")
    os.kill(busy, signal.SIGSTOP)
    try:
        dataset = alice_there.upload("calls.csv", CALLS.replace(b"search", b"haste"))
    finally:
        os.kill(busy, signal.SIGCONT)

    assert (dataset["state"], dataset["rows"]) == ("ready", 3)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("empty.csv", b"", "file.empty"),
        ("binary.csv", bytes(range(256)) * 64, "file.binary"),
        ("latin.csv", "zeit;modell;größe\n2026-01-01;gpt-4o;1\n".encode("latin-1"), "file.encoding"),
        ("nothing.csv", b"a,b,c\n1,2,3\n", "file.no_usable_columns"),
    ],
)
def test_a_file_that_cannot_be_read_fails_whole_with_a_sentence(alice_there, name, content, code):
    dataset = alice_there.upload(name, content)

    assert (dataset["state"], dataset["error"]["code"], dataset["rows"]) == ("failed", code, 0)
    assert dataset["error"]["detail"].endswith(".")


def test_a_row_that_cannot_be_is_rejected_with_its_line_and_the_rest_is_kept(alice_there):
    bad = CALLS + b"2026-01-01T00:03:00Z,gpt-4o,-5,10,search\n"

    dataset = alice_there.upload("calls.csv", bad)

    assert (dataset["state"], dataset["rows"], dataset["rejected_rows"]) == ("ready", 3, 1)
    assert dataset["rejects"][0]["line"] == 5


def test_an_upload_that_is_announced_as_too_large_is_refused_before_it_is_sent(house):
    address = urlsplit(house.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as line:
        line.sendall(
            b"POST /api/datasets/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 2147483648\r\n\r\n"
        )
        answer = line.makefile("rb").read().decode()

    assert answer.startswith("HTTP/1.1 413")
    assert "upload.too_large" in answer
    assert house.answers()


def test_html_in_a_message_stays_text(house, alice_there):
    tab = alice_there.tab()
    thread = alice_there.new_thread()
    tab.subscribe(thread)
    run = tab.say(thread, "<img src=x onerror=alert(1)> Where can I save?")["run"]
    end = tab.follow(run)
    tab.close()

    page = alice_there.session.get(f"{house.url}/messages/{tab.events[thread][0]['data']['message']}/").text
    assert "<img" not in page
    assert end["type"] == "agent_completed"


def test_a_key_that_nobody_was_given_opens_nothing(alice_there):
    answer = requests.get(f"{alice_there.url}/api/threads/", headers={"Authorization": "Bearer ntr_wrong"}, timeout=10)

    assert answer.status_code == 401
    assert answer.json()["code"] == "authentication.failed"


def test_an_unknown_path_and_a_wrong_method_are_problems_too(alice_there):
    assert alice_there.call("GET", "nothing/").status_code == 404
    wrong = alice_there.call("PUT", "threads/", json={})
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method.not_allowed")
