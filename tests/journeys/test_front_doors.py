"""What a stranger tries at the front doors of a running house before anybody asks who they are, and how often."""

import pytest
import requests

from apps.realtime.stream import STREAMS
from tests.houses import becomes

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("house")]


def test_nobody_who_asks_says_below_which_path_the_site_lies(house):
    beside = requests.get(f"{house.url}/beside/livez", headers={"Daphne-Root-Path": "/beside"}, timeout=10)

    assert beside.status_code == 404
    assert requests.get(f"{house.url}/livez", headers={"Daphne-Root-Path": "/beside"}, timeout=10).status_code == 200


def test_one_user_keeps_only_so_many_streams_open_and_nobody_else_is_kept_out(house, alice_there, charlie_there):
    def follow(person, thread):
        headers = {"Accept": "text/event-stream"}
        return person.call("GET", f"threads/{thread}/events/", headers=headers, stream=True)

    thread = alice_there.new_thread()
    streams = [follow(alice_there, thread) for _ in range(STREAMS)]
    assert {stream.status_code for stream in streams} == {200}

    refused = follow(alice_there, thread)
    assert (refused.status_code, refused.json()["code"]) == (429, "stream.too_many")
    other = follow(charlie_there, charlie_there.new_thread())
    assert other.status_code == 200

    for stream in (*streams, other):
        stream.close()
    again = becomes(lambda: (stream := follow(alice_there, thread)).status_code == 200 and stream)
    again.close()
    assert "streaming_cancelled" not in house.log()


@pytest.mark.parametrize("form", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_a_form_that_is_none_is_refused_in_a_sentence(alice_there, form):
    refused = alice_there.call("POST", "datasets/", headers={"Content-Type": form}, data=b"no form")

    assert (refused.status_code, refused.headers["Content-Type"]) == (400, "application/problem+json")
