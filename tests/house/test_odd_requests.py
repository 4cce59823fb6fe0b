"""Requests that only an attacker sends are refused in sentences, and never fail the house."""

import json
from base64 import b64encode
from io import BytesIO

import pytest
from django.test import Client

from apps.realtime import schema
from tests.conftest import PASSWORD

LOGIN = "/accounts/login/"


@pytest.mark.parametrize("path", ["threads/", "runs/", "datasets/"])
@pytest.mark.parametrize("cursor", [b64encode(b"p=abc").decode(), b64encode(b"p=1").decode(), "x" * 5000])
def test_a_cursor_of_ones_own_making_is_refused(alice, client_for, path, cursor):
    assert client_for(alice).get(f"/api/{path}", {"cursor": cursor}).status_code == 404


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"title": ' * 50_000, '{"title": "\\ud800"}', '{"title": "a\\u0000b"}']
)
def test_a_body_that_no_person_writes_is_refused(alice, client_for, body):
    answer = client_for(alice).post("/api/threads/", body, content_type="application/json")

    assert answer.status_code == 400
    assert answer.json()["code"] in ("request.malformed", "request.invalid")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("analyses/", {"kind": "\ud800"}),
        ("analyses/", {"kind": "savings", "dataset": "half of a character: \ud800"}),
        ("recommendations/01934123-9679-7000-8000-000000004123/outcome/", {"state": "\ud800"}),
        ("threads/", {"title": "\ud800"}),
    ],
)
def test_a_refusal_that_repeats_half_of_a_character_can_be_sent(alice, client_for, path, body):
    answer = client_for(alice).post(f"/api/{path}", json.dumps(body), content_type="application/json")

    assert answer.status_code == 400
    assert answer.json()["code"] == "request.invalid"


def test_a_refusal_spells_the_half_of_a_character_that_it_names(alice, client_for):
    answer = client_for(alice).post("/api/analyses/", '{"kind": "\\ud800"}', content_type="application/json")

    assert "\\ud800" in next(each["detail"] for each in answer.json()["errors"] if each["pointer"] == "/kind")


def test_a_form_in_an_unusable_character_set_is_refused(alice, client_for):
    content_type = "multipart/form-data; boundary=x; charset=idna"
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\na\r\n--x--\r\n'

    answer = client_for(alice).generic("POST", "/api/datasets/", body, content_type=content_type)

    assert answer.status_code == 400


def test_a_form_that_is_mostly_no_file_is_refused(alice, client_for):
    form = {"file": BytesIO(b"a,b"), "mapping": "x" * 1_100_000}

    assert client_for(alice).post("/api/datasets/", form, format="multipart").status_code == 400


@pytest.mark.parametrize("value", ["abcdefghij\\000x", "abc\x01", "x" * 5000, "../../etc", "ABC"])
def test_a_session_cookie_that_we_never_gave_counts_as_none(db, value):
    client = Client(headers={"cookie": f'sessionid="{value}"'})

    assert client.get("/").status_code == 302


@pytest.mark.parametrize("name", ["x" * 300 + "@example.com", "a\x00b@example.com", "\ud800@example.com"])
def test_a_name_that_no_account_has_is_refused_at_the_door(db, name):
    assert Client().post(LOGIN, {"username": name.encode("utf-8", "replace"), "password": "no"}).status_code == 200


def test_failed_sign_ins_count_against_the_account_however_it_is_spelled(alice, settings):
    client = Client()
    for number in range(settings.AXES_FAILURE_LIMIT):
        spelled = "".join(c.upper() if number >> place & 1 else c for place, c in enumerate(alice.email))
        client.post(LOGIN, {"username": f" {spelled}", "password": "wrong"})

    locked = client.post(LOGIN, {"username": "ALICE@example.com", "password": PASSWORD})

    assert locked.status_code != 302


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "message.send", "thread": "01a1fbc3-b898-7816-809e-4a86bbeb25ce", "text": "Hi", "key": "a\x00b"},
        {"type": "ping", "at": float("nan")},
        {"type": "ping", "at": float("inf")},
        {"type": "ping", "at": "x" * 101},
        {"type": "ping", "at": "\ud800"},
    ],
)
def test_a_frame_with_values_that_nothing_could_store_is_invalid(frame):
    with pytest.raises(schema.InvalidMessage):
        schema.client_message(frame)
